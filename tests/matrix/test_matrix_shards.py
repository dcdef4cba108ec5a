"""Sharded inputs and outputs give the tensors of the single file, and a complete index."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import read
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from zoo import BY_NAME, Tensors, Trio, loaded, write_trio

from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

SHARD = 20_000  # bytes; the models have 80,000 to 200,000
ROWS = ("bert", "qwen2-lm-tied", "t5-lm", "vit", "clip", "resnet")


@pytest.fixture(scope="module", params=ROWS)
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """One file each."""
    folder = tmp_path_factory.mktemp(request.param)
    return write_trio(folder, BY_NAME[request.param], (torch.float32,) * 3)


@pytest.mark.parametrize("which", ["base", "a"])
def test_a_sharded_input_beside_single_files(trio: Trio, tmp_path: Path, which: str) -> None:
    whole = read(merged(trio, tmp_path / "whole"))
    folder = tmp_path / "sharded"
    shutil.copytree(getattr(trio, which), folder)
    (folder / "model.safetensors").unlink()
    loaded(getattr(trio, which))[0].save_pretrained(folder, max_shard_size=SHARD)
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    found = read(merged(replace(trio, **{which: folder}), tmp_path / "out"))
    require_same(found, whole)


def test_a_sharded_output(trio: Trio, tmp_path: Path) -> None:
    whole = read(merged(trio, tmp_path / "whole"))
    out = merged(trio, tmp_path / "out", out_shard_size=SHARD)
    files = {path.name: load_file(path) for path in sorted(out.glob("*.safetensors"))}
    assert len(files) >= 3
    count = len(files)
    assert list(files) == [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    require_same({name: t for file in files.values() for name, t in file.items()}, whole)
    assert sum(map(len, files.values())) == len(whole)
    for tensors in files.values():
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= SHARD
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file for file in files for name in files[file]}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    _, report = loaded(out)
    assert not any(report.values()), report


def merged(trio: Trio, out: Path, **options: int) -> Path:
    recipe = Recipe.from_mapping(trio.recipe(), "recipe.yml")
    merge_to_folder(recipe, out, MergeOptions(quiet=True, **options))
    return out


def require_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(
            found[name].view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8)
        )
