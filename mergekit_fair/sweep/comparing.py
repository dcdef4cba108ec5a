"""Points on the same rows: who is within noise of whom, and what was won against a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import HEADLINE, Comparison, MetricSettings, holm
from mergekit_fair.fairness.compare import Paired
from mergekit_fair.fairness.metrics import COMPARED
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import Choice, DifferenceRecord
from mergekit_fair.sweep.selection import Rule

_DRAWS = 2000


def choose(runner: PointRunner, points: Sequence[PointResult], rule: Rule) -> Choice:
    """The rule's choice among measured points, ties within noise going to the smaller λ."""
    return rule.choose(
        points, tied=lambda top, others: within_noise(runner, top, others, rule.maximize)
    )


def within_noise(
    runner: PointRunner, top: PointResult, others: Sequence[PointResult], objective: str
) -> set[str]:
    """Ids of the others whose objective cannot be told from the top's: the interval of `compare`
    for top − other reaches 0. Each pair by itself, so that a third point changes nothing."""
    task, _, name = objective.rpartition("/")
    block, _, metric = name.rpartition(".")
    # Rows of other tasks are not paired here, and some metrics are not compared at all.
    if (task and task != runner.task) or metric not in COMPARED:
        return set()
    of_top = _predictions(runner, top, is_matched=bool(block))
    tied = set()
    for point in others:
        of_point = _predictions(runner, point, is_matched=bool(block))
        gap = _compared(runner.rows, of_point, of_top, runner.settings).metrics[metric]
        if gap.low is None or gap.low <= 0:
            tied.add(point.id)
    return tied


def differences(
    chosen: Predictions, baselines: Mapping[str, Predictions], settings: MetricSettings
) -> dict[str, dict[str, DifferenceRecord]]:
    """Chosen minus each baseline on the same report rows, paired.

    `adjusted_p_value` is corrected (Holm) for every baseline and headline metric looked at.

    Returns:
        Baseline → metric → difference.
    """
    draws = max(_DRAWS, _needed(len(baselines), settings.confidence))
    compared = {
        name: _compared(chosen, answers.predicted, chosen.predicted, settings, draws).to_dict()
        for name, answers in baselines.items()
    }
    p_values = {
        (name, metric): p_value
        for name, gaps in compared.items()
        for metric in HEADLINE
        if (p_value := gaps[metric]["p_value"]) is not None
    }
    adjusted = holm(p_values)
    return {
        name: {
            metric: DifferenceRecord(**gap, adjusted_p_value=adjusted.get((name, metric)))
            for metric, gap in gaps.items()
        }
        for name, gaps in compared.items()
    }


def _compared(
    rows: Predictions, before: Any, after: Any, settings: MetricSettings, draws: int = _DRAWS
) -> Comparison:
    settings = replace(settings, exclude=rows.excluded, draws=draws)
    both = {"a": before, "b": after}
    paired = Paired.of(rows.labels, both, rows.groups, settings, rows.weights)
    return paired.difference("a", "b")


def _predictions(runner: PointRunner, point: PointResult, *, is_matched: bool) -> Any:
    predictions = runner.predictions(point.id)
    if not is_matched or predictions.logit_gaps is None:
        return predictions.predicted
    return predictions.predict_at(point.thresholds[runner.task]).predicted


def _needed(baselines: int, confidence: float) -> int:
    """Draws without which no corrected p-value could be small, as in `compare_many`."""
    return round(10 * baselines * len(HEADLINE) / (1 - confidence))
