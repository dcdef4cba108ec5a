"""Output files: appended in turn, hashed on the way, and no error of the disk gets lost."""

import hashlib
import os
import threading

import pytest
import torch

from mergekit_fair.merging import shards as module
from mergekit_fair.merging.methods.formula import copy_of
from mergekit_fair.merging.program import OutputTensor
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.shards import Outputs, Stopped, shards
from mergekit_fair.merging.to_disk import merge_to_folder


@pytest.fixture
def files():
    copied = copy_of("base", "base")
    tensors = [
        OutputTensor(name, (8,), torch.uint8, torch.uint8, copied, (1.0,)) for name in ("a", "b")
    ]
    return shards(tensors, 8)


def test_jobs_are_written_in_order_whoever_comes_first(tmp_path, files):
    places = [tmp_path / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
    outputs = Outputs(places, files)
    parts = [(0, b"aaaa"), (0, b"AAAA"), (1, b"bbbbbbbb")]

    def append(index):
        shard, data = parts[index]
        for output in range(2):
            outputs.append(output, index, shard, memoryview(data))

    threads = [threading.Thread(target=append, args=(index,)) for index in (2, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, written in zip(places, outputs.finish(), strict=True):
        for file, data in zip(files, (b"aaaaAAAA", b"bbbbbbbb"), strict=True):
            content = (place / file.name).read_bytes()
            assert content == file.header + data
            assert written[file.name].sha256 == hashlib.sha256(content).hexdigest()
            assert written[file.name].bytes == len(content)


def test_stopping_ends_whoever_waits(tmp_path, files):
    outputs, ended = Outputs([tmp_path], files), []

    def wait():
        with pytest.raises(Stopped):
            outputs.append(0, 1, 0, memoryview(b"x"))
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    outputs.stop()
    thread.join(timeout=30)
    outputs.close()
    assert ended == [True]


def test_an_error_of_the_disk_while_flushing_is_not_lost(tiny, tmp_path, options, monkeypatch):
    """A second fsync of the same file would succeed."""
    monkeypatch.setattr(module, "FLUSHED_FROM", 1)
    monkeypatch.setattr("mergekit_fair.merging.stream.SLICE", 1)

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    recipe = Recipe.from_mapping(tiny("bert").addition(lambda_=0.5), "r.yml")
    with pytest.raises(OSError, match="Input/output error"):
        merge_to_folder(recipe, tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []
