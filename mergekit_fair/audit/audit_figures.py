"""The figures of an audit, from the evaluations that it has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_fair.audit.audit_results import (
    MERGE,
    AuditedModel,
    AuditedTask,
    AuditResults,
    CheckedRequirement,
)
from mergekit_fair.audit.audited_models import ModelToAudit
from mergekit_fair.audit.requirement import Requirement
from mergekit_fair.errors import ConfigError, MeasurementError
from mergekit_fair.evaluation.benchmarks.benchmark_items import MEANS, benchmark_named
from mergekit_fair.evaluation.compare_runs import compared_files, judged_tasks
from mergekit_fair.evaluation.eval_folder import samples_name
from mergekit_fair.evaluation.evaluate import (
    AnyEvaluation,
    BenchmarkEvaluation,
    MultiEvaluation,
    read_evaluation,
    versions,
    warnings_of,
)
from mergekit_fair.evaluation.evidence import require_samples
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.fairness import METRICS, MetricSettings
from mergekit_fair.fairness.intervals import Interval
from mergekit_fair.fairness.measurement import GroupRates
from mergekit_fair.fairness.metrics import GROUP_RATES, HEADLINE_GAPS
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.merging.recipe import Recipe

_OF_A_VIEW = ("selection_rate", *HEADLINE_GAPS)


@dataclass(frozen=True)
class AuditSettings:
    """What is measured, and how.

    Attributes:
        request: tasks and how models are run.
        metrics: how figures are read.
        split: of the documents.
        device: torch device, or `auto`.
        requirements: see `Requirement`.
        merged: the folder of the merge, if it exists.
    """

    request: EvaluationRequest
    metrics: MetricSettings
    split: str = "report"
    device: str = "auto"
    requirements: tuple[Requirement, ...] = ()
    merged: Path | None = None


@dataclass(frozen=True)
class TaskAbout:
    """What the evaluations of a task do not say.

    Attributes:
        directions: metric → `higher` or `lower`, as the task says.
        metrics: the names of all that it measures.
        sampled: which of its documents were measured; None: all.
    """

    directions: Mapping[str, str]
    metrics: tuple[str, ...]
    sampled: str | None


def audit_results(
    recipe: Recipe,
    models: Sequence[ModelToAudit],
    ways: Mapping[str, str],
    folders: Mapping[str, Path],
    settings: AuditSettings,
    tasks: Mapping[str, TaskAbout],
) -> AuditResults:
    """Figures of every model, and the merge minus each of the others."""
    measured = [task for task in tasks if (folders[MERGE] / f"{task}.json").is_file()]
    if not measured:
        raise MeasurementError(
            "none of the tasks has a number of each document to compare",
            where="--tasks",
            got=list(tasks),
            fix="use a task of `mergekit-fair tasks-dir`, or one with a metric such as acc",
        )
    parents = [model.name for model in models if model.name != MERGE]
    pairs = {
        (task, parent): compared_files(
            task,
            {name: folders[name] / samples_name(task) for name in (parent, MERGE)},
            settings.metrics,
        )
        for task in measured
        for parent in parents
    }
    judged = judged_tasks(pairs, settings.metrics)
    evaluations = {
        task: {name: _read(folder / f"{task}.json") for name, folder in folders.items()}
        for task in measured
    }
    found = {
        task: _task(task, tasks[task], evaluations[task], {p: judged[task, p] for p in parents})
        for task in measured
    }
    left_out = [task for task in tasks if task not in measured]
    if left_out:
        said = f"has no number of each document, and is left out: {', '.join(left_out)}"
        first = measured[0]
        found[first] = found[first].model_copy(update={"warnings": (*found[first].warnings, said)})
    return AuditResults(
        recipe=recipe.where,
        method=recipe.method,
        split=settings.split,
        limit=settings.request.limit,
        confidence=settings.metrics.confidence,
        models={
            model.name: AuditedModel(
                kind=model.kind,
                source=model.source or recipe.where,
                digest=None if model.source is None else model.digest,
                way=ways[model.name],
            )
            for model in models
        },
        tasks=found,
        requirements=tuple(_checked(each, found) for each in settings.requirements),
        versions=dict(versions()),
    )


def _read(path: Path) -> AnyEvaluation:
    evaluation = read_evaluation(path)
    require_samples(path.parent / samples_name(path.stem), evaluation)
    return evaluation


def _task(
    task: str,
    about: TaskAbout,
    evaluations: Mapping[str, AnyEvaluation],
    pairs: Mapping[str, Mapping[str, Any]],
) -> AuditedTask:
    merge = evaluations[MERGE]
    unread = [name for name in about.metrics if name not in merge.metrics]
    is_plain = isinstance(merge, BenchmarkEvaluation) and merge.benchmark == MEANS
    said = [
        *([f"no numbers in [0, 1], left out: {', '.join(unread)}"] if is_plain and unread else []),
        *_warnings({name: warnings_of(each) for name, each in evaluations.items()}),
        *(text for pair in pairs.values() for text in (*pair["warnings"], *pair["notes"])),
    ]
    return AuditedTask.from_dict(
        {
            "n": merge.n,
            "clusters": merge.clusters,
            "models": {
                name: {metric: each.to_dict() for metric, each in of.metrics.items()}
                for name, of in evaluations.items()
            },
            "groups": {
                name: {
                    group: {metric: each.to_dict() for metric, each in metrics.items()}
                    for group, metrics in _by_group(of).items()
                }
                for name, of in evaluations.items()
            },
            "group_sizes": {
                group: {
                    key: size
                    for key in ("n", "clusters")
                    if (size := getattr(one, key, None)) is not None
                }
                for group, one in _groups_of(merge).items()
            },
            "differences": {parent: pair["models"][MERGE] for parent, pair in pairs.items()},
            "group_differences": {
                parent: pair["groups"].get(MERGE, {}) for parent, pair in pairs.items()
            },
            **_of_views(evaluations, pairs),
            "sampled": about.sampled,
            "better": _better(merge, about),
            "warnings": list(dict.fromkeys(said)),
        },
        where=task,
    )


def _of_views(
    evaluations: Mapping[str, AnyEvaluation], pairs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What is said of each class or label, and whose the worst gaps are."""
    measured = {n: each for n, each in evaluations.items() if isinstance(each, MultiEvaluation)}
    if not measured:
        return {}
    return {
        "views": {
            name: {
                view: {
                    "base_rate": Interval(value=of.labels.base_rate).to_dict(),
                    **{
                        metric: of.metrics[metric].to_dict()
                        for metric in ("selection_rate", *HEADLINE_GAPS)
                    },
                }
                for view, of in each.views.items()
            }
            for name, each in measured.items()
        },
        "view_differences": {parent: pair["views"][MERGE] for parent, pair in pairs.items()},
        "worst_view": {name: each.worst_view for name, each in measured.items()},
        "deciding": {
            name: {gap: of.to_dict() for gap, of in each.deciding.items()}
            for name, each in measured.items()
        },
    }


def _warnings(models: Mapping[str, Sequence[str]]) -> list[str]:
    """Each once: as it is where all models have it, else after the names of those that do."""
    texts = dict.fromkeys(text for said in models.values() for text in said)
    of = {text: [name for name, said in models.items() if text in said] for text in texts}
    return [
        text if len(names) == len(models) else f"{', '.join(names)}: {text}"
        for text, names in of.items()
    ]


def _better(evaluation: AnyEvaluation, about: TaskAbout) -> dict[str, str]:
    if isinstance(evaluation, MultiEvaluation):
        return {name: metric.better for name, metric in MULTI_METRICS.items()}
    if not isinstance(evaluation, BenchmarkEvaluation):
        return {name: metric.better for name, metric in METRICS.items() if metric.better}
    if evaluation.benchmark == MEANS:
        return {
            name: about.directions[name] for name in evaluation.metrics if name in about.directions
        }
    return benchmark_named(evaluation.benchmark).better


def _by_group(evaluation: AnyEvaluation) -> dict[str, dict[str, Interval]]:
    """Group → metric → figure; without limits where the evaluation has none."""
    if isinstance(evaluation, BenchmarkEvaluation):
        return {group: dict(one.metrics) for group, one in evaluation.groups.items()}
    if isinstance(evaluation, MultiEvaluation):
        return {
            group: {
                f"{view}.{rate}": figure
                for view, measured in evaluation.views.items()
                for rate, figure in _rates(measured.groups[group]).items()
            }
            for group in _groups_of(evaluation)
        }
    return {group: _rates(one) for group, one in evaluation.groups.items()}


def _groups_of(evaluation: AnyEvaluation) -> Mapping[str, Any]:
    """Group → how many rows it has; of classes and labels any view says it."""
    if isinstance(evaluation, MultiEvaluation):
        return next(iter(evaluation.views.values())).groups
    return evaluation.groups


def _rates(group: GroupRates) -> dict[str, Interval]:
    return {
        rate: Interval(value=getattr(group, rate)) for rate in GROUP_RATES if hasattr(group, rate)
    }


def _checked(requirement: Requirement, tasks: Mapping[str, AuditedTask]) -> CheckedRequirement:
    task = tasks.get(requirement.task)
    if task is None:
        raise ConfigError(
            "is about a task that has no number of each document",
            where=f"--require {requirement.text}",
            got=requirement.task,
            allowed=list(tasks),
        )
    of, group, metric = task, requirement.group, requirement.metric

    def figure(name: str) -> float | None:
        figures = of.models[name] if group is None else of.groups[name].get(group, {})
        return figures.get(metric, Interval()).value

    if group is None and all(metric not in figures for figures in of.models.values()):
        raise ConfigError(
            "is about a metric that is no number in [0, 1] of each document",
            where=f"--require {requirement.text}",
            got=metric,
            allowed=list(of.models[MERGE]),
        )
    of_model = None if requirement.model is None else figure(requirement.model)
    difference = None
    is_sized = requirement.of_size or requirement.of_models_size
    if requirement.model is not None and not is_sized:
        pairs = of.differences[requirement.model]
        if group is not None:
            difference = of.group_differences[requirement.model].get(group, {}).get(metric)
        elif metric in pairs:
            difference = pairs[metric]
    return CheckedRequirement(
        text=requirement.text,
        met=requirement.is_met(figure(MERGE), of_model),
        value=requirement.left(figure(MERGE)),
        bound=requirement.bound(of_model),
        difference=difference,
    )
