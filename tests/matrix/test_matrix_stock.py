"""Architectures × mergekit's methods: `merge` writes what mergekit writes, or all that it loses.

Where mergekit merges a family whole, names and bits are its own. Where it raises, or writes a model
that transformers would fill up at random, the result has the base's tensors, each of which
mergekit's kernel makes of the same inputs.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from checkpoints import read
from mergekit.merge import run_merge
from mergekit.merge_methods import merge_state_dicts
from mergekit.options import MergeOptions
from zoo import ARCHITECTURES, BY_NAME, Architecture, Tensors, Trio, loaded, write_trio

import mergekit_fair
from mergekit_fair.compat.mergekit import for_mergekit, forget_models
from mergekit_fair.merging.configuration import models_in
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

GRADIENT = [0.25, 0.5, 0.75]
LAYER = re.compile(r"\.(\d+)\.")
# The rows that are merged at every run; the others are slow.
EVERY = {"bert", "vit", "qwen2-lm-tied", "mixtral-lm", "deepseek-v3-lm", "llava", "resnet"}
# What mergekit 0.1.5 does not merge, or not whole.
RAISES = {"bert-bare", "t5-lm", "clip", "qwen3-moe-lm-mixed", "qwen2-vl", "gemma3"}
RAISES |= {"neox-lm", "falcon-lm", "wav2vec2", "whisper", "resnet"}
LOSES = {"vit", "beit", "dinov2", "deepseek-v3-lm", "llava", "bert-qa"}


def recipe(method: str, trio: Trio) -> dict[str, Any]:
    """`a` and `b` over the base, or, for `slerp`, the base and `a` with a gradient over layers."""
    models: list[dict[str, Any]] = [{"model": str(trio.base)}, {"model": str(trio.a)}]
    parameters: dict[str, Any] = {"t": GRADIENT}
    if method != "slerp":
        weights = {"weight": 0.8437}, {"weight": 0.5319}
        models = [
            {"model": str(model), "parameters": own}
            for model, own in zip((trio.a, trio.b), weights, strict=True)
        ]
        parameters = {"density": 0.5} if method == "ties" else {}
    raw = {"merge_method": method, "base_model": str(trio.base), "models": models}
    return raw | {"parameters": parameters}


def kernel(method: str, trio: Trio) -> Tensors:
    """The same by mergekit's kernel, from state dictionaries; counters of batches are floats."""
    base, a, b = ({name: t.float() for name, t in each.items()} for each in trio.tensors)
    if method != "slerp":
        parameters: dict[str, Any] = {"weight": {1: 0.8437, 2: 0.5319}}
        parameters |= {"density": 0.5} if method == "ties" else {}
        return merge_state_dicts({0: base, 1: a, 2: b}, method, base=0, parameters=parameters)
    last: Counter[str] = Counter()
    for name in base:
        if found := LAYER.search(name):
            prefix = name[: found.start()]
            last[prefix] = max(last[prefix], int(found[1]))
    merged: Tensors = {}
    for name in base:
        found = LAYER.search(name)
        place = int(found[1]) / max(last[name[: found.start()]], 1) if found else 0.0
        t = float(numpy.interp(place, numpy.linspace(0, 1, len(GRADIENT)), GRADIENT))
        one = {0: {name: base[name]}, 1: {name: a[name]}}
        merged |= merge_state_dicts(one, "slerp", base=0, parameters={"t": t})
    return merged


@pytest.fixture(scope="module")
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Architecture, Trio]:
    row: Architecture = request.param
    return row, write_trio(tmp_path_factory.mktemp(row.name), row, (torch.float32,) * 3)


CASES = [
    pytest.param(
        row,
        method,
        id=f"{row.name}-{method}",
        marks=[] if row.name in EVERY else [pytest.mark.slow],
    )
    for row in ARCHITECTURES
    for method in ("slerp", "task_arithmetic", "ties")
]


@pytest.mark.parametrize(("family", "method"), CASES, indirect=["family"])
def test_as_mergekit_or_all_that_it_loses(
    family: tuple[Architecture, Trio], method: str, tmp_path: Path
) -> None:
    row, trio = family
    raw = recipe(method, trio)
    ours = Recipe.from_mapping(raw, "recipe.yml")
    merge_to_folder(ours, tmp_path / "ours", MergeOptions(quiet=True))
    _, report = loaded(tmp_path / "ours")
    assert not any(report.values()), report
    found = read(tmp_path / "ours")
    assert (row.name in RAISES) == (not by_mergekit(raw, tmp_path / "stock"))
    if row.name in RAISES | LOSES:
        assert found.keys() == trio.tensors[0].keys()
        for name, tensor in kernel(method, trio).items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
        if row.name in LOSES:
            assert loaded(tmp_path / "stock")[1]["missing_keys"]
        return
    stock = read(tmp_path / "stock")
    assert found.keys() == stock.keys()
    assert [name for name in stock if not torch.equal(found[name], stock[name])] == []
    assert all(found[name].dtype == tensor.dtype for name, tensor in stock.items())


def test_counters_that_differ_behind_the_gate(tmp_path: Path) -> None:
    trio = write_trio(tmp_path, BY_NAME["resnet"], (torch.float32,) * 3)
    ours = Recipe.from_mapping(trio.recipe(), "recipe.yml")
    merge_to_folder(ours, tmp_path / "merge", MergeOptions(quiet=True))
    mergekit_fair.register()
    assert by_mergekit(trio.recipe(), tmp_path / "gate")
    found, expected = read(tmp_path / "gate"), read(tmp_path / "merge")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def by_mergekit(raw: dict[str, Any], out: Path) -> bool:
    """Whether mergekit merges it; in the order of the recipe, where mergekit has a set."""
    forget_models()
    try:
        run_merge(for_mergekit(raw, models_in), str(out), MergeOptions(quiet=True))
    except Exception:  # whatever it likes
        return False
    return True
