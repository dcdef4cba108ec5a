"""Points on the same rows: who is within noise of whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.evaluation.multi_predictions import AnyPredictions
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.sweep.differences import compared
from mergekit_fair.sweep.figures_again import settings_of
from mergekit_fair.sweep.limits import HAS_INTERVAL
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.selection import Rule

# A finished point → task → what it answered.
Answers = Callable[[PointResult], Mapping[str, AnyPredictions]]
# How far an end of an interval may lie beyond 0 by rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Noise:
    """Says whose objective cannot be told from a better point's (`selection.Tied`).

    Each pair is compared by itself, by the paired interval of `compare`, so that a third point
    changes nothing. Points whose difference in the metric has no interval are told by their values.
    """

    rule: Rule
    answers: Answers

    def __call__(self, better: PointResult, others: Sequence[PointResult]) -> set[str]:
        """Ids of the others whose interval of the difference reaches 0."""
        task, _, name = self.rule.objective.rpartition("/")
        block, _, metric = name.rpartition(".")
        if metric not in HAS_INTERVAL:
            return set()
        task = task or better.require_measured().task
        first = self.answers(better)[task]
        settings, is_matched = settings_of(better), bool(block)
        own = _predicted(first, better, task, is_matched=is_matched)
        alike: dict[
            bytes, tuple[NDArray[np.int8], list[str]]
        ] = {}  # who answers alike needs one test
        for point in others:
            answered = _predicted(self.answers(point)[task], point, task, is_matched=is_matched)
            alike.setdefault(answered.tobytes(), (answered, []))[1].append(point.id)
        tied: set[str] = set()
        for answered, ids in alike.values():
            gap = compared(first, answered, own, settings, metric)
            end = gap.high if self.rule.is_minimised else gap.low
            if end is None or (-end if self.rule.is_minimised else end) <= _ROUNDING:
                tied.update(ids)
        return tied


def _predicted(
    predictions: AnyPredictions, point: PointResult, task: str, *, is_matched: bool
) -> NDArray[np.int8]:
    at = point.thresholds.get(task) if is_matched else None
    if isinstance(predictions, Predictions):
        return (predictions.predict_at(at) if isinstance(at, float) else predictions).predicted
    return (predictions.moved(at) if isinstance(at, Mapping) else predictions).predicted
