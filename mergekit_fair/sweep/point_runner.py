"""Points become results: what is finished is read, the rest is run, measured and stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from mergekit_fair.evaluation.evaluate import Level, evaluate
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.evaluation.seen_rows import SeenRows, told
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.progress import Progress
from mergekit_fair.sweep.figures_again import answered
from mergekit_fair.sweep.points import Point, unique
from mergekit_fair.sweep.record import MeasuredPoint, PointResult
from mergekit_fair.sweep.results import BudgetRecord
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.sweep_config import Sweep
from mergekit_fair.sweep.worker import Outcome, PointJob, PointWorker


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
        self._settings = (evaluator, base, sweep.config.evaluate.device, sweep.recipe.groups())
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


@dataclass
class PointRunner:
    """The one place where points are run.

    Attributes:
        split: the one that is selected on.
        budget: once it is spent no point of that split is started.
        levels: task → the selection rate that level-matched figures are measured at.
        left_out: labels of points that the budget has left out, in order.
        unfinished: stages that it has cut short, in words.
        saturation: see `Level`.
        require_unchanged: called before anything is stored; raises if a model was written to.
    """

    evaluator: Evaluator
    store: Store
    settings: MetricSettings
    progress: Progress
    split: str
    make_executor: Callable[[], Executor]
    budget: TimeBudget = field(default_factory=TimeBudget)
    levels: Mapping[str, Level] | None = None
    left_out: dict[str, None] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    saturation: float = 0.1
    require_unchanged: Callable[[], None] = lambda: None
    _executor: Executor | None = field(default=None, init=False)

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

    def labels(self, split: str | None = None) -> Mapping[str, Predictions]:
        return self.evaluator.labels(split or self.split)

    @property
    def rows(self) -> Predictions:
        """The deciding task's rows of the split that is selected on, unanswered."""
        return self.labels()[self.task]

    def measure(self, points: Sequence[Point], split: str | None = None) -> list[PointResult]:
        """The points' results on a split, in the points' order.

        Points of the selection's split that the budget leaves out are not among them.
        """
        split = split or self.split
        done = self.store.results(split)
        jobs = self._jobs([p for p in unique(points) if p.id not in done], split)
        first = next(jobs, None)
        if first is not None:  # an executor is made for the first job, not for none
            self._executor = self._executor or self.make_executor()
            for job, outcome in self._executor.run(_chained(first, jobs)):
                self._keep(job.point, split, outcome)
        done = self.store.results(split)
        return [done[point.id] for point in points if point.id in done]

    def predictions(self, point: str, split: str | None = None) -> Predictions:
        """What a finished point answered to the deciding task, by its id."""
        split = split or self.split
        return answered(self.labels(split), self.store.scores(point, split))[self.task]

    @property
    def measured_with(self) -> MeasuredPoint:
        """What a point says of how it was measured, beside its evaluations."""
        return MeasuredPoint(
            min_group_size=self.settings.min_group_size,
            seed=self.settings.seed,
            against=self.settings.against,
            saturation=self.saturation,
        )

    @property
    def budget_record(self) -> BudgetRecord | None:
        """What the budget has left out; None if that is nothing."""
        if self.budget.minutes is None or not (self.left_out or self.unfinished):
            return None
        return BudgetRecord(
            minutes=self.budget.minutes, left_out=list(self.left_out), unfinished=self.unfinished
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
            n = sum(map(len, labels.values()))
            failed = PointResult(**vars(planned), split=split, error=outcome.error)
            return failed, np.full(n, np.nan, dtype=np.float32)
        # Thresholds are set on the rows that are selected on, and kept for others.
        is_own = split == self.split
        thresholds = {} if is_own else self.store.results(self.split)[point.id].thresholds
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
            lengths = {"max_length": outcome.max_length, "truncated": outcome.truncated.get(task)}
            evaluation = evaluation.model_copy(update=lengths)
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

    def _own_level(self, label: str, predictions: Predictions) -> Level:
        """The selection rate of these predictions."""
        rate = predictions.selection_rate
        return Level(label, 0.0 if np.isnan(rate) else rate, self.saturation)


def _chained(first: PointJob, others: Iterator[PointJob]) -> Iterator[PointJob]:
    yield first
    yield from others
