"""Evaluations of several models on the same rows, read from their sample files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import ConfigError, MeasurementError
from mergekit_fair.evaluation.evaluate import (
    Evaluation,
    Level,
    PreferenceEvaluation,
    evaluate,
    read_evaluation,
)
from mergekit_fair.evaluation.evidence import require_samples
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.sample_files import earlier_runs, read_samples, sample_files
from mergekit_fair.evaluation.seen_rows import seen_in_samples
from mergekit_fair.fairness import HEADLINE, MetricSettings
from mergekit_fair.fairness.compare import Paired


def compare_folders(
    baseline: Path, others: Sequence[Path], settings: MetricSettings, tasks: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Every other model minus the baseline, paired, for each task that all of them have.

    Args:
        baseline: folder of `mergekit-fair eval`, or of lm-eval with `--log_samples`.
        others: the same of other models.
        settings: how to measure; the number of draws grows with the number of tests.
        tasks: only these; empty for all.

    Returns:
        task → `n`, `baseline`, `models` (name → metric → value, low, high, p_value,
        adjusted_p_value, significant), `warnings`, `marks` (see `marks`) and `notes` (see `notes`).

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
    compared = {}
    for task in wanted:
        for paths in files.values():
            require_samples(paths[task])
        answers = {
            names[folder]: read_predictions(task, paths[task]) for folder, paths in files.items()
        }
        paths_of = {names[folder]: paths[task] for folder, paths in files.items()}
        compared[task] = {
            **_compared(answers, names[baseline], settings),
            "marks": marks(answers, names[baseline], settings),
            "notes": notes(task, paths_of),
        }
    return compared


def read_predictions(task: str, path: Path) -> Predictions:
    """The predictions in a file of samples.

    Raises:
        ConfigError: not what was written.
        MeasurementError: samples of a task that measures no fairness.
    """
    return Predictions.of_samples(task, read_samples(path))


def marks(
    answers: Mapping[str, Predictions], baseline: str, settings: MetricSettings
) -> dict[str, dict[str, Any]]:
    """Model → what qualifies its gaps: its selection rate, `degenerate` and `saturated`.

    Args:
        answers: model → its predictions.
        baseline: whose selection rate is the level: a model is saturated that selects more than
            0.1 more or fewer.
        settings: how to measure.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, predictions in answers.items():
        measured = evaluate(predictions, settings, model=name, split="")
        found[name] = {
            "selection_rate": measured.metrics["selection_rate"].value,
            "degenerate": measured.degenerate,
        }
    level = found[baseline]["selection_rate"]
    for entry in found.values():
        rate = entry["selection_rate"]
        is_known = rate is not None and level is not None
        entry["saturated"] = bool(abs(rate - level) > Level.saturation) if is_known else None
    return found


def notes(task: str, paths: Mapping[str, Path]) -> list[str]:
    """What a reader should know of where the predictions come from.

    That a file is one of several runs; and what `eval` has said of the model: rows that chose it
    or that it was trained on, texts that were cut, and lengths and thresholds that differ.

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
    return said


def _cutoff(evaluation: Evaluation | PreferenceEvaluation | None) -> float:
    cutoff = evaluation.threshold if isinstance(evaluation, Evaluation) else None
    return 0.5 if cutoff is None else cutoff


def _beside(path: Path, task: str) -> Evaluation | PreferenceEvaluation | None:
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


def _compared(
    answers: dict[str, Predictions], baseline: str, settings: MetricSettings
) -> dict[str, Any]:
    first = answers[baseline]
    aligned = {
        name: _like(first, predictions, name, baseline) for name, predictions in answers.items()
    }
    settings = settings.excluding(first.excluded).for_tests(len(HEADLINE) * (len(aligned) - 1))
    predictions = {name: of_model.predicted for name, of_model in aligned.items()}
    paired = Paired.of(first.labels, predictions, first.groups, settings, first.weights)
    compared = paired.against(baseline)
    models = compared.to_dict()
    for name, metrics in models.items():
        for metric, entry in metrics.items():
            entry["significant"] = compared.significant(name, metric)
    warnings = [
        f"{name}: {text}"
        for name, comparison in compared.differences.items()
        for text in comparison.warnings
    ]
    return {
        "n": len(paired.labels),
        **({"weighted": True} if paired.patterns.weights is not None else {}),
        "baseline": baseline,
        "models": models,
        "warnings": warnings,
    }


def _like(first: Predictions, other: Predictions, name: str, baseline: str) -> Predictions:
    """The other's predictions in the first's order.

    Raises:
        MeasurementError: they are of other rows, labels, groups or weights.
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
        np.array_equal(other.labels[order], first.labels)
        and set(other.groups) == set(first.groups)
        and all(
            np.array_equal(other.groups[name][order], mask) for name, mask in first.groups.items()
        )
        and other.excluded == first.excluded
        and _same_weights(first, other, order)
    )
    if not same:
        raise MeasurementError(
            "the same rows have other labels, groups or weights",
            where=f"{first.task}: {name} and {baseline}",
            fix="evaluate both with the same version of the task",
        )
    return replace(first, predicted=other.predicted[order], logit_gaps=None)


def _same_weights(first: Predictions, other: Predictions, order: NDArray[np.intp]) -> bool:
    if first.weights is None or other.weights is None:
        return first.weights is other.weights
    return np.array_equal(other.weights[order], first.weights)
