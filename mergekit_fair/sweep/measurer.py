"""Points become lines: what is finished is read, the rest is run, measured and stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mergekit_fair.evaluation.evaluator import Exam
from mergekit_fair.evaluation.predictions import Answers
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.progress import Progress
from mergekit_fair.sweep.executor import Executor
from mergekit_fair.sweep.lines import Levels, Line, Sheets, line_of, split_scores, thresholds_of
from mergekit_fair.sweep.points import Point
from mergekit_fair.sweep.results import one_line
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.worker import Outcome, PointJob


@dataclass
class Measurer:
    """The one place where points are run; only the driver writes.

    Attributes:
        split: the one that is selected on.
        levels: task → the selection rate that level-matched figures are measured at.
    """

    exam: Exam
    store: Store
    settings: MetricSettings
    progress: Progress
    split: str
    make: Callable[[], Executor]
    levels: Levels | None = None
    _executor: Executor | None = field(default=None, init=False)

    @property
    def executor(self) -> Executor:
        """Made when the first job comes."""
        if self._executor is None:
            self._executor = self.make()
        return self._executor

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()

    @property
    def task(self) -> str:
        """The one that decides."""
        return self.exam.tasks[0]

    def sheets(self, split: str | None = None) -> Sheets:
        return self.exam.sheets(split or self.split)

    @property
    def sheet(self) -> Answers:
        """The deciding task's rows of the split that is selected on, unanswered."""
        return self.sheets()[self.task]

    def measure(self, points: Sequence[Point], split: str | None = None) -> list[Line]:
        """The points' lines on a split, in the points' order."""
        split = split or self.split
        done = self.store.lines(split)
        jobs = [PointJob(point, split) for point in unique(points) if point.id not in done]
        for job, outcome in self.executor.run(jobs) if jobs else ():
            self._keep(job.point, split, outcome)
        done = self.store.lines(split)
        return [done[point.id] for point in points]

    def answers(self, point: str, split: str | None = None) -> Answers:
        """What a finished point answered to the deciding task, by its id."""
        split = split or self.split
        return split_scores(self.store.scores(point, split), self.sheets(split))[self.task]

    def _keep(self, point: Point, split: str, outcome: Outcome) -> None:
        """Measure, store and say."""
        thresholds = None
        if split != self.split:
            thresholds = thresholds_of(self.store.lines(self.split)[point.id])
        line, found = line_of(
            point,
            split,
            outcome,
            self.sheets(split),
            self.settings,
            levels=self.levels,
            thresholds=thresholds,
        )
        self.store.append(line, found)
        self.progress.say(one_line(line))


def unique(points: Sequence[Point]) -> list[Point]:
    """Each point once, in order."""
    return list({point.id: point for point in points}.values())
