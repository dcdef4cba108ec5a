"""Output files that are written from front to back and hashed on the way."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mergekit_fair.merging.layout import Shard

# Bytes that wait in memory before the disk gets them, so that it works while slices are computed.
FLUSHED_FROM = 64 << 20


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
            os.fdatasync(self._handle)

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
        place = self._folders[output] / self._shards[shard].name
        return ShardFile(place, self._shards[shard].header)

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
