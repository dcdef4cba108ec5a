"""README.md of a merged model on the Hub: who was measured, what was found, what was not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.escaping import Raw, in_markdown, one_line, printable
from mergekit_fair.evaluation.evaluate import Evaluation, FairEvaluation, warnings_of
from mergekit_fair.merging.methods.fair_head_method import FairHeadMethod
from mergekit_fair.report.page import budget_text, template
from mergekit_fair.report.power_text import power_sentence
from mergekit_fair.report.sweep_tables import (
    comparison_table,
    groups_table,
    is_of_views,
    metrics_of,
    points_table,
    views_table_of_points,
)
from mergekit_fair.report.tables import as_markdown, short
from mergekit_fair.report.verdict_text import MARKED, verdict
from mergekit_fair.schema import parse_yaml_loosely
from mergekit_fair.sweep.head_block import MEMBER
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import Choice, LevelRecord, SweepResults, tasks_of

_TAGS = ("mergekit", "merge", "mergekit-fair", "fairness")
# What the class of a checkpoint ends with → the Hub's name of its use, and of the task measured.
_USES = {
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "ForCausalLM": "text-generation",
}
# Metrics that the Hub knows by another name.
_HUB_NAMES = {
    "acc": "accuracy",
    "dpd": "demographic_parity_difference",
    "eod": "equalized_odds_difference",
    "worst_group_acc": "worst_group_accuracy",
}


def card_of_sweep(
    results: SweepResults,
    *,
    name: str,
    recipe: str,
    config: Mapping[str, Any],
    pictures: Sequence[str],
    fingerprint: str = "",
) -> str:
    """The card of the point that a sweep has chosen.

    Args:
        results: in which a point was chosen.
        name: of the model.
        recipe: the merge recipe, YAML.
        config: the model's config.json, or an adapter's adapter_config.json.
        pictures: paths of pictures beside the card.
        fingerprint: digest of the model's files; empty where it is not known.
    """
    own = results.chosen
    comparison = as_markdown(comparison_table(results.comparison)) if results.comparison else None
    return _rendered(
        results,
        name=name,
        recipe=recipe,
        config=config,
        own=[own] if own is not None and own.evaluation is not None else [],
        is_sweep=True,
        verdicts=verdict(results).splitlines(),
        comparison=comparison,
        pictures=[Raw(picture) for picture in pictures],
        budget=budget_text(results),
        fingerprint=fingerprint,
    )


def card_of_evaluations(
    evaluations: Sequence[FairEvaluation],
    *,
    name: str,
    recipe: str,
    config: Mapping[str, Any],
    fingerprint: str = "",
) -> str:
    """The card of a model that `eval` has measured.

    Args:
        evaluations: one a task, of the same split.
        name: of the model.
        recipe: the merge recipe, YAML; empty for a model that is not merged.
        config: the model's config.json, or an adapter's adapter_config.json.
        fingerprint: digest of the model's files; empty where it is not known.
    """
    first, *others = evaluations
    own = PointResult(
        id="model",
        kind="model",
        label=name,
        settings={},
        lambda_=None,
        lambda_eff=None,
        split=first.split,
        evaluation=first,
        tasks={evaluation.task: evaluation for evaluation in others},
    )
    # A sweep of one model that nobody has chosen.
    results = SweepResults(
        sweep="",
        task=first.task,
        confidence=first.confidence,
        level=LevelRecord(to="", rate=0.0),
        selected_on="validation",
        points=[],
        selected=Choice(
            label=name, id="model", feasible=True, rule="", reason="", candidates=(0, 0), ties=()
        ),
        worst_group=None,
        transfer=None,
        report=[own],
        report_opened_for_another_selection=False,
        comparison={},
        warnings=[],
        versions={},
    )
    return _rendered(
        results,
        name=name,
        recipe=recipe,
        config=config,
        own=[own],
        is_sweep=False,
        fingerprint=fingerprint,
    )


def _rendered(
    results: SweepResults,
    *,
    name: str,
    recipe: str,
    config: Mapping[str, Any],
    own: Sequence[PointResult],
    is_sweep: bool,
    verdicts: Sequence[str] = (),
    comparison: Raw | None = None,
    pictures: Sequence[Raw] = (),
    budget: str | None = None,
    fingerprint: str = "",
) -> str:
    tasks = tasks_of(own)
    tables = [points_table(results, results.report, task) for task in tasks]
    of_views = [task for task in tasks if is_of_views(own, task)]
    views = [views_table_of_points(results, results.report, task) for task in of_views]
    groups = [groups_table(own, task) for task in tasks]
    merge = _merge(recipe)
    evaluation = own[0].evaluation if own else None
    used_by = None if evaluation is None else evaluation.used_by_selection
    # Markdown: `finalize` escapes every value.
    return template("card.md", autoescape=False, finalize=in_markdown).render(
        name=name,
        metadata=Raw(_metadata(name, merge, config, own)),
        merge=merge,
        is_adapter=_is_adapter(config),
        recipe=Raw(printable(recipe.rstrip())),
        fence=Raw("`" * max([3, *(len(run) + 1 for run in re.findall("`+", recipe))])),
        tasks=tasks,
        tables=[(table.caption, as_markdown(table), table.foot) for table in tables],
        groups=[(table.caption, as_markdown(table)) for table in (*views, *groups)],
        of_views=of_views,
        labels_dpd=_labels_dpd(evaluation),
        comparison=comparison,
        detectable=None if results.detectable is None else power_sentence(results.detectable),
        marked=MARKED,
        confidence=f"{results.confidence * 100:.4g} %",
        verdicts=verdicts,
        pictures=pictures,
        budget=budget,
        not_met=merge.get("not_chosen") or _not_met(results),
        fingerprint=fingerprint,
        results=results if is_sweep else None,
        evaluation=evaluation,
        used_by=used_by.rule if used_by is not None else None,
        split=results.report[0].split,
        sizes=_sizes(evaluation),
        warnings=_warnings(own, results),
    )


def _not_met(results: SweepResults) -> str | None:
    """Why a sweep's rule does not hold of its choice; None if it does."""
    return None if results.selected.feasible else results.selected.reason


def _merge(recipe: str) -> dict[str, Any]:
    """What the recipe merges: method, base, groups, and whether a fair head."""
    if not recipe:
        return {}
    content, _ = parse_yaml_loosely(recipe, "the model's recipe")
    parameters = [
        item.get("parameters") or {}
        for item in content.get("models") or ()
        if isinstance(item, Mapping)
    ]
    method = str(content.get("merge_method"))
    members = [str(each["group"]) for each in parameters if "group" in each]
    vectors = [
        name for name in members if method == FairHeadMethod.spec.name or name.startswith(MEMBER)
    ]
    block = content.get("fairness")
    said = block.get("not_chosen") if isinstance(block, Mapping) else None
    return {
        "not_chosen": f"the sweep that measured this merge did not choose it: {said}"
        if said
        else None,
        "method": method,
        "base": str(content.get("base_model") or ""),
        "groups": [name for name in members if name not in vectors],
        "has_head": bool(vectors),
    }


def _metadata(
    name: str, merge: Mapping[str, Any], config: Mapping[str, Any], own: Sequence[PointResult]
) -> str:
    """The front matter, by huggingface_hub: with the metrics as a model index."""
    from huggingface_hub import EvalResult, ModelCardData

    architecture = str(next(iter(config.get("architectures") or ()), ""))
    use = next((use for end, use in _USES.items() if architecture.endswith(end)), None)
    metrics = [
        EvalResult(
            task_type=use or "other",
            dataset_type=one_line(task),
            dataset_name=one_line(task),
            dataset_split=one_line(point.split),
            metric_type=_HUB_NAMES.get(metric.name, metric.name),
            metric_name=metric.title,
            metric_value=round(float(value), 6),
        )
        for point in own
        for task in point.evaluations
        for metric in metrics_of([point], task)
        if (value := point.value(f"{task}/{metric.name}")) is not None
    ]
    base, is_adapter = merge.get("base", ""), _is_adapter(config)
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists()
    data = ModelCardData(
        base_model=base if on_hub else None,
        base_model_relation=("adapter" if is_adapter else "merge") if on_hub else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=use,
        tags=list(_TAGS),
        model_name=one_line(name),
        eval_results=metrics or None,
    )
    return str(data.to_yaml())


def _is_adapter(config: Mapping[str, Any]) -> bool:
    return "peft_type" in config


def _sizes(evaluation: FairEvaluation | None) -> str:
    """`Female 700, Male 1,300`: nobody else was measured."""
    if evaluation is None:
        return ""
    views = [evaluation] if isinstance(evaluation, Evaluation) else [*evaluation.views.values()]
    groups = views[0].groups
    return ", ".join(f"{name} {group.n:,}" for name, group in groups.items())


def _labels_dpd(evaluation: FairEvaluation | None) -> str:
    """The gap of the labels themselves, in words; nothing where it is undefined."""
    if evaluation is None or isinstance(evaluation, Evaluation):
        dpd = None if evaluation is None else evaluation.labels.dpd
        return "" if dpd is None else f": their own DPD is {dpd:.3f}"
    known = {n: of.labels.dpd for n, of in evaluation.views.items() if of.labels.dpd is not None}
    if not known:
        return ""
    worst = max(known, key=lambda name: known[name])
    return f": their own worst DPD is {known[worst]:.3f}, that of {short(worst)}"


def _warnings(own: Sequence[PointResult], results: SweepResults) -> list[str]:
    texts = list(results.warnings)
    for point in own:
        for task, evaluation in point.evaluations.items():
            texts += [f"{task}: {text}" for text in warnings_of(evaluation)]
    return list(dict.fromkeys(texts))
