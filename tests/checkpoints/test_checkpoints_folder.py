"""Damaged and unfit model folders are errors that name the folder and the fix."""

import json
import os
import shutil

import pytest
import torch
from checkpoints import read, rewrite

from mergekit_fair.checkpoints.folder import (
    fingerprint,
    require_same_tensors,
    tensor_infos,
    weight_files,
)
from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.in_memory import load_tensors

AGAIN = "Copy or train the model again."


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


def problem(call, *args):
    with pytest.raises(CheckpointError) as caught:
        call(*args)
    return str(caught.value)


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
    assert problem(tensor_infos, shards) == (
        f"{shards}: shards named in the index are missing; got ['{missing.name}']. {AGAIN}"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": null}'])
def test_a_damaged_index(shards, text):
    index = shards / "model.safetensors.index.json"
    index.write_text(text)
    found = problem(weight_files, shards)
    assert found.startswith(f"{index}: is not a readable index of shards (")
    assert found.endswith(AGAIN)


def test_two_sets_of_weights(shards, model):
    shutil.copy(model / "model.safetensors", shards)
    assert problem(weight_files, shards) == (
        f"{shards}: holds model.safetensors, which transformers reads, and "
        "model.safetensors.index.json, which mergekit reads. Delete the outdated one."
    )


def test_a_missing_folder(model):
    folder = model.parent / "modle"
    text = f"{folder}: no such model folder; did you mean 'model'?"
    assert problem(tensor_infos, folder) == text
    far = model / "x" / "y"
    assert problem(tensor_infos, far) == f"{far}: no such model folder."
    file = model / "config.json"
    assert problem(weight_files, file) == f"{file}: no such model folder."


def test_pickled_weights_are_refused(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert problem(tensor_infos, model) == (
        f"{model}: holds pickled weights only, and reading a pickle can run code; got "
        "['pytorch_model.bin']. Save the model with safetensors, or pass --allow-pickle to `merge`."
    )


@pytest.mark.parametrize("cut", [1, 1000])
def test_a_truncated_file(model, cut):
    file = model / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, size - cut)
    assert problem(tensor_infos, model) == (
        f"{file}: is truncated or damaged; got '{size - cut} bytes'; "
        f"allowed: {size} bytes, as its header says. {AGAIN}"
    )


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
    found = problem(tensor_infos, model)
    assert found.startswith(f"{file}: is not a readable safetensors file (")
    assert found.endswith(AGAIN)
    assert len(found) < 400


def test_fingerprint_changes_with_the_model(model, shards):
    first = fingerprint(model)
    assert fingerprint(model) == first == fingerprint(str(model))
    rewrite(model, lambda tensors: tensors["classifier.bias"].add_(1))
    second = fingerprint(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"note": 1}))
    third = fingerprint(model)
    (model / "tokenizer.json").write_text("{}")
    assert fingerprint(model) == third
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert len({first, second, third, fingerprint(model), fingerprint(shards)}) == 5
    (model / "config.json").unlink()
    assert problem(fingerprint, model) == f"{model}: no model here (no config.json)."


class TestRequireSameTensors:
    def test_a_family_passes(self, tiny, shards):
        family = tiny("distilbert")
        require_same_tensors(family.base, [str(path) for path in family.groups.values()])
        require_same_tensors(family.base, [str(shards)])
        require_same_tensors(shards, [])

    def fails(self, tiny, model, change):
        rewrite(model, change)
        family = tiny("distilbert")
        return problem(require_same_tensors, family.base, [str(family.fft), str(model)])

    def text(self, tiny, model, difference):
        return (
            f"{model}: its tensors are not the base's ({tiny('distilbert').base}): {difference}. "
            "Merge models of one architecture, fine-tuned from this base."
        )

    def test_missing(self, tiny, model):
        def drop(tensors):
            del tensors["classifier.bias"], tensors["classifier.weight"]

        assert self.fails(tiny, model, drop) == self.text(
            tiny, model, "2 missing ['classifier.bias', 'classifier.weight'], 0 more []"
        )

    def test_extra(self, tiny, model):
        def add(tensors):
            tensors["lora_A"] = torch.zeros(1)

        expected = self.text(tiny, model, "0 missing [], 1 more ['lora_A']")
        assert self.fails(tiny, model, add) == expected

    def test_other_shape(self, tiny, model):
        def widen(tensors):
            tensors["classifier.bias"] = torch.zeros(3)

        assert self.fails(tiny, model, widen) == (
            f"{model}: tensor classifier.bias has another shape than the base's "
            f"({tiny('distilbert').base}); got (3,); allowed: (2,)."
        )

    def test_other_architecture(self, tiny):
        text = problem(require_same_tensors, tiny("bert").base, [str(tiny("vit").base)])
        assert "41 missing ['bert." not in text  # the heads have one name
        assert "39 missing ['bert." in text
        assert "38 more ['vit." in text
