"""Weights that cannot be added up: cut, changed or not finite; each is one message."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from checkpoints import GROUPS, read, rewrite
from safetensors.torch import save_file

from mergekit_fair.checkpoints.headers import read_header

AGAIN = "Copy or train the model again."
FILE = "HERE/Male/model.safetensors"
NAME = "bert.encoder.layer.1.output.dense.weight"
POSITIONS = "bert.embeddings.position_ids"


@pytest.mark.parametrize("more", [-1, -1000, 1])
def test_files_of_another_length(scene, more):
    file = scene.here / "Male" / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, size + more)
    assert scene.refused() == (
        f"{FILE}: is truncated or damaged; got '{size + more} bytes'; allowed: {size} bytes, as "
        f"its header says. {AGAIN}"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("model", ["base", "Male"])
def test_a_number_that_is_none(scene, model, value):
    rewrite(scene.here / model, lambda tensors: tensors[NAME].view(-1)[77:].fill_(value))
    message = f"HERE/{model}: tensor {NAME} has NaN or Inf, first at element 77. "
    assert scene.refused() == message + "Train or convert the model again."
    assert scene.refused("--lambda", "0.5:1:0.5") == message + "Train or convert the model again."


def test_a_head_that_is_not_finite(scene):
    """The heads are compared before anything is merged; NaN is not unrelated."""
    rewrite(scene.here / "Male", lambda tensors: tensors["classifier.weight"][1].fill_(torch.nan))
    assert scene.refused() == (
        "HERE/Male: tensor classifier.weight has NaN or Inf, first at element 32. Train or convert "
        "the model again."
    )


def test_norms_that_are_not_finite(scene):
    rewrite(scene.here / "Male", lambda tensors: tensors[NAME].view(-1)[77:].fill_(torch.nan))
    scene.write(scene.addition() | {"merge_method": "cclip", "parameters": {"rho": 1.0}})
    assert scene.refused() == (
        f"HERE/Male: tensor {NAME} minus the base's (HERE/base) is not finite. Train again, or "
        "leave the model out."
    )


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_a_number_that_is_none_by_methods_of_mergekit(scene, method):
    rewrite(scene.here / "Male", lambda tensors: tensors[NAME].view(-1)[77:].fill_(torch.nan))
    raw = scene.addition() | {"merge_method": method, "parameters": {}}
    for item in raw["models"]:
        item["parameters"] = {"weight": 0.5}
    if method == "linear":
        del raw["base_model"]
    scene.write(raw)
    assert scene.refused() == (
        f"the merged tensor {NAME}: has NaN or Inf: an input has, or a number became too large for "
        "its dtype. Look at this tensor in the inputs; nothing was written."
    )


WIDER = "Lower λ, or give the recipe `dtype: float32` and no out_dtype."
NARROW = {
    "result": ({}, 3e38, 5.0, "float32", "Lower λ."),
    "scale": ({}, 1.0, 1e308, "float32", "Lower λ."),
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
    assert scene.refused() == (
        f"the merged tensor {NAME}: a number is too large for {dtype} at element 77. {fix}"
    )


def test_integers_that_differ(scene):
    for model in ("base", *GROUPS):
        rewrite(scene.here / model, lambda tensors: tensors.update({POSITIONS: torch.arange(64)}))
    rewrite(scene.here / "Male", lambda tensors: tensors[POSITIONS][63].add_(1))
    assert scene.refused() == (
        f"HERE/Male: integer tensor {POSITIONS} differs from the base's. Integers are copied, not "
        "merged: make them equal first."
    )


def test_tensors_that_are_missing_or_more(scene):
    base = "HERE/Male: its tensors are not the base's (HERE/base):"
    fit = "Merge models of one architecture, fine-tuned from this base."
    rewrite(scene.here / "Male", lambda tensors: tensors.pop(NAME))
    assert scene.refused() == f"{base} 1 missing ['{NAME}'], 0 more []. {fit}"
    for model in ("base", *GROUPS):
        rewrite(scene.here / model, lambda tensors: tensors.pop(NAME, None))
    assert scene.refused() == (
        "HERE/base: transformers does not load these tensors into the architecture of config.json "
        f"whole (tensors: 1 missing ['{NAME}']). Load and save the model with transformers once, "
        "as the class that you use it with."
    )
    rewrite(scene.here / "Male", lambda tensors: tensors.update(more=torch.zeros(1)))
    assert scene.refused() == f"{base} 0 missing [], 1 more ['more']. {fit}"


def test_an_unrelated_head(scene):
    head = torch.randn(2, 32, generator=torch.Generator().manual_seed(8))
    rewrite(scene.here / "Male", lambda tensors: tensors.update({"classifier.weight": head}))
    assert scene.refused() == (
        "HERE/r.yml: the classification head of HERE/Male is unrelated to the base's (HERE/base): "
        "their cosine is -0.01, so the task vector would be the difference of two random heads. "
        "Fine-tune every model from one base that was saved with its head (`mergekit-fair train` "
        "does), or say what to do with parameters.head (merge, base, first)."
    )


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


OUTSIDE = f"HERE/Male/{INDEX}: names a file outside the model folder; got"
BESIDE = f"allowed: names of files beside the index. {AGAIN}"
MISSING = "HERE/Male: shards named in the index are missing; got"
NONE = f"HERE/Male/{INDEX}: is not a readable index of shards"

INDICES = {
    "up": (mapped(x="../base/a.safetensors"), f"{OUTSIDE} '../base/a.safetensors'; {BESIDE}"),
    "absolute": (mapped(x="/etc/passwd"), f"{OUTSIDE} '/etc/passwd'; {BESIDE}"),
    "below": (mapped(x="a/b.safetensors"), f"{OUTSIDE} 'a/b.safetensors'; {BESIDE}"),
    "parent": (mapped(x=".."), f"{MISSING} ['..']. {AGAIN}"),
    "missing": (mapped(x="c.safetensors"), f"{MISSING} ['c.safetensors']. {AGAIN}"),
    "more": (mapped(x=SHARDS[0]), f"HERE/Male/{INDEX}: does not agree with its shards on 1 tensors "
        f"['x']. {AGAIN}"),
    "less": (lambda index: index["weight_map"].popitem() and None, f"HERE/Male/{INDEX}: does not "
        f"agree with its shards on 1 tensors ['classifier.weight']. {AGAIN}"),
    "elsewhere": (mapped(**{"classifier.weight": SHARDS[0]}), f"HERE/Male/{INDEX}: does not agree "
        f"with its shards on 1 tensors ['classifier.weight']. {AGAIN}"),
    "no-weights": (mapped(x="config.json"), "HERE/Male/config.json: is not a readable safetensors "
        f"file (header length out of range). {AGAIN}"),
    "cut": (lambda index: json.dumps(index)[:-2], f"{NONE} (Expecting ',' delimiter: line 1 column "
        f"3391 (char 3390)). {AGAIN}"),
    "list": (lambda _: {"weight_map": []}, f"{NONE} (it maps no tensors to files). {AGAIN}"),
    "numbers": (mapped(x=5), f"{NONE} (it maps no tensors to files). {AGAIN}"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), INDICES.values(), ids=INDICES)
def test_indices_that_lie(scene, change, message):
    cut(scene, change)
    assert scene.refused() == message


def test_shards_that_lie(scene):
    cut(scene, parts=(20, 19))
    assert scene.refused() == (
        "HERE/Male: tensor bert.encoder.layer.0.output.dense.bias lies in two files; got "
        f"{SHARDS}. {AGAIN}"
    )
    (scene.here / "Male" / SHARDS[1]).rename(scene.here / "elsewhere")
    (scene.here / "Male" / SHARDS[1]).symlink_to(scene.here / "elsewhere")
    assert scene.refused() == (
        f"HERE/Male/{SHARDS[1]}: is a link out of the model folder; got 'HERE/elsewhere'. Copy the "
        "file into the folder."
    )
    (scene.here / "Male" / SHARDS[1]).unlink()
    assert scene.refused() == f"{MISSING} ['{SHARDS[1]}']. {AGAIN}"


def test_shards_and_a_single_file(scene):
    content = (scene.here / "Male" / "model.safetensors").read_bytes()
    cut(scene)
    (scene.here / "Male" / "model.safetensors").write_bytes(content)
    assert scene.refused() == (
        f"HERE/Male: holds model.safetensors, which transformers reads, and {INDEX}, which "
        "mergekit reads. Delete the outdated one."
    )


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
    message = (
        f"{FILE}: ends in the middle of tensor {NAME}; it was complete before the merge. Merge "
        "again when nothing writes to it."
    )
    with monkeypatch.context() as patch:
        while_reading(patch, file, NAME, lambda: False)
        assert scene.refused() == message
    while_reading(monkeypatch, file, NAME, lambda: os.truncate(file, 50_000))
    assert scene.refused(ignoring=("Male/model.safetensors",)) == message


def fails():
    raise OSError(5, "Input/output error")


def test_a_disk_that_fails_while_it_is_read(scene, monkeypatch):
    file = scene.here / "Male" / "model.safetensors"
    while_reading(monkeypatch, file, NAME, fails)
    assert scene.refused() == (
        f"{FILE}: tensor {NAME} cannot be read (Input/output error). {AGAIN}"
    )


ACTS = {"touched": os.utime, "deleted": os.unlink, "emptied": lambda file: os.truncate(file, 0)}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_file_that_changes_while_it_is_merged(scene, monkeypatch, act):
    """After its last byte was read: what was read is what nobody can find any more."""
    file = scene.here / "Female" / "model.safetensors"
    last = scene.here / "Other" / "model.safetensors"
    # The first time, heads are compared.
    while_reading(monkeypatch, last, "classifier.weight", lambda: act(file), time=2)
    assert scene.refused(ignoring=("Female/model.safetensors",)) == (
        "HERE/Female: model.safetensors was changed while it was merged. Merge again when nothing "
        "writes to it."
    )
