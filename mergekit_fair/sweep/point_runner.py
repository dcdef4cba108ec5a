"""Points become results: what is finished is read, the rest is run, measured and stored.

Scores are what is measured; figures are read from them, anew where a finished point was read
with other settings than are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Protocol

import numpy as np

from mergekit_fair.evaluation.evaluate import (
    Evaluation,
    FairEvaluation,
    MatchedMetrics,
    MultiEvaluation,
    counted,
    evaluate,
    versions,
)
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.levels import AnyLevel, Level, LevelRates, MultiLevel, Threshold
from mergekit_fair.evaluation.multi_predictions import AnyPredictions
from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.evaluation.saved_rows import rows_digest
from mergekit_fair.evaluation.seen_rows import SeenRows, told
from mergekit_fair.fairness import CountTable, MetricSettings
from mergekit_fair.fairness.measure import estimate_table
from mergekit_fair.progress import Progress, bar
from mergekit_fair.sweep.figures_again import answered
from mergekit_fair.sweep.points import Point, unique
from mergekit_fair.sweep.record import MeasuredPoint, PlannedPoint, PointResult
from mergekit_fair.sweep.results import BudgetRecord
from mergekit_fair.sweep.store import ReadStore
from mergekit_fair.sweep.sweep_config import Sweep
from mergekit_fair.sweep.worker import Outcome, PointJob, PointWorker

_OWN = "mergekit-fair"  # among the versions: figures of another one are computed again
_READ_AGAIN = (
    "finished points were read with other settings: their figures are computed again from their "
    "scores, and no model is run for them"
)


class Executor(Protocol):
    """Where jobs run: in this process, or on Ray actors. The driver alone writes results."""

    def run(self, jobs: Iterable[PointJob]) -> Iterator[tuple[PointJob, Outcome]]:
        """Every job with its outcome, as soon as it has one and in any order.

        A job is taken when a worker is free for it and not before: jobs may run out at any time.
        """

    def close(self) -> None:
        """Give memory and workers back."""


# Sweep, what is asked, folder of the base, progress → where its jobs run.
ExecutorFactory = Callable[[Sweep, Evaluator, str, Progress], Executor]


class LocalExecutor:
    """One worker in this process, made when the first job comes."""

    def __init__(self, sweep: Sweep, evaluator: Evaluator, base: str, progress: Progress) -> None:
        self._settings = (evaluator, base, sweep.config.evaluate.device, sweep.recipe.vectors())
        self._seed, self._progress = sweep.config.seed, progress
        self._worker: PointWorker | None = None

    @property
    def worker(self) -> PointWorker:
        if self._worker is None:
            self._worker = PointWorker(*self._settings, seed=self._seed, progress=self._progress)
        return self._worker

    def run(self, jobs: Iterable[PointJob]) -> Iterator[tuple[PointJob, Outcome]]:
        for job in jobs:
            yield job, self.worker.run(job)

    def close(self) -> None:
        self._worker = None


@dataclass
class TimeBudget:
    """Minutes of a run by the wall clock; None: as many as it takes.

    >>> TimeBudget(1.5, clock=lambda: 0.0).is_spent
    False
    """

    minutes: float | None = None
    clock: Callable[[], float] = time.monotonic
    _start: float = field(init=False)

    def __post_init__(self) -> None:
        self._start = self.clock()

    @property
    def is_spent(self) -> bool:
        """No further point may be started."""
        return self.minutes is not None and self.clock() - self._start >= 60 * self.minutes


@dataclass(eq=False)
class PointRunner:
    """The one place where points are run.

    Attributes:
        split: the one that is selected on.
        budget: once it is spent no point of that split is started.
        levels: task → the selection rate that level-matched figures are measured at, or those that
            classes or labels are read beside.
        left_out: labels of points that the budget has left out, in order.
        unfinished: stages that it has cut short, in words → further points, at most.
        saturation: see `Level`.
        require_unchanged: called before anything is stored; raises if a model was written to.
    """

    evaluator: Evaluator
    store: ReadStore
    settings: MetricSettings
    progress: Progress
    split: str
    make_executor: Callable[[], Executor]
    budget: TimeBudget = field(default_factory=TimeBudget)
    levels: Mapping[str, AnyLevel] | None = None
    left_out: dict[str, None] = field(default_factory=dict)
    unfinished: dict[str, int] = field(default_factory=dict)
    saturation: float = 0.1
    require_unchanged: Callable[[], None] = lambda: None
    _executor: Executor | None = field(default=None, init=False)
    _is_told: bool = field(default=False, init=False)

    @cached_property
    def seen(self) -> SeenRows:
        """What models have seen of the evaluator's rows."""
        return SeenRows(self.evaluator)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()

    @property
    def task(self) -> str:
        """The one that decides."""
        return self.evaluator.tasks[0]

    def labels(self, split: str | None = None) -> Mapping[str, AnyPredictions]:
        return self.evaluator.labels(split or self.split)

    @property
    def rows(self) -> AnyPredictions:
        """The deciding task's rows of the split that is selected on, unanswered."""
        return self.labels()[self.task]

    def measure(self, points: Sequence[Point], split: str | None = None) -> list[PointResult]:
        """The points' results on a split, in the points' order.

        Points of the selection's split that the budget leaves out are not among them.
        """
        split = split or self.split
        self._read_again(unique(points), split)
        done = self.store.results(split)
        jobs = self._jobs([p for p in unique(points) if p.id not in done], split)
        first = next(jobs, None)
        if first is not None:  # an executor is made for the first job, not for none
            self._executor = self._executor or self.make_executor()
            for job, outcome in self._executor.run(_chained(first, jobs)):
                self._keep(job.point, split, outcome)
        done = self.store.results(split)
        return [done[point.id] for point in points if point.id in done]

    def answers(self, point: PointResult) -> Mapping[str, AnyPredictions]:
        """Task → what a finished point answered, on the split that it was measured on."""
        scores = self.store.scores(point.id, point.split)
        return answered(self.labels(point.split), scores, list(point.evaluations) or None)

    def predictions(self, point: str, split: str | None = None) -> AnyPredictions:
        """What a finished point answered to the deciding task, by its id."""
        return self.answers(self.store.lines[point, split or self.split])[self.task]

    def binary(self, point: str, split: str | None = None) -> Predictions:
        """The same of a deciding task that is answered by no or yes, which `sweep.answer_kinds`
        asks for before anything is run.
        """
        found = self.predictions(point, split)
        assert isinstance(found, Predictions)
        return found

    @property
    def measured_with(self) -> MeasuredPoint:
        """What a point says of how it was read."""
        return MeasuredPoint.by(self.settings, self.saturation)

    def is_current(self, said: PointResult, planned: PlannedPoint, rows: str) -> bool:
        """Whether a finished point says what it would say if it were measured now.

        Args:
            said: as it was stored.
            planned: what is written about it now.
            rows: digest of those that its scores are of.
        """
        about = {name: getattr(said, name) for name in PlannedPoint.model_fields}
        if about != vars(planned) or said.rows != rows:
            return False
        if said.evaluation is None:
            return True
        if said.measured_with != self.measured_with:
            return False
        levels = self.levels or said.levels(self.saturation)
        thresholds = self._thresholds(said.id, said.split)
        for task, each in said.evaluations.items():
            if each.versions.get(_OWN) != versions()[_OWN]:
                return False
            if not _is_at(each, levels[task], thresholds.get(task)):
                return False
        return True

    def _read_again(self, points: Sequence[Point], split: str) -> None:
        """Compute the figures of finished points again where other ones are asked for."""
        done, rows = self.store.results(split), self.labels(split)
        digest = self._digest(split)
        old = [
            point
            for point in points
            if point.id in done and not self.is_current(done[point.id], point.planned, digest)
        ]
        if not old:
            return
        if not self._is_told:
            self.progress.say(_READ_AGAIN)
            self._is_told = True
        with bar(self.progress, f"{split}: figures from scores", len(old)) as advance:
            for point in old:
                said = done[point.id]
                outcome = _as_if_run(said, rows, self.store.scores(point.id, split))
                result, _ = self._result(point, split, outcome)
                result = result.model_copy(update={"scores": said.scores})
                self.store.append(result, None, rows)
                advance(1)

    @cache  # noqa: B019 (lives as long as the sweep)
    def _digest(self, split: str) -> str:
        return rows_digest(self.labels(split))

    def _thresholds(self, point: str, split: str) -> Mapping[str, Threshold]:
        """Task → the threshold that was set on the rows that are selected on, kept for others."""
        return {} if split == self.split else self.store.results(self.split)[point].thresholds

    @property
    def budget_record(self) -> BudgetRecord | None:
        """What the budget has left out; None if that is nothing."""
        if self.budget.minutes is None or not (self.left_out or self.unfinished):
            return None
        return BudgetRecord(
            minutes=self.budget.minutes,
            left_out=list(self.left_out),
            unfinished=list(self.unfinished),
        )

    def _jobs(self, points: Sequence[Point], split: str) -> Iterator[PointJob]:
        """One after the other until the budget is spent; report rows are opened all the same."""
        for point in points:
            if split == self.split and self.budget.is_spent:
                if not self.left_out:
                    self.progress.say(f"the {self.budget.minutes:g} minutes are spent")
                self.left_out[point.label] = None
            else:
                yield PointJob(point, split)

    def _keep(self, point: Point, split: str, outcome: Outcome) -> None:
        """Measure, store and say."""
        self.require_unchanged()
        result, scores = self._result(point, split, outcome)
        result = self.store.append(result, scores, self.labels(split))
        self.progress.say(result.one_line())

    def _result(self, point: Point, split: str, outcome: Outcome) -> tuple[PointResult, Scores]:
        """A model whose scores are NaN or infinite has an error and no evaluation."""
        labels, planned = self.labels(split), point.planned
        if outcome.error is not None:
            n = sum(rows.labels.size for rows in labels.values())
            failed = PointResult(**vars(planned), split=split, error=outcome.error)
            return failed, np.full(n, np.nan, dtype=np.float32)
        thresholds = self._thresholds(point.id, split)
        seen, evaluations = self.seen.counts(point.models, split), {}
        for task, rows in labels.items():
            predictions = rows.with_scores(outcome.scores[task])
            level = self.levels[task] if self.levels else self._own_level(point.label, predictions)
            evaluation = evaluate(
                predictions,
                self.settings,
                model=point.label,
                split=split,
                level=level,
                threshold=thresholds.get(task),
            )
            of_run = {
                "max_length": outcome.max_length,
                "truncated": outcome.truncated.get(task),
                "versions": dict(outcome.versions),
            }
            evaluation = evaluation.model_copy(update=of_run)
            evaluations[task] = told(evaluation, seen.get(task), len(rows))
        first, *others = evaluations
        result = PointResult(
            **vars(planned),
            split=split,
            evaluation=evaluations[first],
            tasks={task: evaluations[task] for task in others},
            seconds=round(outcome.seconds, 2),
            measured_with=self.measured_with,
        )
        return result, np.concatenate([outcome.scores[task] for task in labels])

    def _own_level(self, label: str, predictions: AnyPredictions) -> AnyLevel:
        """The selection rate of these predictions, or of each class or label, to the last digit as
        they are measured.
        """

        def rate(table: CountTable) -> float:
            found = estimate_table(table, self.settings)["selection_rate"]
            return 0.0 if np.isnan(found) else found

        if isinstance(predictions, Predictions):
            return Level(label, rate(counted(predictions)), self.saturation)
        views = predictions.counted()
        rates = {name: rate(views.joint.table(view)) for name, view in views.by_name.items()}
        return MultiLevel(label, rates, self.saturation)


def _is_at(said: FairEvaluation, level: AnyLevel, threshold: Threshold | None) -> bool:
    """Whether an evaluation looks at these selection rates, at the threshold that was set."""
    matched = said.level_matched
    if isinstance(level, MultiLevel):
        beside = LevelRates(to=level.to, rates=dict(level.rates))
        is_same = isinstance(said, MultiEvaluation) and said.level == beside
    elif isinstance(matched, MatchedMetrics):
        is_same = (matched.to, matched.rate) == (level.to, level.rate)
    else:
        is_same = isinstance(said, Evaluation)
    return is_same and (matched is None or threshold is None or matched.set_at == threshold)


def _as_if_run(said: PointResult, rows: Mapping[str, AnyPredictions], scores: Scores) -> Outcome:
    """A finished point as it came from its worker.

    Args:
        said: as it was stored.
        rows: that its scores are of, of every task.
        scores: of them.
    """
    ends = np.cumsum([each.labels.size for each in rows.values()])
    first = said.evaluation
    truncated = {task: each.truncated for task, each in said.evaluations.items()}
    return Outcome(
        dict(zip(rows, np.split(scores, ends[:-1]), strict=True)),
        error=said.error,
        seconds=said.seconds or 0.0,
        max_length=None if first is None else first.max_length,
        truncated={task: cut for task, cut in truncated.items() if cut is not None},
        versions={**(first.versions if first else {}), _OWN: versions()[_OWN]},
    )


def _chained(first: PointJob, others: Iterator[PointJob]) -> Iterator[PointJob]:
    yield first
    yield from others
