"""Write the output's files: past the page cache, in aligned blocks, hashed from front to back.

A file has its whole length from the start, so that a full disk is an error before the first byte.
Where the file system takes it (`O_DIRECT`), blocks go from our memory to the disk, some at a time,
which saves the copy into the page cache: that, and not the disk, is what buffered writes of whole
models wait for. Elsewhere (macOS, some network mounts) the same blocks go through the cache.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mergekit_fair.checkpoints.fingerprint import DIGESTS, Digest
from mergekit_fair.disk import Sharing, flush_data, set_direct, share_file
from mergekit_fair.merging.shards import Shard

# Bytes of a block, and how many are written at once: disks are slow at one write after another.
BLOCK = 1 << 20
WRITERS = 4
# Where direct writes begin and end: a multiple of any disk's sector, and of a page of memory.
_ALIGNED = 4096
# Bytes that wait in the page cache before the disk gets them, so that it works meanwhile.
FLUSHED_FROM = 64 << 20
# A file system that cannot reserve space, where nothing is wrong with the disk.
_UNRESERVED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)

Place = tuple[int, int]  # a file: number of the output, of the shard in it


@dataclass(frozen=True)
class Written:
    """A finished file: its length in bytes, and a digest of one of the kinds of `DIGESTS`."""

    bytes: int
    kind: str
    digest: str


class Stopped(Exception):  # noqa: N818 (no error: another thread has failed, this one ends)
    """Another worker has failed."""


@dataclass
class _Block:
    """`size` bytes of a file from `start` on, in `memory`."""

    memory: mmap.mmap
    start: int
    size: int = 0


class _Disk:
    """Threads that write blocks, and the memory of these: few, and used again.

    Args:
        blocks: how many are in use at most; who needs one more waits for a write.
        failed: told of the first write that fails. The others are then left out.
    """

    def __init__(self, blocks: int, failed: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(WRITERS, "write")
        self._room = threading.Semaphore(blocks)
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self._failed = failed
        self._failure: BaseException | None = None

    def take(self) -> mmap.mmap:
        """Memory for a block, aligned as a map of pages is."""
        self._room.acquire()
        try:
            return self._free.get_nowait()
        except queue.Empty:
            return mmap.mmap(-1, BLOCK)

    def put(self, block: _Block, write: Callable[[_Block], None]) -> None:
        """Have a block written, and take its memory back."""
        self._pool.submit(self._write, block, write)

    def end(self) -> None:
        """Wait until all is written.

        Raises:
            OSError: a write failed.
        """
        self._pool.shutdown()
        if self._failure is not None:
            raise self._failure

    def _write(self, block: _Block, write: Callable[[_Block], None]) -> None:
        try:
            if self._failure is None:
                write(block)
        except BaseException as error:
            self._failure = error
            self._failed()
        finally:
            self._free.put(block.memory)
            self._room.release()


class ShardFile:
    """One safetensors file in the making.

    Args:
        path: it exists and is as long as it will be.
        size: that length.
        disk: it writes what is full. The write that makes the file whole flushes and closes it.
        digest: told of all bytes; None if they are those of another file.
    """

    def __init__(self, path: Path, size: int, disk: _Disk, digest: Digest | None) -> None:
        self._handle = os.open(path, os.O_WRONLY)
        self._is_direct = set_direct(self._handle, True)
        self._size, self._left, self._waiting = size, size, 0
        self._disk, self._block = disk, _Block(disk.take(), 0)
        self._tail = b""  # what follows the last aligned byte
        self._digest = digest
        self._lock = threading.Lock()

    def append(self, data: memoryview) -> None:
        """Take the next bytes, from one thread at a time."""
        if self._digest is not None:
            self._digest.update(data)
        while data:
            block = self._block
            taken = min(len(data), BLOCK - block.size)
            block.memory[block.size : block.size + taken] = data[:taken]
            block.size += taken
            data, end = data[taken:], block.start + block.size
            if end == self._size or block.size == BLOCK:
                self._disk.put(block, self._write)
                if end < self._size:
                    self._block = _Block(self._disk.take(), end)

    def close(self) -> None:
        """Let go of the file, whole or not; nobody writes any more."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _write(self, block: _Block) -> None:
        whole = block.size - block.size % _ALIGNED
        with memoryview(block.memory) as view:
            self._put(view[:whole], block.start)
            tail = bytes(view[whole : block.size])
        if not self._is_direct:
            self._flush(whole)
        with self._lock:  # last of all: the file is closed when nothing is left
            self._tail = tail or self._tail
            self._left -= block.size
            is_last = not self._left
        if is_last:
            self._finish()

    def _flush(self, size: int) -> None:
        """Let the disk have what waits in the page cache, if it is much."""
        with self._lock:
            self._waiting += size
            is_much = self._waiting >= FLUSHED_FROM
            if is_much:
                self._waiting = 0
        if is_much:
            flush_data(self._handle)

    def _put(self, data: memoryview, at: int) -> None:
        while data:
            was_direct = self._is_direct
            try:
                done = os.pwrite(self._handle, data, at)
            except OSError as error:
                if error.errno != errno.EINVAL or not was_direct:
                    raise
                self._is_direct = set_direct(self._handle, False)  # it wants another alignment
                continue
            data, at = data[done:], at + done

    def _finish(self) -> None:
        if self._is_direct:
            self._is_direct = set_direct(self._handle, False)
        self._put(memoryview(self._tail), self._size - len(self._tail))
        os.fsync(self._handle)
        self.close()


class Outputs:
    """The files of all outputs of a merge; workers append to each in the order of the jobs.

    Output k takes job i only after job i − 1: two workers follow each other through the outputs,
    one hashing for the first while the other still computes.

    Args:
        folders: of the outputs; they exist.
        shards: of each.
        sharing: how all but the first come by files that are the same in all.

    Raises:
        OSError: there is no room for all of it, or whatever else the system says.
    """

    def __init__(
        self, folders: Sequence[Path], shards: Sequence[Shard], sharing: Sharing = Sharing.COPY
    ) -> None:
        self._folders = folders
        self._shards = shards
        self._sharing = sharing
        # Of what is kept the Hub's own, which of a grid would take longer than all else.
        self._kind = "sha256" if len(folders) == 1 else "xxh3_128"
        self._digests: dict[Place, Digest] = {}
        self._disk = _Disk(_blocks(len(folders)), self.stop)
        self._files: dict[Place, ShardFile] = {}
        self._next = [0 for _ in folders]
        self._turn = threading.Condition()
        self._stopped = False
        for place in self._written():
            _reserve(self._path(place), shards[place[1]].size)

    def append(self, output: int, job: int, shard: int, data: memoryview) -> None:
        """Take a job's bytes when its turn has come.

        Raises:
            Stopped: `stop` was called, or a write has failed.
            OSError: whatever the system says.
        """
        place = output, shard
        with self._in_turn(output, job):
            if self._is_written(place):
                self._opened(place).append(data)

    def finish(self) -> list[dict[str, Written]]:
        """Per output, file name → what it became, when all of it is on the disk.

        Raises:
            OSError: a write failed.
        """
        if not self._stopped:
            for place in self._written():
                self._opened(place)  # a file of only empty tensors has had no job
        self._disk.end()
        for place in self._places():
            if not self._is_written(place):
                share_file(self._path((0, place[1])), self._path(place), self._sharing)
        return [
            {
                shard.name: Written(shard.size, self._kind, self._digest((output, index)))
                for index, shard in enumerate(self._shards)
            }
            for output in range(len(self._folders))
        ]

    def stop(self) -> None:
        """Let no worker wait or write any more."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()

    def close(self) -> None:
        """Let go of all files, whole or not."""
        with suppress(BaseException):  # `finish` has told it
            self._disk.end()
        for file in self._files.values():
            file.close()

    def _places(self) -> Iterator[Place]:
        return itertools.product(range(len(self._folders)), range(len(self._shards)))

    def _written(self) -> Iterator[Place]:
        return filter(self._is_written, self._places())

    def _path(self, place: Place) -> Path:
        return self._folders[place[0]] / self._shards[place[1]].name

    def _is_own(self, place: Place) -> bool:
        """Whether it is not the same file as the first output's."""
        return not place[0] or not self._shards[place[1]].is_shared

    def _is_written(self, place: Place) -> bool:
        return self._sharing == Sharing.COPY or self._is_own(place)

    def _digest(self, place: Place) -> str:
        first = place if self._is_own(place) else (0, place[1])
        return self._digests[first].hexdigest()

    def _opened(self, place: Place) -> ShardFile:
        if place not in self._files:
            shard, digest = self._shards[place[1]], None
            if self._is_own(place):
                digest = self._digests[place] = DIGESTS[self._kind]()
            file = ShardFile(self._path(place), shard.size, self._disk, digest)
            self._files[place] = file
            file.append(memoryview(shard.header))
        return self._files[place]

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


def block_memory(outputs: int) -> int:
    """Bytes of all blocks that are in use at most."""
    return _blocks(outputs) * BLOCK


def _blocks(outputs: int) -> int:
    return outputs + 2 * WRITERS  # one of each output is being filled


def _reserve(path: Path, size: int) -> None:
    """A new file of that length, with room on the disk where the file system can say so."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.truncate(handle, size)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in _UNRESERVED:
            raise
    finally:
        os.close(handle)
