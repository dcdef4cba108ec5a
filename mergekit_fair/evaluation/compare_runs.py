"""Evaluations of several models on the same rows, read from their sample files."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_fair.errors import ConfigError, MeasurementError
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import HEADLINE, MetricSettings
from mergekit_fair.fairness.compare import Paired

_PREFIX = "samples_"


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
        adjusted_p_value, significant) and `warnings`.

    Raises:
        ConfigError: no samples there, or no common task.
        MeasurementError: not the same rows.
    """
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
    names = _names(list(files))
    return {
        task: _compared(
            {names[folder]: read_predictions(task, paths[task]) for folder, paths in files.items()},
            names[baseline],
            settings,
        )
        for task in wanted
    }


def sample_files(folder: Path) -> dict[str, Path]:
    """Task → its file of samples; of several runs in a folder of lm-eval's, the latest.

    Raises:
        ConfigError: there are none.
    """
    paths = [folder] if folder.is_file() else sorted(folder.rglob(f"{_PREFIX}*.jsonl"))
    samples = {_task(path): path for path in paths}  # lm-eval's names end with the time
    if not samples:
        raise ConfigError(
            "has no samples (samples_TASK.jsonl)",
            where=folder,
            fix="give the folder of `mergekit-fair eval`, or of `lm_eval run --log_samples`",
        )
    return samples


def read_predictions(task: str, path: Path) -> Predictions:
    """The predictions in a file of samples.

    Raises:
        ConfigError: not JSON lines.
        MeasurementError: samples of a task that measures no fairness.
    """
    samples = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                samples.append(json.loads(line))
            except ValueError as error:
                raise ConfigError(
                    f"line {number} is not JSON ({error})",
                    where=path,
                    fix="the file is damaged or half written: evaluate again",
                ) from error
    return Predictions.of_samples(task, samples)


def _task(path: Path) -> str:
    """`samples_TASK.jsonl`, or lm-eval's `samples_TASK_2026-01-31T12-00-00.000000.jsonl`."""
    name = path.stem.removeprefix(_PREFIX)
    head, _, tail = name.rpartition("_")
    return head if head and tail[:4].isdigit() and "T" in tail else name


def _names(folders: list[Path]) -> dict[Path, str]:
    """Folder → the shortest end of its path that tells it from the others."""
    for depth in range(1, 10):
        names = {folder: "/".join(folder.absolute().parts[-depth:]) for folder in folders}
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
    compared = Paired.of(first.labels, predictions, first.groups, settings).against(baseline)
    models = compared.to_dict()
    for name, metrics in models.items():
        for metric, entry in metrics.items():
            entry["significant"] = compared.significant(name, metric)
    warnings = [
        f"{name}: {text}"
        for name, comparison in compared.differences.items()
        for text in comparison.warnings
    ]
    return {"n": len(first), "baseline": baseline, "models": models, "warnings": warnings}


def _like(first: Predictions, other: Predictions, name: str, baseline: str) -> Predictions:
    """The other's predictions in the first's order.

    Raises:
        MeasurementError: they are of other rows, labels or groups.
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
    same = np.array_equal(other.labels[order], first.labels) and all(
        name in other.groups and np.array_equal(other.groups[name][order], mask)
        for name, mask in first.groups.items()
    )
    if not same:
        raise MeasurementError(
            "the same rows have other labels or groups",
            where=f"{first.task}: {name} and {baseline}",
            fix="evaluate both with the same version of the task",
        )
    return Predictions(
        first.task,
        first.keys,
        first.labels,
        other.predicted[order],
        first.groups,
        first.excluded,
        None,
    )
