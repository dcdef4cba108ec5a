"""The output's files: where every byte goes, and how they are written.

Shards are filled in the order of mergekit's plan, as mergekit fills them; inside a file, tensors
lie as safetensors' own writer puts them: wide dtypes first, then by name. The files are equal to
those that `safetensors.torch.save_file` would write of the same tensors. They are written from
front to back and hashed on the way.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mergekit_fair.checkpoints.reader import NAMES
from mergekit_fair.files import flush_data
from mergekit_fair.merging.program import OutputTensor

# Bytes that wait in memory before the disk gets them, so that it works while slices are computed.
FLUSHED_FROM = 64 << 20

# safetensors orders dtypes by alignment, in the order of its own enumeration (widest last).
_RANK = {
    name: rank
    for rank, name in enumerate(
        ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
    )
}


@dataclass(frozen=True)
class Shard:
    """One file: its name, its header as bytes, its tensors in the order of their data."""

    name: str
    header: bytes
    tensors: tuple[OutputTensor, ...]

    @property
    def size(self) -> int:
        return len(self.header) + sum(map(tensor_bytes, self.tensors))


@dataclass(frozen=True)
class Piece:
    """Elements start … stop − 1 of one output tensor."""

    tensor: OutputTensor
    start: int
    stop: int

    @property
    def size(self) -> int:
        return (self.stop - self.start) * self.tensor.dtype.itemsize


@dataclass(frozen=True)
class SliceJob:
    """Pieces that follow each other in one shard; the unit that a worker takes."""

    shard: int
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)


def tensor_bytes(tensor: OutputTensor) -> int:
    """Bytes of its data in the file."""
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def shards(tensors: Sequence[OutputTensor], limit: int) -> tuple[Shard, ...]:
    """Cut the tensors into files of at most `limit` bytes of data, one tensor at least in each.

    Args:
        tensors: in mergekit's order.
        limit: 0 or less for one file.
    """
    parts: list[list[OutputTensor]] = [[]]
    size = 0
    for tensor in tensors:
        width = tensor_bytes(tensor)
        if parts[-1] and 0 < limit < size + width:
            parts.append([])
            size = 0
        parts[-1].append(tensor)
        size += width
    names = ["model.safetensors"]
    if len(parts) > 1:
        count = len(parts)
        names = [f"model-{index + 1:05d}-of-{count:05d}.safetensors" for index in range(count)]
    return tuple(_shard(name, part) for name, part in zip(names, parts, strict=True))


def index_json(files: Sequence[Shard]) -> str | None:
    """`model.safetensors.index.json`; None for a single file."""
    if len(files) == 1:
        return None
    total = sum(tensor_bytes(tensor) for file in files for tensor in file.tensors)
    where = {tensor.name: file.name for file in files for tensor in file.tensors}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return json.dumps(content, indent=2) + "\n"


def jobs(files: Sequence[Shard], elements: int) -> Iterator[SliceJob]:
    """Cut the shards' data into jobs of about `elements` elements, in file order.

    A tensor whose elements depend on each other is one piece.
    """
    for index, file in enumerate(files):
        pending: list[Piece] = []
        filled = 0
        for tensor in file.tensors:
            count = math.prod(tensor.shape)
            step = count if tensor.formula.is_sparse else elements
            for start in range(0, count, max(1, step)):
                piece = Piece(tensor, start, min(start + step, count))
                if pending and filled + piece.stop - piece.start > elements:
                    yield SliceJob(index, tuple(pending))
                    pending, filled = [], 0
                pending.append(piece)
                filled += piece.stop - piece.start
        if pending:
            yield SliceJob(index, tuple(pending))


@dataclass(frozen=True)
class Written:
    """A finished file: its length in bytes and its SHA-256."""

    bytes: int
    sha256: str


class ShardFile:
    """One safetensors file in the making."""

    def __init__(self, path: Path, header: bytes) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._digest = hashlib.sha256()
        self._size = self._flushed = 0
        self.append(memoryview(header))

    def append(self, data: memoryview) -> None:
        self._digest.update(data)
        self._size += len(data)
        while data:
            data = data[os.write(self._handle, data) :]

    def flush(self) -> None:
        """Let the disk have what was written so far; may run while more is appended."""
        if self._size - self._flushed >= FLUSHED_FROM:
            self._flushed = self._size
            flush_data(self._handle)

    def finish(self) -> Written:
        os.fsync(self._handle)
        self.close()
        return Written(self._size, self._digest.hexdigest())

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Stopped(Exception):  # noqa: N818 (no error: another thread has failed, this one ends)
    """Another worker has failed."""


class Outputs:
    """The files of all outputs of a merge; workers append to each in the order of the jobs.

    Output k takes job i only after job i − 1: two workers follow each other through the outputs,
    one writing the first while the other still computes.
    """

    def __init__(self, folders: Sequence[Path], shards: Sequence[Shard]) -> None:
        self._folders = folders
        self._shards = shards
        self._files: list[dict[int, ShardFile]] = [{} for _ in folders]
        self._next = [0 for _ in folders]
        self._turn = threading.Condition()
        self._stopped = False

    def append(self, output: int, job: int, shard: int, data: memoryview) -> None:
        """Write a job's bytes when its turn has come.

        Raises:
            Stopped: `stop` was called.
            OSError: the disk is full, or whatever else the system says.
        """
        with self._in_turn(output, job):
            files = self._files[output]
            if shard not in files:
                files[shard] = self._opened(output, shard)
            files[shard].append(data)

    def finish(self) -> list[dict[str, Written]]:
        """Flush and close everything; per output, file name → what it became."""
        for output, files in enumerate(self._files):
            for shard in range(len(self._shards)):
                if shard not in files:  # only empty tensors
                    files[shard] = self._opened(output, shard)
        return [
            {self._shards[shard].name: file.finish() for shard, file in sorted(files.items())}
            for files in self._files
        ]

    @contextmanager
    def flushing(self) -> Iterator[None]:
        """While open, a thread has the system write to disk what was appended.

        Raises:
            OSError: the disk failed or is full.
        """
        done = threading.Event()
        failures: list[OSError] = []

        def flush() -> None:
            try:
                while not done.wait(0.05):
                    for files in self._files:
                        for file in list(files.values()):
                            file.flush()
            except OSError as error:  # told once: the flush at the end would not fail again
                failures.append(error)
                self.stop()

        thread = threading.Thread(target=flush)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        if failures:
            raise failures[0]

    def stop(self) -> None:
        """Let no worker wait or write any more."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()

    def close(self) -> None:
        for files in self._files:
            for file in files.values():
                file.close()

    def _opened(self, output: int, shard: int) -> ShardFile:
        path = self._folders[output] / self._shards[shard].name
        return ShardFile(path, self._shards[shard].header)

    @contextmanager
    def _in_turn(self, output: int, job: int) -> Iterator[None]:
        with self._turn:
            self._turn.wait_for(lambda: self._stopped or self._next[output] == job)
            if self._stopped:
                raise Stopped
        yield
        with self._turn:
            self._next[output] += 1
            self._turn.notify_all()


def _shard(name: str, tensors: Sequence[OutputTensor]) -> Shard:
    ordered = sorted(tensors, key=lambda tensor: (-_RANK[NAMES[tensor.dtype]], tensor.name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in ordered:
        end = offset + tensor_bytes(tensor)
        header[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return Shard(name, len(text).to_bytes(8, "little") + text, tuple(ordered))
