"""Vector folders: what is written is what is read; whatever else is there is refused by name."""

import json
import shutil

import pytest
import torch
from checkpoints import read, rewrite
from refusals import raises
from safetensors.torch import load_file, save_file

from mergekit_fair.checkpoints.fingerprint import sha256
from mergekit_fair.checkpoints.folder import VECTOR, read_config, weight_files
from mergekit_fair.checkpoints.reader import open_folder
from mergekit_fair.checkpoints.vector_folder import (
    is_vector_folder,
    open_vector,
    read_marker,
    read_vector,
    require_target,
    sketch_of,
    write_vector,
)
from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.schema import sealed

HEAD = {"classifier.weight": torch.full((2, 32), 0.25), "classifier.bias": torch.ones(2)}


@pytest.fixture
def target(tiny):
    return tiny("bert").fft


@pytest.fixture
def vector(target, tmp_path):
    write_vector(tmp_path / "v", "Female, 1", HEAD, target, {"probe": {"C": 0.01}})
    return tmp_path / "v"


def edit(folder, **changes):
    content = json.loads((folder / VECTOR).read_text())
    del content["digest"]
    (folder / VECTOR).write_text(json.dumps(sealed(content | changes)))


def test_what_is_written_is_what_is_read(vector, target):
    assert sorted(path.name for path in vector.iterdir()) == [
        "config.json",
        "model.safetensors",
        "task_vector.json",
    ]
    assert is_vector_folder(vector)
    assert not is_vector_folder(target)
    assert not is_vector_folder(vector / "no" / "such")
    marker = read_marker(vector)
    assert (marker.name, marker.about) == ("Female, 1", {"probe": {"C": 0.01}})
    assert (marker.target.sketch, marker.target.model) == (sketch_of(target), str(target))
    assert read_config(vector) == read_config(target)
    tensors = read_vector(vector)
    assert tensors.keys() == HEAD.keys()
    assert all(torch.equal(tensors[name], HEAD[name]) for name in HEAD)
    assert {tensor.dtype for tensor in load_file(vector / "model.safetensors").values()} == {
        torch.float32
    }
    require_target(vector, str(target), sketch_of(target))


def test_a_vector_is_no_model(vector):
    for opened in (weight_files, open_folder):
        with raises(CheckpointError, VECTOR, where=vector, fix="base_model"):
            opened(vector)


def test_it_has_its_targets_tensors(target, tmp_path):
    out = tmp_path / "v"
    for tensors, shown in (
        ({"classifier.wieght": HEAD["classifier.weight"]}, "classifier.weight"),
        ({"classifier.weight": torch.ones(2, 31)}, "classifier.weight"),
        ({"classifier.bias": torch.tensor([0.0, torch.nan])}, "classifier.bias"),
        ({"classifier.bias": torch.tensor([0.0, 1e300], dtype=torch.float64)}, "classifier.bias"),
        ({}, "no tensors"),
    ):
        with raises(CheckpointError, shown, where=out):
            write_vector(out, "v", tensors, target)
        assert not out.exists()
    write_vector(out, "v", HEAD, target)
    with raises(ConfigError, where=out):
        write_vector(out, "v", HEAD, target)


def test_a_sketch_is_of_the_weights(target, tmp_path):
    """Not of files: shards and metadata change nothing, one element of any small tensor does."""
    tensors, other = read(target), shutil.copytree(target, tmp_path / "other")
    (other / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:3], "model-2.safetensors": names[3:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, other / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (other / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sketch_of(other) == sketch_of(target)
    changed = shutil.copytree(target, tmp_path / "changed")
    rewrite(changed, lambda held: held["bert.pooler.dense.weight"][17, 3].add_(1e-3))
    assert sketch_of(changed) != sketch_of(target)
    large = {"a": torch.arange(100_000.0)}
    for index in (0, 99_999):
        folder = tmp_path / f"{index}"
        shutil.copytree(target, folder)
        save_file(large, folder / "model.safetensors")
        before = sketch_of(folder)
        rewrite(folder, lambda held, at=index: held["a"][at].add_(0.5))
        assert sketch_of(folder) != before


def test_a_target_that_has_changed_is_seen(vector, target):
    with raises(CheckpointError, where=vector, got=str(target), allowed="other", fix="heads"):
        require_target(vector, "other", 64 * "0")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"kind": "task_vector"}',
        json.dumps({"a": 1, "digest": 64 * "0"}),
        "[" * 100_000,
    ],
)
def test_a_damaged_marker_is_refused(vector, content):
    (vector / VECTOR).write_text(content)
    for opened in (read_marker, open_vector):
        with raises(CheckpointError, where=vector / VECTOR):
            opened(vector)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "adapter"},
        {"schema_version": 2},
        {"name": ""},
        {"target": {"sketch": "../../x", "model": "m"}},
        {"more": 1},
    ],
)
def test_a_marker_of_another_kind_is_refused(vector, changes):
    edit(vector, **changes)
    with raises(CheckpointError, next(iter(changes)), where=vector / VECTOR, fix="heads"):
        read_marker(vector)


def test_an_edited_marker_is_refused(vector):
    content = json.loads((vector / VECTOR).read_text())
    content["target"]["model"] = "another"
    (vector / VECTOR).write_text(json.dumps(content))
    with raises(CheckpointError, where=vector / VECTOR):
        read_marker(vector)


@pytest.mark.parametrize(
    ("tensors", "shown"),
    [
        ({"classifier.bias": torch.tensor([1, 2])}, "classifier.bias"),
        ({"classifier.bias": torch.tensor([torch.inf, 2.0])}, "classifier.bias"),
        ({"a": torch.zeros(2), "b": torch.full((1_100_000,), torch.nan)}, "tensor b"),
        ({}, "no tensors"),
    ],
)
def test_what_is_no_difference_is_refused(vector, tensors, shown):
    file = vector / "model.safetensors"
    save_file(tensors, file)
    with raises(CheckpointError, where=vector):
        open_vector(vector)  # the marker knows another file
    edit(vector, weights=sha256(file))
    with raises(CheckpointError, shown, where=vector):
        open_vector(vector)


def test_damaged_weights_are_refused(vector):
    file = vector / "model.safetensors"
    whole = file.read_bytes()
    huge = json.dumps({"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}})
    for content in (
        b"",
        whole[:40],
        whole + b"0",
        (len(huge)).to_bytes(8, "little") + huge.encode(),
    ):
        file.write_bytes(content)
        with raises(CheckpointError, where=file):
            open_vector(vector)
    file.unlink()
    with raises(CheckpointError, where=vector):
        open_vector(vector)


def test_a_flipped_bit_is_seen(vector):
    """In a number, too: it would be another finite number."""
    file = vector / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))
    with raises(CheckpointError, where=file):
        read_vector(vector)


def test_links_out_of_a_downloaded_vector_are_refused(vector, tmp_path):
    """As of a model: its files would be published, or trusted, as somebody else's."""
    snapshot = tmp_path / "hub" / "snapshots" / "1"
    shutil.copytree(vector, snapshot)
    for name in ("model.safetensors", VECTOR):
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(vector / name)
        with raises(CheckpointError, where=snapshot / name):
            open_vector(snapshot)
        (snapshot / name).unlink()
        shutil.copy(vector / name, snapshot / name)
    assert read_vector(snapshot).keys() == HEAD.keys()
