"""Output files: written past the page cache or through it, hashed on the way; no error is lost."""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from mergekit_fair.disk import opened_in_order
from mergekit_fair.merging import shard_files as module
from mergekit_fair.merging.methods.formula import Formulas, copy_of
from mergekit_fair.merging.program import OutputTensor
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.shard_files import Outputs, Stopped, Written
from mergekit_fair.merging.shards import Shard, shards
from mergekit_fair.merging.to_disk import merge_to_folder

WAYS = ("direct", "buffered", "refused later", "no reserve")


def made(sizes: Sequence[int], limit: int = 0) -> tuple[Shard, ...]:
    """Files of byte tensors."""
    copied = Formulas((copy_of("base", "base"),))
    tensors = [
        OutputTensor(f"t{number:03}", (size,), torch.uint8, torch.uint8, copied)
        for number, size in enumerate(sizes)
    ]
    return shards(tensors, limit)


@pytest.fixture(params=WAYS)
def way(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the file system takes writes."""
    if request.param == "buffered":
        flush = os.fdatasync

        def slow(handle: int) -> None:
            time.sleep(0.001)  # others write the last block meanwhile
            flush(handle)

        monkeypatch.setattr(module, "set_direct", lambda *_: False)
        monkeypatch.setattr(os, "fdatasync", slow)
    elif request.param == "refused later":  # it takes the flag, and no such write
        real, direct = os.pwrite, set()

        def set_direct(handle: int, wanted: bool) -> bool:
            (direct.add if wanted else direct.discard)(handle)
            return wanted

        def pwrite(handle: int, data: Any, at: int) -> int:
            if handle in direct:
                time.sleep(0.001)  # others are refused meanwhile
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return real(handle, data, at)

        monkeypatch.setattr(module, "set_direct", set_direct)
        monkeypatch.setattr(os, "pwrite", pwrite)
    elif request.param == "no reserve":

        def unknown(*_: Any) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "posix_fallocate", unknown)
    return str(request.param)


def written(
    places: Sequence[Path], files: Sequence[Shard], jobs: Sequence[tuple[int, bytes]], workers: int
) -> list[dict[str, Written]]:
    """All jobs, taken by workers, the last one first in every hand."""
    outputs = Outputs(places, files)
    hands = [range(number, len(jobs), workers) for number in range(workers)]

    def work(hand: range) -> None:
        for index in hand:
            shard, data = jobs[index]
            for output in range(len(places)):
                outputs.append(output, index, shard, memoryview(data))

    threads = [threading.Thread(target=work, args=(hand,)) for hand in reversed(hands)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        return outputs.finish()
    finally:
        outputs.close()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("block", [4096, 16384])
@pytest.mark.parametrize("sizes", [(8, 8), (0, 1), (4096, 4095, 1), (70_000, 3, 9_000, 0, 12_288)])
def test_files_hold_their_jobs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, sizes: Sequence[int]
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr(module, "FLUSHED_FROM", 1)
    places = [tmp_path / name for name in ("one", "two", "three")]
    for place in places:
        place.mkdir()
    files = made(sizes, 10_000)
    rng = np.random.default_rng(0)
    data = [rng.bytes(sum(tensor.shape[0] for tensor in file.tensors)) for file in files]
    jobs = [
        (number, content[at : at + 3_000])
        for number, content in enumerate(data)
        for at in range(0, len(content), 3_000)
    ]
    for place, found in zip(places, written(places, files, jobs, 3), strict=True):
        for file, content in zip(files, data, strict=True):
            read = (place / file.name).read_bytes()
            assert read == file.header + content
            digest = xxhash.xxh3_128(read).hexdigest()
            assert found[file.name] == Written(len(read), "xxh3_128", digest)


@pytest.mark.usefixtures("way")
def test_a_job_larger_than_blocks_takes_few_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 4096)
    maps: list[int] = []

    def counted(*given: Any) -> mmap.mmap:
        maps.append(1)
        return mmap.mmap(*given)

    monkeypatch.setattr(module, "mmap", type("maps", (), {"mmap": staticmethod(counted)}))
    content = np.random.default_rng(0).bytes(1_000_000)
    files = made([len(content)])
    written([tmp_path], files, [(0, content)], 1)
    assert (tmp_path / files[0].name).read_bytes() == files[0].header + content
    assert len(maps) <= 1 + 2 * module.WRITERS


def test_stopping_ends_whoever_waits(tmp_path: Path) -> None:
    outputs, ended = Outputs([tmp_path], made([8, 8])), []

    def wait() -> None:
        with pytest.raises(Stopped):
            outputs.append(0, 1, 0, memoryview(b"x"))
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    outputs.stop()
    thread.join(timeout=30)
    outputs.close()
    assert ended == [True]


def test_a_full_disk_is_told_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Outputs([tmp_path], made([8]))


def test_an_error_of_the_disk_while_flushing_is_not_lost(
    tiny: Any, tmp_path: Path, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second fsync of the same file would succeed."""
    monkeypatch.setattr(module, "set_direct", lambda *_: False)
    monkeypatch.setattr(module, "FLUSHED_FROM", 1)
    monkeypatch.setattr(module, "BLOCK", 4096)
    monkeypatch.setattr("mergekit_fair.merging.stream.SLICE", 1)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    recipe = Recipe.from_mapping(tiny("bert").addition(lambda_=0.5), "r.yml")
    with pytest.raises(OSError, match="Input/output error"):
        merge_to_folder(recipe, tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


def test_advice_that_is_not_taken_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network mounts refuse it, and macOS does not have it."""
    (tmp_path / "file").write_bytes(b"content")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    for change in (
        lambda: monkeypatch.setattr(os, "posix_fadvise", refuse),
        lambda: monkeypatch.delattr(os, "posix_fadvise"),
    ):
        change()
        handle = opened_in_order(tmp_path / "file")
        assert os.read(handle, 10) == b"content"
        os.close(handle)
