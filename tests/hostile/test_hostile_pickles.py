"""Pickled weights: refused unless they are allowed, never run, and merged like any others."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from checkpoints import read

from mergekit_fair.errors import CheckpointError

BIN, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
NAME = "classifier.weight"


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def pickled(scene, change=lambda tensors: tensors, **options):
    """Male's weights in a pickle instead."""
    folder = scene.here / "Male"
    torch.save(change(read(folder)), folder / BIN, **options)
    (folder / "model.safetensors").unlink()


def test_refused_unless_allowed(scene):
    pickled(scene)
    scene.refuses(CheckpointError, "got ['pytorch_model.bin']", "--allow-pickle", where="HERE/Male")


def parameters(tensors):
    return {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}


def strided(tensors):
    return tensors | {NAME: tensors[NAME].t().contiguous().t()}


@pytest.mark.parametrize("change", [dict, parameters, strided])
@pytest.mark.parametrize("is_archive", [True, False])
def test_good_ones_give_the_same_tensors(scene, change, is_archive):
    expected = scene.merged()
    (scene.here / "out").rename(scene.here / "first")
    pickled(scene, change, _use_new_zipfile_serialization=is_archive)
    found = scene.merged("--allow-pickle")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("place", ["alone", "beside", "plain"])
def test_code_is_not_run(scene, place):
    evil = Evil(f"touch {scene.here / 'ran'}")
    if place == "plain":
        pickled(scene)
        (scene.here / "Male" / BIN).write_bytes(pickle.dumps(evil))
    else:
        pickled(scene, lambda tensors: evil if place == "alone" else tensors | {"x": evil})
    scene.refuses(
        CheckpointError,
        "(it is damaged, or holds more than tensors)",
        where="HERE/Male/pytorch_model.bin",
        arguments=("--allow-pickle",),
    )
    assert not (scene.here / "ran").exists()


def other(value):
    return lambda tensors: tensors | {NAME: value(tensors[NAME])}


BAD = {
    "list": (
        lambda _: [1],
        ["HERE/Male/pytorch_model.bin", "(it does not map names to dense tensors)"],
    ),
    "number": (
        other(lambda _: 5),
        ["HERE/Male/pytorch_model.bin", "(it does not map names to dense tensors)"],
    ),
    "number-name": (
        lambda tensors: tensors | {5: torch.zeros(1)},
        ["HERE/Male/pytorch_model.bin", "(it does not map names to dense tensors)"],
    ),
    "sparse": (
        other(lambda tensor: tensor.to_sparse()),
        ["HERE/Male/pytorch_model.bin", "(it does not map names to dense tensors)"],
    ),
    "meta": (
        other(lambda tensor: tensor.to("meta")),
        ["HERE/Male/pytorch_model.bin", "(it does not map names to dense tensors)"],
    ),
    "complex": (
        other(lambda tensor: tensor.to(torch.complex64)),
        [
            "HERE/Male",
            "got 'torch.complex64'",
            "allowed: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL",
        ],
    ),
    "nan": (
        other(lambda tensor: tensor * torch.nan),
        ["HERE/Male", "tensor classifier.weight has NaN or Inf,"],
    ),
}


@pytest.mark.parametrize(("change", "expected"), BAD.values(), ids=BAD)
def test_what_is_no_state_dictionary(scene, change, expected):
    pickled(scene, change)
    where, *shows = expected
    scene.refuses(CheckpointError, *shows, where=where, arguments=("--allow-pickle",))


@pytest.mark.parametrize("size", [0, 100, -1000])
def test_cut_ones(scene, size):
    pickled(scene)
    file = scene.here / "Male" / BIN
    os.truncate(file, size if size >= 0 else file.stat().st_size + size)
    scene.refuses(
        CheckpointError,
        "(it is damaged, or holds more than tensors)",
        where="HERE/Male/pytorch_model.bin",
        arguments=("--allow-pickle",),
    )


def test_a_link_out_of_the_folder(scene):
    pickled(scene)
    (scene.here / "Male" / BIN).rename(scene.here / "elsewhere")
    (scene.here / "Male" / BIN).symlink_to(scene.here / "elsewhere")
    (scene.here / "Male" / ".cache" / "huggingface").mkdir(parents=True)
    scene.refuses(
        CheckpointError,
        "got 'HERE/elsewhere'",
        where="HERE/Male/pytorch_model.bin",
        arguments=("--allow-pickle",),
    )


def cut(scene, second=20, **more):
    """Male in two pickles, the second from a tensor on, and an index that names `more`."""
    folder = scene.here / "Male"
    tensors = read(folder)
    names = sorted(tensors)
    torch.save({name: tensors[name] for name in names[:20]}, folder / "a.bin")
    torch.save({name: tensors[name] for name in names[second:]}, folder / "b.bin")
    where = dict.fromkeys(names[:20], "a.bin") | dict.fromkeys(names[20:], "b.bin") | more
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    (folder / "model.safetensors").unlink()


def test_shards(scene):
    expected = scene.merged()
    (scene.here / "out").rename(scene.here / "first")
    cut(scene)
    found = scene.merged("--allow-pickle")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    torch.save({}, scene.here / "Male" / BIN)
    (scene.here / "out").rename(scene.here / "second")
    scene.refuses(
        CheckpointError,
        "holds pytorch_model.bin and pytorch_model.bin.index.json",
        where="HERE/Male",
        arguments=("--allow-pickle",),
    )


SHARDS = {
    "twice": ({"second": 19}, ["HERE/Male", "got ['a.bin', 'b.bin']"]),
    "more": ({"x": "a.bin"}, ["HERE/Male/pytorch_model.bin.index.json", "['x']"]),
    "outside": (
        {"x": "../a.bin"},
        [
            "HERE/Male/pytorch_model.bin.index.json",
            "got '../a.bin'",
            "allowed: names of files beside the index",
        ],
    ),
}


@pytest.mark.parametrize(("change", "expected"), SHARDS.values(), ids=SHARDS)
def test_shards_that_lie(scene, change, expected):
    cut(scene, **change)
    where, *shows = expected
    scene.refuses(CheckpointError, *shows, where=where, arguments=("--allow-pickle",))
