"""Files of a grid: what no λ changes is computed, hashed and, where that can be, written once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from checkpoints import read
from click.testing import CliRunner
from mounts import mounted
from refusals import raises, refusal
from rounding import same_bits
from tiny import words_of

from mergekit_fair.checkpoints.vector_folder import write_vector
from mergekit_fair.cli import main
from mergekit_fair.disk import Sharing, sharing_in
from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.merging import to_disk as module
from mergekit_fair.merging.grid import lambda_points
from mergekit_fair.merging.manifest import MANIFEST, verify
from mergekit_fair.merging.methods.fair_head_method import fair_head_recipe
from mergekit_fair.merging.methods.formula import Formula, Formulas, Term
from mergekit_fair.merging.program import MergeSettings, OutputTensor
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.shards import SHARED_FROM, shards
from mergekit_fair.merging.to_disk import merge_grid, merge_to_folder

LAMBDAS = (0.0, 0.7, -1.0)
NAMES = ("lambda_0", "lambda_0.7", "lambda_-1")
DISKS = {"xfs": 320, "btrfs": 128}


def tensor(name: str, size: int, *, moves: bool, scales: tuple[float, ...]) -> OutputTensor:
    terms = (Term(1.0, "b"),) if moves else ()
    formula = Formula("a", "a", terms)
    formulas = Formulas(tuple(formula.scaled(scale) for scale in scales))
    return OutputTensor(name, (size,), torch.float32, torch.float32, formulas)


@pytest.fixture
def head(tiny: Any, tmp_path: Path) -> Recipe:
    """A recipe that changes the classification head alone."""
    target = tiny("bert").base
    vector = {
        name: torch.ones(value.shape)
        for name, value in read(target).items()
        if name.startswith("classifier.")
    }
    write_vector(tmp_path / "v", "Female", vector, target)
    members = {str(tmp_path / "v"): ("Female", 1.0)}
    raw = fair_head_recipe(str(target), members, ["F32"], lambda_=0.7)
    return Recipe.from_mapping(raw, "r.yml")


@pytest.fixture(params=["copy", "link", *DISKS])
def grid(request: Any, head: Recipe, tmp_path: Path, options: Any) -> Iterator[Path]:
    """Three models of it, on file systems that clone, and where they are linked or copied."""
    settings = MergeSettings(hard_links=request.param == "link")
    sharded = options.model_copy(update={"out_shard_size": 40_000})
    if request.param not in DISKS:
        merge_grid(lambda_points(head, LAMBDAS), tmp_path / "out", sharded, settings)
        yield tmp_path / "out"
        return
    with mounted(tmp_path, request.param, DISKS[request.param]) as disk:
        merge_grid(lambda_points(head, LAMBDAS), disk / "out", sharded, settings)
        yield disk / "out"


def shared_files(folder: Path) -> list[str]:
    """Files of weights that do not hold the head."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return sorted(set(index.values()) - {index["classifier.weight"]})


def test_models_of_a_grid_are_those_of_each_lambda(
    grid: Path, head: Recipe, tmp_path: Path, options: Any
) -> None:
    for name, value in zip(NAMES, LAMBDAS, strict=True):
        alone = head.with_settings({"lambda": value})
        merge_to_folder(alone, tmp_path / name, options)
        found, expected = read(grid / name), read(tmp_path / name)
        assert found.keys() == expected.keys()
        assert all(same_bits(found[key], expected[key]) for key in expected)
        manifest = verify(grid / name)
        assert manifest["fingerprint"] is None
        is_linked = (grid / name / shared_files(grid / name)[0]).stat().st_nlink > 1
        assert any("one file for all models" in note for note in manifest["notes"]) == is_linked
    assert len(shared_files(grid / NAMES[0])) > 1


def test_no_model_of_a_grid_depends_on_another(grid: Path, request: Any) -> None:
    """Files of one can be deleted and, unless they are read-only, changed."""
    one, two, three = (grid / name for name in NAMES)
    for name in shared_files(one):
        is_linked = "link" in request.node.callspec.params.values()
        assert ((one / name).stat().st_nlink == 3) == is_linked
        assert bool((one / name).stat().st_mode & 0o222) != is_linked
        if is_linked:
            continue
        with (one / name).open("r+b") as stream:
            stream.seek(-4, os.SEEK_END)
            stream.write(b"\1\2\3\4")
        os.sync()
    if "link" not in request.node.callspec.params.values():
        with raises(CheckpointError, "not what was merged", got=shared_files(one)):
            verify(one)
    for name in shared_files(two):
        (two / name).unlink()
    verify(three)


def test_files_of_a_grid_are_told_by_a_quick_digest(grid: Path) -> None:
    for name in NAMES:
        manifest = json.loads((grid / name / MANIFEST).read_text())
        for file, entry in manifest["files"].items():
            content = (grid / name / file).read_bytes()
            expected = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            if file.endswith(".safetensors"):
                del expected["sha256"]
                expected["xxh3_128"] = xxhash.xxh3_128(content).hexdigest()
            assert entry == expected
        result = CliRunner().invoke(main, words_of("check", grid / name))
        assert result.exit_code == 0, result.output


def test_only_a_grid_parts_what_no_lambda_changes() -> None:
    def files(*given: tuple[int, bool], scales: tuple[float, ...] = (0.1, 0.2)) -> list[Any]:
        tensors = [
            tensor(f"t{number}", size, moves=moves, scales=scales)
            for number, (size, moves) in enumerate(given)
        ]
        return [
            (file.name, file.is_shared, [t.name for t in file.tensors])
            for file in shards(tensors, 0)
        ]

    whole, one, two = (
        "model.safetensors",
        *(f"model-0000{number}-of-00002.safetensors" for number in (1, 2)),
    )
    assert files((5, False), (5, True)) == [(one, False, ["t1"]), (two, True, ["t0"])]
    assert files((5, False), (5, True), scales=(0.1,)) == [(whole, False, ["t0", "t1"])]
    assert files((5, False), (5, True), scales=(0.0, 0.0)) == [(whole, True, ["t0", "t1"])]
    assert files((5, True)) == [(whole, False, ["t0"])]
    least = round(100 * SHARED_FROM)
    assert len(files((least, False), (100 - least, True))) == 2
    assert len(files((least - 1, False), (100 - least + 1, True))) == 1
    assert shards([], 0)[0].tensors == ()


def test_what_is_written_once_needs_room_once(
    head: Recipe, tmp_path: Path, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(file.stat().st_size for file in Path(head.raw["base_model"]).glob("*.safetensors"))
    free = type("Usage", (), {"free": 2 * size})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: free)
    with raises(CheckpointError, "not enough space"):
        merge_grid(lambda_points(head, LAMBDAS), tmp_path / "out", options)
    linked = MergeSettings(hard_links=True)
    merge_grid(lambda_points(head, LAMBDAS), tmp_path / "out", options, linked)
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    assert sharing_in(tmp_path, hard_links=False) == Sharing.COPY
    assert sharing_in(tmp_path, hard_links=True) == Sharing.LINK
    monkeypatch.setattr(os, "link", refuse)
    with raises(ConfigError, "no hard links", where=tmp_path.parent):
        sharing_in(tmp_path, hard_links=True)
    assert not list(tmp_path.iterdir())


def test_links_are_for_grids(head: Recipe, tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(head.text())
    words = words_of("merge", tmp_path / "r.yml", tmp_path / "out", "--hard-links")
    refusal(words, ConfigError, "grid", where="--hard-links")
