"""What every executor promises; on Ray, two real workers, one of which is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from refusals import raises, refusal

from mergekit_fair.errors import CheckpointError, ConfigError, WorkerError
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.progress import Silent
from mergekit_fair.ray_pool import Cluster
from mergekit_fair.sweep.point_runner import Executor, LocalExecutor
from mergekit_fair.sweep.points import Planner, Point
from mergekit_fair.sweep.ray_executor import RayActor, RayExecutor
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.sweep_config import Sweep, load_sweep
from mergekit_fair.sweep.worker import Outcome, PointJob

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    found = pytest.importorskip("ray")
    found.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def sweep(swept: Path) -> Sweep:
    return load_sweep(swept / "sweep.yml")


@pytest.fixture(scope="module")
def planner(sweep: Sweep) -> Planner:
    return Planner(sweep, Evaluator(sweep.config.evaluate.request()).fingerprint())


def idle_actor() -> type[RayActor]:
    """A Ray worker without a model; made here, so that it travels by value."""

    class Idle(RayActor):
        def run(self, job: PointJob) -> Any:
            if job.point.label == "λ=0.5":
                return CheckpointError("is damaged", where=job.point.label)
            return Outcome(seconds=float(len(job.point.label)))

    return Idle


class IdleLocal(LocalExecutor):
    """This process without a model."""

    @property
    def worker(self) -> Any:
        return self

    def run(self, jobs: Any) -> Any:
        if isinstance(jobs, PointJob):  # as a worker
            if jobs.point.label == "λ=0.5":
                raise CheckpointError("is damaged", where=jobs.point.label)
            return Outcome(seconds=float(len(jobs.point.label)))
        return super().run(jobs)


# A new executor is one more line here.
EXECUTORS: dict[str, Callable[[Sweep], Executor]] = {
    "local": lambda sweep: IdleLocal(
        sweep, Evaluator(sweep.config.evaluate.request()), "", Silent()
    ),
    "ray": lambda sweep: RayExecutor(sweep, "", Cluster(workers=2), actor=idle_actor()),
}


@pytest.fixture(scope="class", params=EXECUTORS)
def executor(request: pytest.FixtureRequest, sweep: Sweep) -> Iterator[Executor]:
    if request.param == "ray":
        request.getfixturevalue("ray")
    made = EXECUTORS[request.param](sweep)
    yield made
    made.close()


def jobs_of(points: list[Point]) -> list[PointJob]:
    return [PointJob(point, "validation") for point in points]


class TestEveryExecutor:
    """One executor of each kind, used by all of these and closed."""

    def test_every_job_comes_back_once_with_its_own_outcome(
        self, executor: Executor, planner: Planner
    ) -> None:
        jobs = jobs_of(planner.baselines()) * 4
        for _ in range(2):  # it can be used again
            finished = list(executor.run(jobs))
            assert sorted(id(job) for job, _ in finished) == sorted(map(id, jobs))
            assert all(outcome.seconds == len(job.point.label) for job, outcome in finished)
        assert list(executor.run([])) == []

    def test_jobs_are_taken_when_a_worker_is_free_and_may_run_out(
        self, executor: Executor, planner: Planner
    ) -> None:
        """A time budget ends the jobs while workers are busy."""
        taken = 0

        def jobs() -> Iterator[PointJob]:
            nonlocal taken
            for job in jobs_of(planner.baselines()) * 4:
                taken += 1
                yield job

        for done, _ in enumerate(executor.run(jobs()), 1):
            assert taken <= done + 2  # one job a worker
        assert taken == 8

    def test_an_error_about_the_input_comes_back_as_itself(
        self, executor: Executor, planner: Planner
    ) -> None:
        point = next(point for point in planner.merges() if point.label == "λ=0.5")
        with raises(CheckpointError, where="λ=0.5"):
            list(executor.run(jobs_of([point])))


class Killing(RayExecutor):
    """Kills the process of a busy worker after the third outcome."""

    killed = 0

    def run(self, jobs: Any) -> Any:
        for number, finished in enumerate(super().run(jobs), 1):
            if number == 3 and not type(self).killed:
                process = self._ray.get(self.actors[0].process.remote())
                os.kill(process, signal.SIGKILL)
                type(self).killed = process
            yield finished


def test_two_workers_and_one_killed_give_the_local_results(
    ray: Any, swept: Path, tmp_path: Path
) -> None:
    del ray
    Killing.killed = 0

    def make(sweep: Any, evaluator: Any, base: str, progress: Any) -> RayExecutor:
        del evaluator, progress
        return Killing(sweep, base, Cluster(workers=2))

    run_sweep(load_sweep(swept / "sweep.yml"), tmp_path / "out", Silent(), make)
    assert Killing.killed
    expected, out = swept / "out", tmp_path / "out"
    assert (out / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    scores = sorted(path.name for path in (expected / "scores").iterdir())
    assert scores == sorted(path.name for path in (out / "scores").iterdir())
    for name in scores:
        assert (out / "scores" / name).read_bytes() == (expected / "scores" / name).read_bytes()


def test_a_worker_that_is_lost_again_and_again_ends_the_sweep(
    ray: Any, sweep: Sweep, planner: Planner
) -> None:
    del ray

    class Mortal(RayActor):
        def run(self, job: Any) -> Any:
            del job
            os.kill(os.getpid(), signal.SIGKILL)

    made = RayExecutor(sweep, "", Cluster(workers=1, restarts=1), actor=Mortal)
    with raises(WorkerError, "1 times", where="--executor ray"):
        list(made.run(jobs_of(planner.baselines()[:1])))


def test_a_worker_without_room_is_not_waited_for(ray: Any, sweep: Sweep, planner: Planner) -> None:
    """One of two fits the two CPUs: it does the work, and that is said."""
    del ray
    said = []

    class Hearing(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    made = RayExecutor(sweep, "", Cluster(workers=2, cpus=2), Hearing(), actor=idle_actor())
    finished = made.run(jobs_of(planner.baselines()))
    assert {job.point.label for job, _ in finished} == {"fft", "lora"}
    made.close()
    (text,) = said
    assert "1 of 2 workers of 2 CPUs" in text


@pytest.mark.parametrize(
    ("cluster", "needed"),
    [(Cluster(cpus=3), "3 CPUs"), (Cluster(gpus=0.5), "1 CPUs and 0.5 GPUs")],
)
def test_a_cluster_without_room_for_a_single_worker_is_said(
    ray: Any, sweep: Sweep, cluster: Cluster, needed: str
) -> None:
    del ray
    with raises(ConfigError, needed, where="--executor ray", got="2 CPUs and 0 GPUs"):
        RayExecutor(sweep, "", cluster)


def test_ray_that_is_not_installed_is_said(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["sweep", swept / "sweep.yml", "-o", tmp_path / "out", "--executor", "ray"]
    refusal([*arguments, "--quiet"], ConfigError, fix="mergekit-fair[ray]")
