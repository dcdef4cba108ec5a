"""What a device computes against what the CPU does: `pytest -m gpu`, on a machine that has one.

`MERGEKIT_FAIR_DEVICE=cpu pytest -m gpu` runs the same on the CPU alone: do the tests run?
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import adapters_on, addition
from checkpoints import read
from mergekit.options import MergeOptions
from tiny import write_sweep

from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.sweep_config import load_sweep

DEVICE = os.environ.get("MERGEKIT_FAIR_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device here"
    ),
]
ROUTES = {"on the device": DEVICE, "on the CPU": "cpu"}
dtypes = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def merged(raw: dict[str, Any], out: Path, device: str) -> dict[str, torch.Tensor]:
    """The tensors of a merge to disk."""
    options = MergeOptions(quiet=True, device=device)
    merge_to_folder(Recipe.from_mapping(raw, "r.yml"), out, options, MergeSettings())
    return read(out)


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@dtypes
@pytest.mark.parametrize(
    "method", ["subgroup_task_addition", "task_median", "fedgma", "cclip", "awd"]
)
def test_a_merge_has_the_bits_of_the_cpu(
    method: str, dtype: str, tiny: Any, tmp_path: Path
) -> None:
    parameters = {"cclip": {"rho": 0.5}, "fedgma": {"rho": 0.5}}.get(method, {})
    raw = {
        **tiny("bert").addition(lambda_=0.7, **parameters),
        "merge_method": method,
        "dtype": dtype,
    }
    found, expected = (merged(raw, tmp_path / name, device) for name, device in ROUTES.items())
    assert_same_bits(found, expected)


@dtypes
def test_adapters_have_the_bits_of_the_cpu(dtype: str, tiny: Any, tmp_path: Path) -> None:
    family = tiny("bert")
    raw = addition(family.base, adapters_on(family.base, tmp_path / "a", "bert"), dtype=dtype)
    found, expected = (merged(raw, tmp_path / name, device) for name, device in ROUTES.items())
    assert_same_bits(found, expected)


@dtypes
def test_composing_in_memory_has_the_bits_of_the_file(
    dtype: str, tiny: Any, tmp_path: Path
) -> None:
    for scale in (0.2, 0.9):
        raw = {**tiny("bert").addition(lambda_=scale), "dtype": dtype}
        composed = Composer(DEVICE).compose(Recipe.from_mapping(raw, "r.yml"))
        found = {name: tensor.cpu() for name, tensor in composed}
        assert_same_bits(found, merged(raw, tmp_path / str(scale), "cpu"))


def test_a_sweep_predicts_as_on_the_cpu(family: Path, tmp_path: Path) -> None:
    """Scores differ in their last bits: another order of additions in every matrix product."""
    scores: dict[str, list[np.ndarray]] = {}
    for name, device in ROUTES.items():
        (tmp_path / name).mkdir()
        path = write_sweep(family, tmp_path / name / "sweep.yml")
        path.write_text(path.read_text().replace("device: cpu", f"device: {device}"))
        results = run_sweep(load_sweep(path), tmp_path / name / "out", Silent())
        store = Store(tmp_path / name / "out")
        scores[name] = [np.asarray(store.scores(point.id, point.split)) for point in results.points]
        store.close()
    for found, expected in zip(*scores.values(), strict=True):
        assert found == pytest.approx(expected, abs=1e-3)
        clear = np.abs(expected) > 2e-3
        assert ((found > 0) == (expected > 0))[clear].all()
