"""Points on the same rows: who is within noise of whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mergekit_fair.fairness.metrics import COMPARED
from mergekit_fair.sweep.differences import compared
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import Choice
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
        gap = compared(runner.rows, of_point, of_top, runner.settings).metrics[metric]
        if gap.low is None or gap.low <= 0:
            tied.add(point.id)
    return tied


def _predictions(runner: PointRunner, point: PointResult, *, is_matched: bool) -> Any:
    predictions = runner.predictions(point.id)
    if not is_matched or predictions.logit_gaps is None:
        return predictions.predicted
    return predictions.predict_at(point.thresholds[runner.task]).predicted
