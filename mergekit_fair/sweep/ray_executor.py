"""Points on Ray actors, each of which loads base and vectors once."""

from __future__ import annotations

from functools import cached_property

from mergekit_fair.progress import Progress, Silent
from mergekit_fair.ray_pool import Cluster, PoolActor, RayPool
from mergekit_fair.sweep.sweep_config import Sweep
from mergekit_fair.sweep.worker import Outcome, PointJob, PointWorker


class RayActor(PoolActor):
    """One worker of a sweep."""

    def __init__(self, sweep: Sweep, base: str, folder: str, threads: int) -> None:
        super().__init__(folder, threads)
        self._sweep, self._base = sweep, base

    def work(self, job: PointJob) -> Outcome:
        return self._worker.run(job)

    @cached_property
    def _worker(self) -> PointWorker:
        import torch

        from mergekit_fair.evaluation.evaluator import Evaluator

        torch.set_num_threads(self._threads)
        evaluate = self._sweep.config.evaluate
        return PointWorker(
            Evaluator(evaluate.request()),
            self._base,
            evaluate.device,
            self._sweep.recipe.vectors(),
            seed=self._sweep.config.seed,
            progress=Silent(),
        )


class RayExecutor(RayPool):
    """The points of a sweep on a pool of workers; raises as that does."""

    def __init__(
        self,
        sweep: Sweep,
        base: str,
        cluster: Cluster,
        progress: Progress | None = None,
        *,
        actor: type[RayActor] = RayActor,
    ) -> None:
        super().__init__(actor, (sweep, base), cluster, progress)
