"""A recipe of stored task vectors in a sweep: grid, random control, and what no vector can be."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
import yaml
from checkpoints import read
from refusals import raises
from rounding import same_bits

from mergekit_fair.checkpoints.vector_folder import write_vector
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.methods.fair_head_method import fair_head_recipe
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.point_runner import LocalExecutor
from mergekit_fair.sweep.preparation import prepared
from mergekit_fair.sweep.sweep_config import Sweep, load_sweep
from mergekit_fair.sweep.worker import PointWorker

HEAD = {"classifier.weight": torch.eye(2, 32), "classifier.bias": torch.tensor([-0.5, 0.5])}


@pytest.fixture
def vector(family: Path, tmp_path: Path) -> Path:
    write_vector(tmp_path / "v", "blue, 1", HEAD, family / "run" / "fft")
    return tmp_path / "v"


def sweep_of(family: Path, vector: Path, tmp_path: Path, **changes: object) -> Sweep:
    target = str(family / "run" / "fft")
    recipe = fair_head_recipe(target, {str(vector): ("blue, 1", 0.5)}, ["F32"])
    (tmp_path / "fair.yml").write_text(yaml.safe_dump(recipe))
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        recipe=str(tmp_path / "fair.yml"),
        inject=None,
        **{"grid": {"lambda": [0, 1], "weight.blue, 1": [0.5, 2]}, **changes},
    )
    return load_sweep(path)


def test_points_are_merges_and_controls_are_random_heads(
    family: Path, vector: Path, tmp_path: Path
) -> None:
    """λ = 0 is the target; a control moves what the vector moves, as far, and nothing else."""
    sweep = sweep_of(family, vector, tmp_path)
    evaluator, planner = prepared(sweep, Silent())
    points = planner.merges()
    assert [point.kind for point in points] == ["merge"] * 4 + ["control"] * 2
    executor = LocalExecutor(sweep, evaluator, planner.models()[0], Silent())
    worker: PointWorker = executor.worker
    target = read(family / "run" / "fft")
    for point in points:
        settings = point.planned.settings
        moved = float(settings["lambda"]) * float(settings["weight.blue, 1"])
        merged = dict(worker._weights(point))
        assert merged.keys() == target.keys()
        for name, start in target.items():
            if moved == 0 or name not in HEAD:
                assert same_bits(merged[name], start)
                continue
            step = merged[name].double() - start.double()
            length = moved * HEAD[name].double().norm()
            # The start is rounded to float32, and so is the result.
            assert torch.isclose(step.norm(), length, rtol=1e-4), (point.label, name)
            is_along = torch.allclose(step, moved * HEAD[name].double(), atol=1e-5)
            assert is_along is (point.kind == "merge")
    executor.close()


def test_a_vector_is_no_baseline(family: Path, vector: Path, tmp_path: Path) -> None:
    baselines = {"fft": str(family / "run" / "fft"), "fair": str(vector)}
    sweep = sweep_of(family, vector, tmp_path, baselines=baselines)
    with raises(CheckpointError, "task_vector.json", where=vector):
        prepared(sweep, Silent())
