"""Where jobs run: in this process, or on Ray actors. The driver alone writes results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from mergekit_fair.evaluation.evaluator import Exam
from mergekit_fair.progress import Progress
from mergekit_fair.sweep.sweep_config import Sweep
from mergekit_fair.sweep.worker import Outcome, PointJob, PointWorker


class Executor(Protocol):
    """Runs jobs, in any order."""

    def run(self, jobs: Sequence[PointJob]) -> Iterator[tuple[PointJob, Outcome]]:
        """Every job with its outcome, as soon as it has one."""

    def close(self) -> None:
        """Give memory and workers back."""


class Local:
    """One worker in this process, made when the first job comes."""

    def __init__(self, sweep: Sweep, exam: Exam, base: str, progress: Progress) -> None:
        self._given = (exam, base, sweep.config.evaluate.device, sweep.recipe.groups())
        self._seed, self._progress = sweep.config.seed, progress
        self._worker: PointWorker | None = None

    @property
    def worker(self) -> PointWorker:
        if self._worker is None:
            self._worker = PointWorker(*self._given, seed=self._seed, progress=self._progress)
        return self._worker

    def run(self, jobs: Sequence[PointJob]) -> Iterator[tuple[PointJob, Outcome]]:
        for job in jobs:
            yield job, self.worker.run(job)

    def close(self) -> None:
        self._worker = None
