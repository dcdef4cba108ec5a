"""Carry out a program slice by slice: read, compute, hash and write, in bounded memory.

Workers take jobs in file order. Each reads a slice of one model at a time into its own buffer,
adds it to a float64 accumulator and appends the rounded bytes to the outputs when its turn comes.
Reading, arithmetic, hashing and writing release Python's lock, so that they overlap; on a device,
transfers do too. Memory is a few slices a worker, whatever the number and the size of the models.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from mergekit_fair.checkpoints.reader import Buffer, Reader, one_thread_each
from mergekit_fair.disk import Sharing
from mergekit_fair.errors import CheckpointError, first_line
from mergekit_fair.merging.methods.arithmetic import ACCUMULATOR, SLICE, Scratch, parts_of
from mergekit_fair.merging.methods.formula import unequal
from mergekit_fair.merging.shard_files import Outputs, Stopped, Written, block_memory
from mergekit_fair.merging.shards import Piece, Shard, SliceJob, jobs

Readers = Mapping[str, Reader]

# Elements of a slice where a device computes: large enough to hide a launch and a transfer; and
# workers enough to read, copy, compute and write at once.
DEVICE_SLICE = 1 << 22
DEVICE_WORKERS = 4


def write_weights(
    shards: Sequence[Shard],
    readers: Readers,
    folders: Sequence[Path],
    *,
    device: str = "cpu",
    advance: Callable[[int], None] | None = None,
    sharing: Sharing = Sharing.COPY,
) -> list[dict[str, Written]]:
    """Compute all tensors and write every output's files.

    Args:
        shards: the files of one output; all outputs have the same.
        readers: model → its tensors.
        folders: one an output, in the order of the tensors' formulas; they exist.
        device: where the arithmetic runs.
        advance: told the number of bytes of the first output after each job.
        sharing: how the outputs of a grid come by files that are equal in all of them.

    Returns:
        Per output, file name → length and digest. The files are on the disk.

    Raises:
        CheckpointError: NaN, Inf or a read error in an input; a result that its dtype cannot hold.
        OSError: the outputs cannot be written.
    """
    where = require_float64(device)
    outputs = Outputs(folders, shards, sharing)
    queue = enumerate(jobs(shards, SLICE if where.type == "cpu" else DEVICE_SLICE))
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            worker = SliceWorker(readers, len(folders), where)
            while (taken := _next(queue, lock)) is not None:
                index, job = taken
                for output, data in enumerate(worker.compute(job)):
                    outputs.append(output, index, job.shard, data)
                if advance:
                    advance(job.size)
        except Stopped:
            pass
        except BaseException as error:
            failures.append(error)
            outputs.stop()

    try:
        with one_thread_each() as count:
            _run([threading.Thread(target=work) for _ in range(_workers(count, where))], outputs)
        if failures:
            raise failures[0]
        return outputs.finish()
    finally:
        outputs.close()


def memory(shards: Sequence[Shard], outputs: int, device: str) -> int:
    """About how many bytes `write_weights` takes at its peak, beside what the process holds."""
    elements = SLICE if torch.device(device).type == "cpu" else DEVICE_SLICE
    largest = max(
        (piece.stop - piece.start, piece.tensor.dtype.itemsize)
        for job in jobs(shards, elements)
        for piece in job.pieces
    )
    count, width = max(largest[0], elements), largest[1]
    # Raw bytes of one model, four float64 intermediates, the rounded bytes of every output.
    number = _workers(torch.get_num_threads(), torch.device(device))
    return number * count * (8 + 4 * 8 + width * outputs) + block_memory(outputs)


def _workers(threads: int, device: torch.device) -> int:
    return threads if device.type == "cpu" else min(threads, DEVICE_WORKERS)


def _next(
    queue: Iterator[tuple[int, SliceJob]], lock: threading.Lock
) -> tuple[int, SliceJob] | None:
    with lock:
        return next(queue, None)


def _run(threads: list[threading.Thread], outputs: Outputs) -> None:
    """Wait for the threads; an interruption ends them first."""
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        if any(thread.is_alive() for thread in threads):
            outputs.stop()
        for thread in threads:
            thread.join()


class SliceWorker:
    """Computes jobs into buffers of its own, one for each output."""

    def __init__(self, readers: Readers, outputs: int, device: torch.device) -> None:
        self._readers = readers
        self._device = device
        self._is_pinned = device.type == "cuda"
        self._scratch = Scratch(device)
        self._raw = Buffer(0)
        self._out = [Buffer(0) for _ in range(outputs)]
        cuda: Any = torch.cuda
        self._stream = cuda.Stream(device) if self._is_pinned else None

    def compute(self, job: SliceJob) -> list[memoryview]:
        """The job's bytes for every output; valid until the next call.

        Where outputs have the same they are made once.

        Raises:
            CheckpointError: see `write_weights`.
        """
        self._out = [self._grown(buffer, job.size) for buffer in self._out]
        made = self._out if job.differs else self._out[:1]
        at = 0
        with torch.no_grad(), self._on_device():
            for piece in job.pieces:
                self._piece(piece, at, made)
                at += piece.size
        return [(buffer if job.differs else made[0]).memory[:at] for buffer in self._out]

    def _piece(self, piece: Piece, at: int, made: Sequence[Buffer]) -> None:
        tensor = piece.tensor
        load = _Loaded(self, piece)
        if tensor.must_match:
            self._require_equal(piece, load)
        for formula, scales in tensor.formulas.directions:
            wanted = [(made[output], scale) for output, scale in scales if output < len(made)]
            if not formula.moves:
                value = load(formula.start)
                for buffer, _ in wanted:
                    self._store(value, buffer, piece, at)
                continue
            self._scratch.reset()
            vector, start = parts_of(formula, load, self._scratch, tensor.name)
            moved = self._scratch.take(len(start))
            for buffer, scale in wanted:
                torch.add(start, vector, alpha=scale, out=moved)
                self._store(moved, buffer, piece, at)

    def read(self, model: str, piece: Piece) -> torch.Tensor:
        """A slice of one model on the device, as the recipe's dtype has it."""
        stored = self._stored(model, piece)
        return stored.to(piece.tensor.compute_dtype) if model in piece.tensor.cast else stored

    def _stored(self, model: str, piece: Piece) -> torch.Tensor:
        reader, name = self._readers[model], piece.tensor.name
        self._raw = self._grown(self._raw, (piece.stop - piece.start) * 8)
        raw = reader.read(name, piece.start, piece.stop, self._raw)
        if self._device.type != "cpu":
            raw = raw.to(self._device, non_blocking=True)
            if self._stream is not None:
                self._stream.synchronize()  # the buffer is free for the next read
        return raw

    def _store(self, value: torch.Tensor, buffer: Buffer, piece: Piece, at: int) -> None:
        """Round to the compute dtype, convert to the file's; raise for what is not finite then."""
        tensor = piece.tensor
        room = buffer.view(tensor.dtype, piece.stop - piece.start, at)
        if value.is_floating_point() and tensor.dtype != tensor.compute_dtype:
            value = value.to(tensor.compute_dtype)
        room.copy_(value)
        if room.is_floating_point() and len(room) and not _is_finite(room):
            raise self._explanation(value, room, piece)

    def _explanation(
        self, value: torch.Tensor, room: torch.Tensor, piece: Piece
    ) -> CheckpointError:
        """An input that is not finite, or else the dtype that is too narrow; reads them again."""
        tensor = piece.tensor
        dtype = tensor.dtype if _is_finite(value) else tensor.compute_dtype
        element = piece.start + _first(~torch.isfinite(room))
        for model in tensor.formulas.models:
            values = self._stored(str(model), piece)
            if not _is_finite(values):
                return CheckpointError(
                    f"tensor {tensor.name} has NaN or Inf, first at element "
                    f"{piece.start + _first(~torch.isfinite(values))}",
                    where=model,
                    fix="train or convert the model again",
                )
        is_narrow = torch.finfo(dtype).max < torch.finfo(torch.float32).max
        wider = ", or give the recipe `dtype: float32` and no out_dtype" if is_narrow else ""
        return CheckpointError(
            f"a number is too large for {str(dtype).removeprefix('torch.')} at element {element}",
            where=f"the merged tensor {tensor.name}",
            fix=f"lower λ{wider}",
        )

    def _require_equal(self, piece: Piece, load: _Loaded) -> None:
        first, *others = piece.tensor.must_match
        expected = load(first).clone()
        for model in others:
            if not torch.equal(load(model), expected):
                raise unequal(model, piece.tensor.name)

    def _grown(self, buffer: Buffer, size: int) -> Buffer:
        return buffer if len(buffer.memory) >= size else Buffer(size, pinned=self._is_pinned)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            yield
        if self._stream is not None:
            self._stream.synchronize()


class _Loaded:
    """Reads slices of one piece; the last one stays at hand."""

    def __init__(self, worker: SliceWorker, piece: Piece) -> None:
        self._worker = worker
        self._piece = piece
        self._model: Hashable = None
        self._tensor: torch.Tensor | None = None

    def __call__(self, model: Hashable) -> torch.Tensor:
        if self._tensor is None or model != self._model:
            self._tensor = self._worker.read(str(model), self._piece)
            self._model = model
        return self._tensor


def _is_finite(values: torch.Tensor) -> bool:
    """Extremes carry NaN along, and are found faster than each element is asked."""
    low, high = torch.aminmax(values)
    return math.isfinite(low.item()) and math.isfinite(high.item())


def _first(mask: torch.Tensor) -> int:
    return int(mask.to(torch.uint8).argmax())


def require_float64(device: str) -> torch.device:
    """The device, if it can compute in float64.

    Raises:
        CheckpointError: no such device here, or one without float64.
    """
    try:
        where = torch.device(device)
        torch.zeros(1, dtype=ACCUMULATOR, device=where).add_(1)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise CheckpointError(
            f"this device cannot merge ({first_line(error)})",
            where="--device",
            got=device,
            fix="use --device cpu",
        ) from error
    return where
