"""Points that cost no forward pass: a baseline's scores, on which something else decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mergekit_fair.evaluation.evaluate import evaluate
from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.evaluation.saved_rows import rows_digest
from mergekit_fair.evaluation.seen_rows import told
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.record import PlannedPoint, PointResult


class ByScores(Protocol):
    """What predicts by a model's scores."""

    def scores(self, predictions: Predictions) -> Scores:
        """Above 0 where 1 is predicted, NaN where nothing is: (n,)."""
        ...


@dataclass(frozen=True, eq=False)
class Decision:
    """One such point.

    Attributes:
        planned: what is written about it; its id digests all that `by` depends on.
        by: what decides.
    """

    planned: PlannedPoint
    by: ByScores


@dataclass(frozen=True, eq=False)
class Rescored:
    """Decisions on the finished scores of one baseline, for the deciding task.

    Attributes:
        runner: has these scores, and stores what is measured.
        source: the baseline's point, by its id.
        decisions: label → decision.
    """

    runner: PointRunner
    source: str
    decisions: Mapping[str, Decision]

    @classmethod
    def none(cls, runner: PointRunner) -> Rescored:
        """Without any decision."""
        return cls(runner, "", {})

    def predictions(self, split: str) -> dict[str, Predictions]:
        """Label → predictions on a split."""
        if not self.decisions:
            return {}
        rows = self.runner.binary(self.source, split)
        done = self.runner.store.results(split)
        return {
            label: self.runner.binary(each.planned.id, split)
            if each.planned.id in done
            else rows.with_scores(each.by.scores(rows))
            for label, each in self.decisions.items()
        }

    def results(self, split: str) -> list[PointResult]:
        """Measured on a split and stored; the report rows only once they may be opened."""
        runner = self.runner
        if split != runner.split:  # its level-matched threshold is set on the selection's rows
            self.results(runner.split)
        found = []
        for label, predictions in self.predictions(split).items():
            planned = self.decisions[label].planned
            done = runner.store.results(split).get(planned.id)
            digest = rows_digest({predictions.task: runner.labels(split)[predictions.task]})
            if done is None or not runner.is_current(done, planned, digest):
                done = self._stored(planned, predictions, split)
            found.append(done)
        return found

    def _stored(self, planned: PlannedPoint, predictions: Predictions, split: str) -> PointResult:
        runner, task = self.runner, predictions.task
        kept = None if split == runner.split else runner.store.results(runner.split)[planned.id]
        evaluation = evaluate(
            predictions,
            runner.settings,
            model=planned.label,
            split=split,
            level=None if runner.levels is None else runner.levels[task],
            threshold=None if kept is None else kept.thresholds.get(task),
        )
        source = runner.store.results(split)[self.source].require_measured()
        evaluation = told(evaluation, source.trained_rows, len(predictions))
        result = PointResult(
            **vars(planned), split=split, evaluation=evaluation, measured_with=runner.measured_with
        )
        return runner.store.append(result, predictions.scores, {task: runner.labels(split)[task]})
