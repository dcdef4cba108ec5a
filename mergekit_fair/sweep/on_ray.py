"""Jobs on Ray actors (extra `ray`), each of which loads base and vectors once.

Nothing but points and scores travels: workers read models and data by their paths, which every
machine of a cluster must therefore see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mergekit_fair.errors import ConfigError, FairError, SweepError
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.config import Sweep
from mergekit_fair.sweep.worker import Job, Outcome, Slope, Worker


@dataclass(frozen=True)
class Cluster:
    """How many workers, and what each takes.

    Attributes:
        workers: actors.
        gpus: of each, may be a fraction; 0 for CPU.
        cpus: of each, which are its torch threads too.
        address: of a running cluster; None: RAY_ADDRESS, or else a new one on this machine.
        restarts: times that a lost worker is started again before the sweep gives up.
    """

    workers: int = 2
    gpus: float = 0.0
    cpus: int = 1
    address: str | None = None
    restarts: int = 3


class RayActor:
    """One worker, in a process of its own."""

    def __init__(self, sweep: Sweep, base: str, folder: str, threads: int) -> None:
        os.chdir(folder)  # models are named relative to where the sweep was started
        self._sweep, self._base, self._threads = sweep, base, threads

    # An error that is about the input is an answer; Ray would wrap it in its own.

    def run(self, job: Job) -> Outcome | FairError:
        try:
            return self._worker.run(job)
        except FairError as error:
            return error

    def slope(self, asked: Slope) -> tuple[float, ...] | FairError:
        try:
            return self._worker.slope(asked)
        except FairError as error:
            return error

    @cached_property
    def _worker(self) -> Worker:
        import torch

        from mergekit_fair.sweep.exams import open_exam

        torch.set_num_threads(self._threads)
        evaluate = self._sweep.config.evaluate
        return Worker(
            open_exam(evaluate),
            self._base,
            evaluate.device,
            self._sweep.recipe.groups(),
            seed=self._sweep.config.seed,
            progress=Silent(),
        )

    def process(self) -> int:
        """Its process id."""
        return os.getpid()


class OnRay:
    """Actors that take a job each, as soon as they are free.

    A worker that is lost is started again, and its job with it; results do not depend on who
    computed them.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(
        self,
        sweep: Sweep,
        base: str,
        cluster: Cluster,
        *,
        actor: type[RayActor] = RayActor,
    ) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "--executor ray needs Ray", fix="run pip install 'mergekit-fair[ray]'"
            ) from None
        self._ray, self._restarts = ray, cluster.restarts
        self._connected = not ray.is_initialized()
        if self._connected:
            _connect(ray, cluster)
        remote = ray.remote(actor).options(
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            max_restarts=cluster.restarts,
            max_task_retries=cluster.restarts,
        )
        self.actors = [
            remote.remote(sweep, base, os.getcwd(), cluster.cpus)  # noqa: PTH109
            for _ in range(cluster.workers)
        ]

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        waiting, free = list(reversed(jobs)), list(self.actors)
        running: dict[Any, tuple[Job, Any]] = {}
        while waiting or running:
            while waiting and free:
                job, actor = waiting.pop(), free.pop()
                running[actor.run.remote(job)] = (job, actor)
            ready, _ = self._ray.wait(list(running), num_returns=1)
            job, actor = running.pop(ready[0])
            free.append(actor)
            yield job, self._result(ready[0])

    def slope(self, asked: Slope) -> tuple[float, ...]:
        return self._result(self.actors[0].slope.remote(asked))

    def close(self) -> None:
        for actor in self.actors:
            self._ray.kill(actor)
        if self._connected:
            self._ray.shutdown()

    def _result(self, reference: Any) -> Any:
        try:
            found = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            raise SweepError(
                f"a Ray worker was lost and {self._restarts} times started again, in vain "
                f"({_first_line(error)})",
                where="--executor ray",
                fix="look for lack of memory; the same command goes on with what is finished",
            ) from None
        except self._ray.exceptions.RayError as error:
            raise SweepError(
                f"a Ray worker failed ({_first_line(error)})", where="--executor ray"
            ) from None
        if isinstance(found, FairError):
            raise found
        return found


def _connect(ray: Any, cluster: Cluster) -> None:
    needed = cluster.workers * cluster.cpus
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False}
    if address is None:  # our own: as many processors as are asked for, whatever the machine has
        options |= {"num_cpus": needed}
    else:
        options = {"log_to_driver": False, "address": address}
    try:
        ray.init(logging_level="ERROR", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cannot start or reach Ray ({_first_line(error)})",
            where="--ray-address",
            got=address,
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
