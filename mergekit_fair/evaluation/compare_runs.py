"""Evaluations of several models on the same rows, read from their sample files."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import ConfigError, MeasurementError
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.evaluate import AnyEvaluation, read_evaluation
from mergekit_fair.evaluation.evidence import require_samples
from mergekit_fair.evaluation.multi_predictions import (
    ITEM,
    AnyPredictions,
    MultiPredictions,
    read_samples_of,
)
from mergekit_fair.evaluation.paired_models import PairedModels, paired_models
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.sample_files import (
    earlier_runs,
    precision_of,
    read_samples,
    sample_files,
)
from mergekit_fair.evaluation.seen_rows import seen_in_samples
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark import BenchmarkRows
from mergekit_fair.fairness.benchmark_pairs import BenchmarkDifferences, compare_benchmark
from mergekit_fair.fairness.claims import Evidence, OwnFigures, judged
from mergekit_fair.fairness.measure_warnings import small_group_warnings

Key = TypeVar("Key", bound=Hashable)


def compare_folders(
    baseline: Path, others: Sequence[Path], settings: MetricSettings, tasks: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Every other model minus the baseline, paired, for each task that all of them have.

    Args:
        baseline: folder of `mergekit-fair eval`, or of lm-eval with `--log_samples`.
        others: the same of other models.
        settings: how to measure; Holm's correction is over all models and tasks.
        tasks: only these; empty for all.

    Returns:
        task → `n`, `baseline`, `models` (name → metric → `JudgedDifference`), `groups` (of a
        benchmark: name → group → score → `Difference`), `views` (of classes or labels: name → class
        or label → metric → `Difference`), `warnings`, `marks` (see `marks`) and
        `notes` (see `notes`).

    Raises:
        ConfigError: no samples there, those of several models, or no common task.
        MeasurementError: not the same rows, or samples that were changed since they were written.
    """
    names = _names([baseline, *others])
    files = {folder: sample_files(folder) for folder in (baseline, *others)}
    common = set.intersection(*map(set, files.values()))
    wanted = sorted(common if not tasks else set(tasks))
    if not wanted or not set(wanted) <= common:
        raise ConfigError(
            "the evaluations have no such task in common",
            where=", ".join(map(str, files)),
            got=sorted(tasks) or None,
            allowed=sorted(common) or None,
            fix="evaluate the models on the same tasks",
        )
    found = {
        task: compared_files(
            task, {names[folder]: its[task] for folder, its in files.items()}, settings
        )
        for task in wanted
    }
    return judged_tasks(found, settings)


@dataclass(frozen=True)
class ComparedTask:
    """Models on one task, each against the baseline.

    Attributes:
        baseline: its name.
        pairs: of a task of labels and groups; None of another.
        benchmarks: of another: model → its differences; empty of the former.
        n: documents.
        warnings, notes: what a reader should know.
    """

    baseline: str
    pairs: PairedModels | None
    benchmarks: Mapping[str, BenchmarkDifferences]
    n: int
    warnings: Sequence[str]
    notes: Sequence[str] = ()


def judged_tasks(
    tasks: Mapping[Key, ComparedTask], settings: MetricSettings
) -> dict[Key, dict[str, Any]]:
    """Task → what `compare_folders` returns, with Holm's correction over all of it."""
    evidence: dict[tuple[Key, str], Evidence] = {}
    benchmarks: dict[tuple[Key, str], BenchmarkDifferences] = {}
    for task, of_task in tasks.items():
        if of_task.pairs is not None:
            evidence |= {(task, name): each for name, each in of_task.pairs.evidence.items()}
        benchmarks |= {(task, name): each for name, each in of_task.benchmarks.items()}
    found = judged(evidence, settings.confidence, benchmarks)
    return {
        task: {
            "n": of_task.n,
            **({"weighted": True} if of_task.pairs and of_task.pairs.is_weighted else {}),
            "baseline": of_task.baseline,
            "models": {
                name: {metric: each.to_dict() for metric, each in of_pair.items()}
                for (its, name), of_pair in found.items()
                if its == task
            },
            "groups": {
                name: {
                    group: {metric: each.to_dict() for metric, each in of_group.items()}
                    for group, of_group in of_model.groups.items()
                }
                for name, of_model in of_task.benchmarks.items()
            },
            **_views(of_task),
            "warnings": list(of_task.warnings),
            "marks": {} if of_task.pairs is None else marks(of_task.pairs.own, of_task.baseline),
            "notes": list(of_task.notes),
        }
        for task, of_task in tasks.items()
    }


def _views(of_task: ComparedTask) -> dict[str, Any]:
    """Of classes or labels: model → class or label → metric → difference."""
    pairs = None if of_task.pairs is None else of_task.pairs.views
    if not pairs:
        return {}
    return {
        "views": {
            name: {
                view: {metric: each.to_dict() for metric, each in differences.items()}
                for view, differences in of_pair.items()
            }
            for name, of_pair in pairs.items()
        }
    }


def compared_files(task: str, paths: Mapping[str, Path], settings: MetricSettings) -> ComparedTask:
    """The first of the models against each of the others, from their files of samples.

    Raises:
        MeasurementError: as `compare_folders`.
    """
    for path in paths.values():
        require_samples(path)
    said = notes(task, paths)
    samples = {name: list(read_samples(path)) for name, path in paths.items()}
    said += other_prompts(samples)
    if {"dpd", ITEM} & set(next(iter(samples.values()))[0]):
        answers = {name: read_samples_of(task, each) for name, each in samples.items()}
        return compared_predictions(answers, settings, said)
    rows = {name: benchmark_rows(task, each) for name, each in samples.items()}
    return compared_rows(task, rows, settings, said)


def compared_predictions(
    answers: Mapping[str, AnyPredictions], settings: MetricSettings, notes: Sequence[str] = ()
) -> ComparedTask:
    """The first of the models against each of the others, on a task of labels and groups.

    Raises:
        MeasurementError: not the same rows.
    """
    baseline, first = next(iter(answers.items()))
    views = first.views if isinstance(first, MultiPredictions) else {"": first}
    small = [
        text
        for name, view in views.items()
        for text in small_group_warnings(view.sizes(settings), settings.reference, name)
    ]
    paired = _paired(answers, baseline, settings)
    return ComparedTask(baseline, paired, {}, paired.n, [*small, *paired.warnings], notes)


def compared_rows(
    task: str,
    rows: Mapping[str, BenchmarkRows | None],
    settings: MetricSettings,
    notes: Sequence[str] = (),
) -> ComparedTask:
    """The same on a benchmark.

    Raises:
        MeasurementError: no number of each document, or not the same documents.
    """
    known = {name: each for name, each in rows.items() if each is not None}
    shared = set.intersection(*(set(each.benchmark.columns) for each in known.values()))
    apart = {column for each in known.values() for column in each.benchmark.columns} - shared
    if apart:
        notes = [*notes, f"not a number in [0, 1] in every model: {', '.join(sorted(apart))}"]
        known = {name: each.only(shared) for name, each in known.items()} if shared else {}
    if len(known) < len(rows):
        raise MeasurementError(
            "has no number of each document to compare",
            where=task,
            fix="use a task of `mergekit-fair tasks-dir`, or one with a metric such as acc",
        )
    baseline, *others = known
    first = known[baseline]
    aligned = {name: known[name].in_order(first.keys) for name in others}
    return ComparedTask(
        baseline,
        None,
        {name: compare_benchmark(first, each, settings) for name, each in aligned.items()},
        len(first),
        [],
        notes,
    )


def notes(task: str, paths: Mapping[str, Path]) -> list[str]:
    """What a reader should know of where the predictions come from.

    That a file is one of several runs; what `eval` has said of the model: rows that chose it or
    that it was trained on, texts that were cut; and lengths, thresholds and precisions that differ.

    Args:
        task: its name.
        paths: model → its file of samples.
    """
    said = [f"{name}: {text}" for name, path in paths.items() if (text := earlier_runs(path))]
    evaluations = {name: _beside(path, task) for name, path in paths.items()}
    lengths = {name: each.max_length for name, each in evaluations.items() if each is not None}
    for name, each in evaluations.items():
        if each is None or each.trained_rows is None:
            model = None if each is None else each.model
            if count := seen_in_samples(paths[name], model):
                said.append(f"{name}: was trained on {count} of these rows")
        if each is None:
            continue
        if each.used_by_selection is not None:
            said.append(
                f"{name}: these rows have chosen it ({each.used_by_selection.rule}): its figures "
                "are optimistic"
            )
        if each.trained_rows:
            said.append(f"{name}: was trained on {each.trained_rows} of these rows")
        if each.truncated is not None and each.max_length is not None:
            said += [f"{name}: {t}" for t in [each.truncated.sentence(each.max_length)] if t]
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        said.append(f"texts are cut at lengths that differ (max_length: {listed})")
    cutoffs = {name: getattr(each, "threshold", None) for name, each in evaluations.items()}
    if len(set(cutoffs.values())) > 1:
        listed = ", ".join(
            f"{name} {0.5 if cutoff is None else cutoff:g}" for name, cutoff in cutoffs.items()
        )
        said.append(f"1 is predicted from thresholds on that differ ({listed})")
    precisions = {n: found for n, path in paths.items() if (found := precision_of(path))}
    if len(set(precisions.values())) > 1:
        listed = ", ".join(f"{name} {found}" for name, found in precisions.items())
        said.append(
            f"models have computed in precisions that differ ({listed}), which is part of what "
            "they differ by; --model-args dtype=float32 gives all the same"
        )
    return said


def other_prompts(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """That models were asked the same in other words, by lm-eval's digest of every prompt.

    Args:
        samples: model → its samples; the first is compared with each of the others.

    >>> asked = {"a": [{"doc_id": 0, "prompt_hash": "5e"}], "b": [{"doc_id": 0}]}
    >>> other_prompts(asked | {"c": [{"doc_id": 0, "prompt_hash": "f0"}]})
    ['1 of 1 prompts of c are others than of a: chat template, system instruction or examples']
    """
    prompts = {
        name: {sample["doc_id"]: sample.get("prompt_hash") for sample in of}
        for name, of in samples.items()
    }
    (baseline, first), *others = prompts.items()
    said = []
    for name, its in others:
        pairs = [(first[doc], prompt) for doc, prompt in its.items() if first.get(doc) and prompt]
        if apart := sum(one != other for one, other in pairs):
            said.append(
                f"{apart} of {len(pairs)} prompts of {name} are others than of {baseline}: "
                "chat template, system instruction or examples"
            )
    return said


def _beside(path: Path, task: str) -> AnyEvaluation | None:
    """The evaluation that `eval` has written with these samples."""
    file = path.with_name(f"{task}.json")
    is_ours = path.name == f"samples_{task}.jsonl" and file.is_file()
    return read_evaluation(file) if is_ours else None


def _names(folders: list[Path]) -> dict[Path, str]:
    """Folder → the shortest end of its path that tells it from the others."""
    parts = {folder: folder.absolute().parts for folder in folders}
    if len({folder.resolve() for folder in folders}) == len(folders):
        for depth in range(1, 1 + max(map(len, parts.values()))):
            names = {folder: "/".join(its[-depth:]) for folder, its in parts.items()}
            if len(set(names.values())) == len(names):
                return names
    raise ConfigError("the same folder stands twice", where="compare", got=list(map(str, folders)))


def _paired(
    answers: Mapping[str, AnyPredictions], baseline: str, settings: MetricSettings
) -> PairedModels:
    first = answers[baseline]
    aligned = {name: _like(first, of, name, baseline) for name, of in answers.items()}
    pairs = {name: (baseline, name) for name in aligned if name != baseline}
    return paired_models(aligned, pairs, settings)


def marks(own: Mapping[str, OwnFigures], baseline: str) -> dict[str, dict[str, Any]]:
    """Model → what qualifies its differences: its selection rate or rates, its gaps with their
    intervals and whose they are, `degenerate`, and `saturated`: it selects over 0.1 more or fewer
    than the baseline; None where one of the rates is unknown.
    """
    level = own[baseline]
    return {
        name: {
            **_rates(figures),
            "degenerate": figures.degenerate,
            "saturated": None
            if None in (*figures.rates.values(), *level.rates.values())
            else figures.selects_otherwise(level),
            **{gap: interval.to_dict() for gap, interval in figures.gaps.items()},
            "deciding": {gap: each.to_dict() for gap, each in figures.deciding.items()},
            **({"worst_view": dict(figures.worst_view)} if figures.worst_view else {}),
        }
        for name, figures in own.items()
    }


def _rates(figures: OwnFigures) -> dict[str, Any]:
    if list(figures.rates) == [""]:
        return {"selection_rate": figures.selection_rate}
    return {"selection_rates": dict(figures.rates)}


def _like(first: AnyPredictions, other: AnyPredictions, name: str, baseline: str) -> AnyPredictions:
    """The other's predictions in the first's order.

    Raises:
        MeasurementError: they are of other rows, labels, groups, weights or clusters.
    """
    row_of = {key: row for row, key in enumerate(other.keys)}
    if set(first.keys) != set(row_of):
        raise MeasurementError(
            "not the same rows: another split, limit or version of the data",
            where=f"{first.task}: {name} and {baseline}",
            got=f"{len(set(first.keys) & set(row_of))} rows in common of {len(other)} and "
            f"{len(first)}",
            fix="evaluate both with the same split, limit and data",
        )
    order = np.array([row_of[key] for key in first.keys])
    same = (
        type(other) is type(first)
        and getattr(other, "names", None) == getattr(first, "names", None)
        and np.array_equal(other.labels[order], first.labels)
        and set(other.groups) == set(first.groups)
        and all(
            np.array_equal(other.groups[name][order], mask) for name, mask in first.groups.items()
        )
        and other.excluded == first.excluded
        and _same_sampling(first, other, order)
    )
    if not same:
        raise MeasurementError(
            "the same rows have other labels, groups, weights or clusters",
            where=f"{first.task}: {name} and {baseline}",
            fix="evaluate both with the same version of the task",
        )
    predicted = other.predicted[order]
    if isinstance(first, MultiPredictions):
        assert isinstance(other, MultiPredictions)
        found = None if other.log_probs is None else other.log_probs[order]
        return replace(first, predicted=predicted, log_probs=found)
    assert isinstance(other, Predictions)
    gaps = None if other.logit_gaps is None else other.logit_gaps[order]
    return replace(first, predicted=predicted, logit_gaps=gaps)


def _same_sampling(first: AnyPredictions, other: AnyPredictions, order: NDArray[np.intp]) -> bool:
    return all(
        one is two if one is None or two is None else np.array_equal(two[order], one)
        for one, two in ((first.weights, other.weights), (first.clusters, other.clusters))
    )
