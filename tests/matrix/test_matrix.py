"""Architectures × dtypes: a merge is dense arithmetic on every tensor, and the model runs.

The oracle is θ₀ + λ Σ w_g (θ_g − θ₀) in float64, once over the files' tensors and once over the
parameters of the models that transformers loads from the three inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import read
from mergekit.options import MergeOptions
from rounding import rounded
from zoo import (
    ARCHITECTURES,
    LAMBDA,
    WEIGHTS,
    Architecture,
    Tensors,
    Trio,
    inputs,
    loaded,
    write_trio,
)

from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# The dtypes of base, a and b, and the recipe's settings; the output has the base's dtype.
DTYPES: dict[str, tuple[tuple[torch.dtype, ...], dict[str, str]]] = {
    "fp32": ((FP32, FP32, FP32), {}),
    "bf16": ((BF16, BF16, BF16), {}),
    "fp16": ((FP16, FP16, FP16), {}),
    "mixed": ((BF16, FP32, FP16), {"dtype": "float32", "out_dtype": "bfloat16"}),
}
# The rows that are merged in every dtype; the others in float32 only.
SLOW = {"fp16", "mixed"}
NARROW = {"bert", "gpt2-lm", "qwen2-lm-tied", "t5-lm", "vit", "clip", "resnet"}


@dataclass(frozen=True)
class Merge:
    """A merge that was run: its inputs, its output folder, the dtype that is expected there."""

    row: Architecture
    trio: Trio
    out: Path
    dtype: torch.dtype


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((row, name), marks=[pytest.mark.slow] if name in SLOW else [])
        for row in ARCHITECTURES
        for name in DTYPES
        if name == "fp32" or row.name in NARROW
    ],
    ids=lambda param: f"{param[0].name}-{param[1]}",
)
def merge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Merge:
    row, name = request.param
    dtypes, settings = DTYPES[name]
    folder = tmp_path_factory.mktemp(f"{row.name}-{name}")
    trio = write_trio(folder, row, dtypes)
    recipe = Recipe.from_mapping(trio.recipe(**settings), "recipe.yml")
    merge_to_folder(recipe, folder / "out", MergeOptions(quiet=True))
    return Merge(row, trio, folder / "out", dtypes[0])


def test_the_tensors_are_the_bases(merge: Merge) -> None:
    base, found = read(merge.trio.base), read(merge.out)
    assert layout(found) == layout(base)
    assert all(t.dtype == merge.dtype for t in found.values() if t.is_floating_point())
    if merge.row.tied:
        assert merge.row.tied not in found


def test_every_floating_tensor_is_dense_arithmetic_rounded_once(merge: Merge) -> None:
    base, a, b = merge.trio.tensors
    found, differing, total = read(merge.out), 0, 0
    for name, (exact, terms) in dense(base, {"a": a, "b": b}):
        # Float32 rounds a term six times on its way into the sum (Δ, w, w Δ, Σ, λ, λ Σ) and the
        # sum with θ₀ once more. Where terms cancel, that is many ulps of the little that is left,
        # so what must hold is that the result is the rounding of a number that near.
        error = 2.0**-24 * (6 * terms + exact.abs())
        low, high = nearest(exact - error, merge.dtype), nearest(exact + error, merge.dtype)
        assert bool(((low <= found[name]) & (found[name] <= high)).all()), name
        differing += int((found[name] != nearest(exact, merge.dtype)).sum())
        total += exact.numel()
    if merge.dtype != FP32:  # a wide sum seldom lies so near the middle of two
        assert differing <= 0.0005 * total


def test_integer_tensors_are_the_bases(merge: Merge) -> None:
    base, found = read(merge.trio.base), read(merge.out)
    integers = [name for name, tensor in base.items() if not tensor.is_floating_point()]
    assert (merge.row.name == "resnet") == bool(integers)
    for name in integers:
        assert torch.equal(found[name], base[name]), name
        assert len({int(tensors[name]) for tensors in merge.trio.tensors}) == 3


def test_the_model_loads_whole(merge: Merge) -> None:
    model, report = loaded(merge.out)
    assert not any(report.values()), report
    assert type(model).__name__ == merge.row.model
    assert model.dtype == merge.dtype
    if merge.row.tied:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_model_computes_what_dense_parameters_compute(merge: Merge) -> None:
    models = [loaded(folder, dtype=FP32)[0] for folder in merge.trio.folders]
    base, (state, *others) = models[0], [model.state_dict() for model in models]
    before = forward(base, merge.row)
    parameters = {
        name: nearest(exact, merge.dtype)
        for name, (exact, _) in dense(state, dict(zip(WEIGHTS, others, strict=True)))
    }
    base.load_state_dict(state | parameters)
    expected = forward(base, merge.row)
    found = forward(loaded(merge.out, dtype=FP32)[0], merge.row)
    assert bool(found.isfinite().all())
    # One ulp in CLIP's logit_scale is a factor of 1.002 in float16.
    near = 1e-5 if merge.dtype == FP32 else 1e-3
    torch.testing.assert_close(found, expected, rtol=near, atol=near)
    assert not torch.allclose(before, expected, rtol=5 * near, atol=5 * near)


def dense(base: Tensors, groups: dict[str, Tensors]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """(name, (θ, Σ |λ w Δ|)) in float64 for every floating tensor."""
    for name, start in base.items():
        if start.is_floating_point():
            terms = [
                LAMBDA * weight * (groups[group][name].double() - start.double())
                for group, weight in WEIGHTS.items()
            ]
            yield name, (start.double() + sum(terms), sum(term.abs() for term in terms))


def nearest(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A float64 tensor rounded once, half to even."""
    if dtype == FP32:
        return exact.float()
    return rounded(exact.reshape(-1), dtype).reshape(exact.shape)


def layout(tensors: Tensors) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def forward(model: Any, row: Architecture) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs(row), return_dict=False)[0]
