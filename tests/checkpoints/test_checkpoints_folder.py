"""Damaged and unfit model folders are errors that name the folder and the fix."""

import json
import os
import shutil

import pytest
import torch
from checkpoints import read, rewrite
from refusals import raises

from mergekit_fair.checkpoints.folder import (
    require_same_tensors,
    tensor_infos,
    weight_files,
)
from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.in_memory import load_tensors


@pytest.fixture
def model(tiny, tmp_path):
    """A copy of a base, to damage."""
    return shutil.copytree(tiny("distilbert").base, tmp_path / "model")


@pytest.fixture
def shards(tiny, tmp_path):
    """The same base in several files."""
    from transformers import AutoModelForSequenceClassification

    made = AutoModelForSequenceClassification.from_pretrained(tiny("distilbert").base)
    made.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    return tmp_path / "shards"


def test_tensor_infos_are_the_tensors(model):
    tensors = read(model)
    assert tensor_infos(model) == {
        name: TensorInfo("F32", tuple(tensor.shape)) for name, tensor in tensors.items()
    }
    assert list(tensor_infos(model)) == sorted(tensors)
    assert weight_files(str(model)) == (model / "model.safetensors",)


def test_shards_are_one_model(model, shards):
    files = weight_files(shards)
    assert len(files) > 2
    assert files == tuple(sorted(files))
    assert tensor_infos(shards) == tensor_infos(model)
    tensors, whole = load_tensors(shards), read(model)
    assert tensors.keys() == whole.keys()
    assert all(torch.equal(tensors[name], whole[name]) for name in whole)


def test_a_missing_shard(shards):
    missing = weight_files(shards)[1]
    missing.unlink()
    with raises(CheckpointError, where=shards, got=[missing.name]):
        tensor_infos(shards)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": null}'])
def test_a_damaged_index(shards, text):
    index = shards / "model.safetensors.index.json"
    index.write_text(text)
    with raises(CheckpointError, "not a readable index", where=index):
        weight_files(shards)


def test_two_sets_of_weights(shards, model):
    shutil.copy(model / "model.safetensors", shards)
    files = ("model.safetensors, ", "model.safetensors.index.json")
    with raises(CheckpointError, *files, where=shards, fix="outdated"):
        weight_files(shards)


def test_a_missing_folder(model):
    folder = model.parent / "modle"
    with raises(CheckpointError, "mean 'model'?", where=folder):
        tensor_infos(folder)
    for place in (model / "x" / "y", model / "config.json"):
        with raises(CheckpointError, where=place) as caught:
            weight_files(place)
        assert "did you mean" not in str(caught.value)


def test_pickled_weights_are_refused(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    fields = {"got": ["pytorch_model.bin"], "fix": "--allow-pickle"}
    with raises(CheckpointError, "pickle", where=model, **fields):
        tensor_infos(model)


@pytest.mark.parametrize("cut", [1, 1000])
def test_a_truncated_file(model, cut):
    file = model / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, size - cut)
    with raises(CheckpointError, where=file, got=f"{size - cut} bytes", allowed=f"{size} bytes"):
        tensor_infos(model)


def hostile(header):
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x10",
        b"\0" * 8,
        b"\xff" * 64,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        hostile(b"not json"),
        hostile(b"\xff\xfe"),
        hostile(b"[]"),
        hostile(b"1"),
        hostile(b'{"w": 1}'),
        hostile(b'{"w": {}}'),
        hostile(b'{"w": {"dtype": "F32", "shape": [1]}}'),
        hostile(b'{"w": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}'),
        hostile(b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": 4}}'),
        hostile(b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}'),
        hostile(b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}'),
        hostile(b'{"w": {"dtype": 32, "shape": [1], "data_offsets": [0, 4]}}'),
        hostile(b'{"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}'),
        hostile(b"[" * 100_000),
    ],
)
def test_hostile_headers(model, content):
    file = model / "model.safetensors"
    file.write_bytes(content)
    with raises(CheckpointError, "not a readable safetensors file (", where=file) as caught:
        tensor_infos(model)
    assert len(str(caught.value)) < 400


class TestRequireSameTensors:
    def test_a_family_passes(self, tiny, shards):
        family = tiny("distilbert")
        require_same_tensors(family.base, [str(path) for path in family.groups.values()])
        require_same_tensors(family.base, [str(shards)])
        require_same_tensors(shards, [])

    def refuses(self, tiny, model, change, *shows, **fields):
        rewrite(model, change)
        family = tiny("distilbert")
        with raises(CheckpointError, f"({family.base})", *shows, where=model, **fields):
            require_same_tensors(family.base, [str(family.fft), str(model)])

    def test_missing(self, tiny, model):
        def drop(tensors):
            del tensors["classifier.bias"], tensors["classifier.weight"]

        shows = "2 missing ['classifier.bias', 'classifier.weight'], 0 more []"
        self.refuses(tiny, model, drop, shows)

    def test_extra(self, tiny, model):
        def add(tensors):
            tensors["lora_A"] = torch.zeros(1)

        self.refuses(tiny, model, add, "0 missing [], 1 more ['lora_A']")

    def test_other_shape(self, tiny, model):
        def widen(tensors):
            tensors["classifier.bias"] = torch.zeros(3)

        shapes = {"got": (3,), "allowed": "(2,)"}
        self.refuses(tiny, model, widen, "classifier.bias", "shape", **shapes)
        with raises(CheckpointError, fix=None):
            require_same_tensors(tiny("distilbert").base, [str(model)])

    def test_other_vocabulary(self, tiny, model):
        name = "distilbert.embeddings.word_embeddings.weight"
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"vocab_size": 7}))

        def shorten(tensors):
            tensors[name] = tensors[name][:7].clone()

        self.refuses(tiny, model, shorten, name, fix="tokenizer: {source: union}")

    def test_other_architecture(self, tiny):
        # Not 41 and 40: the heads have one name.
        with raises(CheckpointError, "39 missing ['bert.", "38 more ['vit."):
            require_same_tensors(tiny("bert").base, [str(tiny("vit").base)])
