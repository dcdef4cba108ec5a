"""Jobs on Ray actors (extra `ray`), each of which opens what its jobs share once.

Nothing but jobs and outcomes travels: workers read models and data by their paths, which every
machine of a cluster must therefore see.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_fair.errors import ConfigError, FairError, WorkerError, first_line
from mergekit_fair.progress import Progress, Silent


@dataclass(frozen=True)
class Cluster:
    """How many workers, and what each takes.

    Attributes:
        workers: actors.
        gpus: of each, may be a fraction; 0 for CPU.
        cpus: of each, which are its torch threads too.
        address: of a running cluster; None: RAY_ADDRESS, or else a new one on this machine.
        restarts: times that a lost worker is started again before the command gives up.
    """

    workers: int = 2
    gpus: float = 0.0
    cpus: int = 1
    address: str | None = None
    restarts: int = 3


class PoolActor(ABC):
    """One worker, in a process of its own; a subclass does a job in `work`.

    Args:
        folder: where the command was started, from which paths are named.
        threads: of torch.
    """

    def __init__(self, folder: str, threads: int) -> None:
        os.chdir(folder)
        self._threads = threads

    @abstractmethod
    def work(self, job: Any) -> Any:
        """The outcome of a job."""

    # An error that the user can mend is an answer; Ray would wrap it in its own.

    def run(self, job: Any) -> Any:
        """The outcome, or the error about the input or the disk that there was."""
        try:
            return self.work(job)
        except (FairError, OSError) as error:
            return error

    def process(self) -> int:
        """Its process id."""
        return os.getpid()


class RayPool:
    """Actors that take a job each, as soon as they are there and free.

    A worker that is lost is started again, and its job with it; results do not depend on who
    computed them. Workers for which the cluster has no room yet are not waited for.

    Args:
        actor: the class of the workers.
        arguments: of its `__init__`, before folder and threads.
        cluster: how many, and what each takes.
        progress: told of workers without room.

    Raises:
        ConfigError: Ray is not installed, the cluster cannot be reached, or none of its machines
            has what one worker takes.
    """

    def __init__(
        self,
        actor: type[PoolActor],
        arguments: Sequence[Any],
        cluster: Cluster,
        progress: Progress | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "--executor ray needs Ray", fix="run pip install 'mergekit-fair[ray]'"
            ) from error
        self._ray, self._restarts = ray, cluster.restarts
        self._connected = not ray.is_initialized()
        if self._connected:
            _connect(ray, cluster)
        try:
            _require_room(ray.nodes(), cluster, progress or Silent())
        except ConfigError:
            self._disconnect()
            raise
        remote = ray.remote(actor).options(
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            max_restarts=cluster.restarts,
            max_task_retries=cluster.restarts,
        )
        self.actors = [
            remote.remote(*arguments, os.getcwd(), cluster.cpus)  # noqa: PTH109
            for _ in range(cluster.workers)
        ]
        self._starting = {actor.process.remote(): actor for actor in self.actors}
        self._free: list[Any] = []

    def run(self, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Every job with its outcome, as they are done.

        Raises:
            WorkerError: a worker was lost again and again, or failed.
            FairError, OSError: what a worker has met.
        """
        waiting, has_more = iter(jobs), True
        running: dict[Any, tuple[Any, Any]] = {}
        while has_more or running:
            while has_more and self._free:
                job = next(waiting, None)
                if job is None:
                    has_more = False
                else:
                    worker = self._free.pop()
                    running[worker.run.remote(job)] = (job, worker)
            references = [*running, *(self._starting if has_more else ())]
            if not references:
                return
            ready = self._first_of(references)
            if ready in running:
                job, worker = running.pop(ready)
                self._free.append(worker)
                yield job, self._result(ready)

    def close(self) -> None:
        """End the workers."""
        for actor in self.actors:
            self._ray.kill(actor)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connected:
            self._ray.shutdown()

    def _first_of(self, references: Sequence[Any]) -> Any:
        """The first reference that is done; a worker that has started is free."""
        (ready,), _ = self._ray.wait(list(references), num_returns=1)
        if ready in self._starting:
            self._result(ready)
            self._free.append(self._starting.pop(ready))
        return ready

    def _result(self, reference: Any) -> Any:
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            raise WorkerError(
                f"a Ray worker was lost and {self._restarts} times started again, in vain "
                f"({first_line(error)})",
                where="--executor ray",
                fix="look for lack of memory; the same command goes on with what is finished",
            ) from error
        except self._ray.exceptions.RayError as error:
            raise WorkerError(
                f"a Ray worker failed ({first_line(error)})", where="--executor ray"
            ) from error
        if isinstance(result, (FairError, OSError)):
            raise result
        return result


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
            f"cannot start or reach Ray ({first_line(error)})",
            where="--ray-address",
            got=address,
        ) from error


def _require_room(nodes: Sequence[Any], cluster: Cluster, progress: Progress) -> None:
    """At least one worker fits a machine of the cluster.

    Raises:
        ConfigError: none does, so that the command would wait for ever.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    room = sum(_workers_on(machine, cluster) for machine in machines)
    one = f"{cluster.cpus} CPUs" + (f" and {cluster.gpus:g} GPUs" if cluster.gpus else "")
    if not room:
        has = [f"{m.get('CPU', 0):g} CPUs and {m.get('GPU', 0):g} GPUs" for m in machines]
        raise ConfigError(
            f"no machine of the Ray cluster has {one}, which one worker takes",
            where="--executor ray",
            got="; ".join(sorted(set(has))) or "no machine",
            fix="ask for less by --cpus and --gpus, or add machines first",
        )
    if room < cluster.workers:
        progress.say(
            f"the Ray cluster has room for {room} of {cluster.workers} workers of {one}; "
            "the others start when machines join"
        )


def _workers_on(machine: Mapping[str, float], cluster: Cluster) -> int:
    room = int(machine.get("CPU", 0) // cluster.cpus)
    if cluster.gpus >= 1:
        return min(room, int(machine.get("GPU", 0) // cluster.gpus))
    if cluster.gpus > 0:  # a worker's share is of one GPU
        return min(room, int(machine.get("GPU", 0)) * int(1 / cluster.gpus + 1e-9))
    return room
