"""Weights that cannot be added up: cut, changed or not finite; each is one message."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import GROUPS, read, rewrite
from safetensors.torch import save_file

from mergekit_fair.checkpoints.headers import read_header
from mergekit_fair.errors import CheckpointError, RecipeError

FILE = "HERE/Male/model.safetensors"
NAME = "bert.encoder.layer.1.output.dense.weight"
POSITIONS = "bert.embeddings.position_ids"


@pytest.mark.parametrize("more", [-1, -1000, 1])
def test_files_of_another_length(scene, more):
    file = scene.here / "Male" / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, size + more)
    got, allowed = f"{size + more} bytes", f"{size} bytes"
    scene.refuses(CheckpointError, where=FILE, got=got, allowed=allowed)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("model", ["base", "Male"])
def test_a_number_that_is_none(scene, model, value):
    rewrite(scene.here / model, lambda tensors: tensors[NAME].view(-1)[77:].fill_(value))
    for arguments in ((), ("--lambda", "0.5:1:0.5")):
        shows = (NAME, "NaN or Inf", "element 77")
        scene.refuses(CheckpointError, *shows, where=f"HERE/{model}", arguments=arguments)


def test_a_head_that_is_not_finite(scene):
    """The heads are compared before anything is merged; NaN is not unrelated."""
    rewrite(scene.here / "Male", lambda tensors: tensors["classifier.weight"][1].fill_(torch.nan))
    scene.refuses(CheckpointError, "classifier.weight", "NaN", "element 32", where="HERE/Male")


def test_norms_that_are_not_finite(scene):
    rewrite(scene.here / "Male", lambda tensors: tensors[NAME].view(-1)[77:].fill_(torch.nan))
    scene.write(scene.addition() | {"merge_method": "cclip", "parameters": {"rho": 1.0}})
    base = str(scene.here / "base")
    scene.refuses(CheckpointError, NAME, base, "not finite", where="HERE/Male")


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_a_number_that_is_none_by_methods_of_mergekit(scene, method):
    rewrite(scene.here / "Male", lambda tensors: tensors[NAME].view(-1)[77:].fill_(torch.nan))
    raw = scene.addition() | {"merge_method": method, "parameters": {}}
    for item in raw["models"]:
        item["parameters"] = {"weight": 0.5}
    if method == "linear":
        del raw["base_model"]
    scene.write(raw)
    scene.refuses(CheckpointError, "NaN or Inf", where=f"the merged tensor {NAME}")


WIDER = "lower λ, or give the recipe `dtype: float32` and no out_dtype"
NARROW = {
    "result": ({}, 3e38, 5.0, "float32", "lower λ"),
    "scale": ({}, 1.0, 1e308, "float32", "lower λ"),
    "dtype": ({"dtype": "float16"}, 6e4, 5.0, "float16", WIDER),
    "input": ({"dtype": "float16"}, 1e6, 0.1, "float16", WIDER),
    "out_dtype": ({"out_dtype": "float16"}, 1e6, 0.3, "float16", WIDER),
    "bfloat16": ({"dtype": "bfloat16"}, 3.4e38, 0.3, "bfloat16", WIDER),
}


@pytest.mark.parametrize(("block", "value", "scale", "dtype", "fix"), NARROW.values(), ids=NARROW)
def test_a_number_too_large_for_the_dtype(scene, block, value, scale, dtype, fix):
    rewrite(scene.here / "Male", lambda tensors: tensors[NAME].view(-1)[77].fill_(value))
    for model in ("base", *GROUPS):
        rewrite(scene.here / model, lambda tensors: tensors[NAME].view(-1)[:77].zero_())
    raw = scene.addition(lambda_=[{"filter": NAME, "value": scale}, {"value": 0.3}]) | block
    scene.write(raw)
    where = f"the merged tensor {NAME}"
    scene.refuses(CheckpointError, dtype, "element 77", where=where, fix=fix)


def test_integers_that_differ(scene):
    for model in ("base", *GROUPS):
        rewrite(scene.here / model, lambda tensors: tensors.update({POSITIONS: torch.arange(64)}))
    rewrite(scene.here / "Male", lambda tensors: tensors[POSITIONS][63].add_(1))
    scene.refuses(CheckpointError, f"integer tensor {POSITIONS}", where="HERE/Male")


def test_tensors_that_are_missing_or_more(scene):
    base = str(scene.here / "base")
    rewrite(scene.here / "Male", lambda tensors: tensors.pop(NAME))
    shows = (base, f"1 missing ['{NAME}'], 0 more []")
    scene.refuses(CheckpointError, *shows, where="HERE/Male")
    rewrite(scene.here / "Male", lambda tensors: tensors.update(more=torch.zeros(1)))
    shows = (base, f"1 missing ['{NAME}'], 1 more ['more']")
    scene.refuses(CheckpointError, *shows, where="HERE/Male")
    for model in ("base", *GROUPS):
        rewrite(scene.here / model, lambda tensors: tensors.pop(NAME, None))
    scene.refuses(CheckpointError, f"(tensors: 1 missing ['{NAME}'])", where="HERE/base")


def test_an_unrelated_head(scene):
    head = torch.randn(2, 32, generator=torch.Generator().manual_seed(8))
    rewrite(scene.here / "Male", lambda tensors: tensors.update({"classifier.weight": head}))
    shows = (str(scene.here / "Male"), str(scene.here / "base"), "-0.01")
    scene.refuses(RecipeError, *shows, where="HERE/r.yml", fix="parameters.head")


SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
INDEX = "model.safetensors.index.json"


def cut(scene, change=lambda _: None, parts=(20, 20)):
    """Male in two shards: `parts` are where the first ends and the second begins."""
    folder = scene.here / "Male"
    tensors = read(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    held = (names[: parts[0]], names[parts[1] :])
    where = {}
    for shard, part in zip(SHARDS, held, strict=True):
        own = {name: tensors[name] for name in part}
        save_file(own, folder / shard, metadata={"format": "pt"})
        where |= dict.fromkeys(own, shard)
    index = {"weight_map": where}
    index = change(index) or index
    (folder / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))


def mapped(**changes):
    return lambda index: index["weight_map"].update(changes)


INDICES = {
    "up": (mapped(x="../base/a.safetensors"), INDEX, ["'../base/a.safetensors'"]),
    "absolute": (mapped(x="/etc/passwd"), INDEX, ["'/etc/passwd'"]),
    "below": (mapped(x="a/b.safetensors"), INDEX, ["'a/b.safetensors'"]),
    "parent": (mapped(x=".."), "", ["missing", "['..']"]),
    "missing": (mapped(x="c.safetensors"), "", ["missing", "['c.safetensors']"]),
    "more": (mapped(x=SHARDS[0]), INDEX, ["1 tensors ['x']"]),
    "no-weights": (mapped(x="config.json"), "config.json", ["(header length out of range)"]),
    "cut": (lambda index: json.dumps(index)[:-2], INDEX, ["(Expecting ',' delimiter: line 1 col"]),
    "list": (lambda _: {"weight_map": []}, INDEX, ["maps no tensors"]),
    "numbers": (mapped(x=5), INDEX, ["maps no tensors"]),
}


@pytest.mark.parametrize(("change", "file", "shows"), INDICES.values(), ids=INDICES)
def test_indices_that_lie(scene, change, file, shows):
    cut(scene, change)
    scene.refuses(CheckpointError, *shows, where="/".join(filter(None, ["HERE/Male", file])))


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index["weight_map"].popitem() and None,
        mapped(**{"classifier.weight": SHARDS[0]}),
    ],
    ids=["less", "elsewhere"],
)
def test_shards_are_read_whole_whatever_the_index_leaves_out(scene, change):
    """As transformers reads them; mergekit would take the tensor for lost."""
    expected = scene.merged()
    shutil.rmtree(scene.here / "out")
    cut(scene, change)
    result = scene.merged()
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_shards_that_lie(scene):
    cut(scene, parts=(20, 19))
    twice = "bert.encoder.layer.0.output.dense.bias"
    scene.refuses(CheckpointError, twice, where="HERE/Male", got=SHARDS)
    (scene.here / "Male" / SHARDS[1]).rename(scene.here / "elsewhere")
    (scene.here / "Male" / SHARDS[1]).symlink_to(scene.here / "elsewhere")
    (scene.here / "Male" / ".cache" / "huggingface").mkdir(parents=True)
    link = {"where": f"HERE/Male/{SHARDS[1]}", "got": scene.here / "elsewhere"}
    scene.refuses(CheckpointError, "link", **link)
    (scene.here / "Male" / SHARDS[1]).unlink()
    scene.refuses(CheckpointError, "missing", where="HERE/Male", got=[SHARDS[1]])


def test_shards_and_a_single_file(scene):
    content = (scene.here / "Male" / "model.safetensors").read_bytes()
    cut(scene)
    (scene.here / "Male" / "model.safetensors").write_bytes(content)
    scene.refuses(CheckpointError, "model.safetensors", INDEX, where="HERE/Male")


def while_reading(monkeypatch, file, name, act, *, time=1):
    """Let `act` happen when a tensor of a file is read; if it returns False, nothing is read."""
    place = read_header(file)[name].offset
    preadv = os.preadv
    times = itertools.count(1)

    def read(handle, buffers, offset):
        is_there = offset == place and Path(f"/proc/self/fd/{handle}").readlink() == file
        if is_there and next(times) == time and act() is False:
            return 0
        return preadv(handle, buffers, offset)

    monkeypatch.setattr("os.preadv", read)


def test_a_file_that_ends_while_it_is_merged(scene, monkeypatch):
    file = scene.here / "Male" / "model.safetensors"
    shows = ("ends in the middle", NAME)
    with monkeypatch.context() as patch:
        while_reading(patch, file, NAME, lambda: False)
        scene.refuses(CheckpointError, *shows, where=FILE)
    while_reading(monkeypatch, file, NAME, lambda: os.truncate(file, 50_000))
    scene.refuses(CheckpointError, *shows, where=FILE, ignoring=("Male/model.safetensors",))


def fails():
    raise OSError(5, "Input/output error")


def test_a_disk_that_fails_while_it_is_read(scene, monkeypatch):
    file = scene.here / "Male" / "model.safetensors"
    while_reading(monkeypatch, file, NAME, fails)
    scene.refuses(CheckpointError, NAME, "(Input/output error)", where=FILE)


ACTS = {"touched": os.utime, "deleted": os.unlink, "emptied": lambda file: os.truncate(file, 0)}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_file_that_changes_while_it_is_merged(scene, monkeypatch, act):
    """After its last byte was read: what was read is what nobody can find any more."""
    file = scene.here / "Female" / "model.safetensors"
    last = scene.here / "Other" / "model.safetensors"
    # The first time, heads are compared.
    while_reading(monkeypatch, last, "classifier.weight", lambda: act(file), time=2)
    ignoring = ("Female/model.safetensors",)
    shows = ("model.safetensors", "changed")
    scene.refuses(CheckpointError, *shows, where="HERE/Female", ignoring=ignoring)
