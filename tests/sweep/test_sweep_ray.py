"""`--executor ray`: two real workers on this machine; one is killed; the results are the same."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mergekit_fair.errors import CheckpointError, ConfigError, SweepError
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.ray_executor import Cluster, RayExecutor
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.sweep_config import load_sweep

pytestmark = [
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


class Killing(RayExecutor):
    """Kills the process of a busy worker after the third outcome."""

    killed = 0

    def run(self, jobs: Any) -> Any:
        for number, found in enumerate(super().run(jobs), 1):
            if number == 3 and not type(self).killed:
                process = self._ray.get(self.actors[0].process.remote())
                os.kill(process, signal.SIGKILL)
                type(self).killed = process
            yield found


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
    expected = swept / "out"
    assert (tmp_path / "out" / "results.json").read_bytes() == (
        expected / "results.json"
    ).read_bytes()
    scores = sorted(path.name for path in (expected / "scores").iterdir())
    assert scores == sorted(path.name for path in (tmp_path / "out" / "scores").iterdir())
    for name in scores:
        found = (tmp_path / "out" / "scores" / name).read_bytes()
        assert found == (expected / "scores" / name).read_bytes()


def test_errors_come_back_from_a_worker(ray: Any, family: Path, tmp_path: Path) -> None:
    import tiny

    from mergekit_fair.evaluation.evaluator import Evaluator
    from mergekit_fair.sweep.points import Planner
    from mergekit_fair.sweep.worker import PointJob

    del ray
    sweep = load_sweep(tiny.write_sweep(family, tmp_path / "s.yml"))
    planner = Planner(sweep, Evaluator(sweep.config.evaluate.request()).fingerprint())
    broken = planner.baselines()[0]
    object.__setattr__(broken, "model", str(tmp_path / "nowhere"))
    made = RayExecutor(sweep, planner.models()[0], Cluster(workers=1))
    with pytest.raises(CheckpointError) as caught:
        list(made.run([PointJob(broken, "validation")]))
    assert str(caught.value.where) == str(tmp_path / "nowhere")
    made.close()


def test_a_worker_that_is_lost_again_and_again_ends_the_sweep(
    ray: Any, swept: Path, tmp_path: Path
) -> None:
    del ray, tmp_path
    from mergekit_fair.evaluation.evaluator import Evaluator
    from mergekit_fair.sweep import ray_executor as on_ray
    from mergekit_fair.sweep.points import Planner
    from mergekit_fair.sweep.worker import PointJob

    class Mortal(on_ray.RayActor):
        def run(self, job: Any) -> Any:
            del job
            os.kill(os.getpid(), signal.SIGKILL)

    sweep = load_sweep(swept / "sweep.yml")
    planner = Planner(sweep, Evaluator(sweep.config.evaluate.request()).fingerprint())
    cluster = Cluster(workers=1, restarts=1)
    made = RayExecutor(sweep, planner.models()[0], cluster, actor=Mortal)
    with pytest.raises(SweepError, match="a Ray worker was lost and 1 times started again"):
        list(made.run([PointJob(planner.baselines()[0], "validation")]))


def test_a_worker_without_room_is_not_waited_for(ray: Any, swept: Path) -> None:
    """One of two fits the two CPUs: it does the work, and that is said."""
    from mergekit_fair.evaluation.evaluator import Evaluator
    from mergekit_fair.sweep.points import Planner
    from mergekit_fair.sweep.ray_executor import RayActor
    from mergekit_fair.sweep.worker import Outcome, PointJob

    del ray
    said = []

    class Idle(RayActor):
        def run(self, job: Any) -> Any:
            del job
            return Outcome(seconds=1.0)

    class Hearing(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    sweep = load_sweep(swept / "sweep.yml")
    planner = Planner(sweep, Evaluator(sweep.config.evaluate.request()).fingerprint())
    cluster = Cluster(workers=2, cpus=2)
    made = RayExecutor(sweep, planner.models()[0], cluster, Hearing(), actor=Idle)
    jobs = [PointJob(point, "validation") for point in planner.baselines()]
    assert {job.point.label for job, _ in made.run(jobs)} == {"fft", "lora"}
    made.close()
    assert said == [
        "the Ray cluster has room for 1 of 2 workers of 2 CPUs; the others start when machines join"
    ]


@pytest.mark.parametrize(
    ("cluster", "text"),
    [
        (Cluster(cpus=3), "no machine of the Ray cluster has 3 CPUs, which one worker takes"),
        (Cluster(gpus=0.5), "has 1 CPUs and 0.5 GPUs, which one worker takes; got '2 CPUs and 0"),
    ],
)
def test_a_cluster_without_room_for_a_single_worker_is_said(
    ray: Any, swept: Path, cluster: Cluster, text: str
) -> None:
    del ray
    with pytest.raises(ConfigError, match=text):
        RayExecutor(load_sweep(swept / "sweep.yml"), "", cluster)


def test_ray_that_is_not_installed_is_said(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from mergekit_fair.cli import main

    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = [
        "sweep",
        str(swept / "sweep.yml"),
        "-o",
        str(tmp_path / "out"),
        "--executor",
        "ray",
    ]
    found = CliRunner().invoke(main, [*arguments, "--quiet"])
    assert found.exit_code == 2
    assert "Run pip install 'mergekit-fair[ray]'" in found.stderr
    with pytest.raises(ConfigError, match="--executor ray needs Ray"):
        RayExecutor(load_sweep(swept / "sweep.yml"), "", Cluster())
