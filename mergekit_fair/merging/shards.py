"""The output's files: where every byte goes.

Shards are filled in the order of mergekit's plan, as mergekit fills them; inside a file, tensors
lie as safetensors' own writer puts them: wide dtypes first, then by name. The files are equal to
those that `safetensors.torch.save_file` would write of the same tensors. Of a grid, tensors that no
λ changes lie in files of their own, which are the same in all outputs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mergekit_fair.checkpoints.reader import NAMES
from mergekit_fair.merging.program import OutputTensor

# The part of a grid's bytes that no λ changes, from which on they are worth files of their own.
SHARED_FROM = 0.1
# safetensors orders dtypes by alignment, in the order of its own enumeration (widest last).
_RANK = {
    name: rank
    for rank, name in enumerate(
        ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
    )
}


@dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
        name: of the file.
        header: as it stands in the file.
        tensors: in the order of their data.
        is_shared: whether it is the same in every output of a grid.
    """

    name: str
    header: bytes
    tensors: tuple[OutputTensor, ...]
    is_shared: bool = False

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

    @property
    def differs(self) -> bool:
        """Whether outputs of a grid differ in it."""
        return not all(piece.tensor.formulas.are_alike for piece in self.pieces)


def tensor_bytes(tensor: OutputTensor) -> int:
    """Bytes of its data in the file."""
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def shards(tensors: Sequence[OutputTensor], limit: int) -> tuple[Shard, ...]:
    """Cut the tensors into files of at most `limit` bytes of data, one tensor at least in each.

    Args:
        tensors: in mergekit's order.
        limit: 0 or less for one file; for two where a grid changes some tensors only.
    """
    kept = [tensor for tensor in tensors if tensor.formulas.are_alike]
    size = sum(map(tensor_bytes, kept))
    is_grid = bool(tensors) and len(tensors[0].formulas.each) > 1
    if not is_grid or size < SHARED_FROM * sum(map(tensor_bytes, tensors)):
        return _named([(part, False) for part in _parts(tensors, limit)])
    moved = [tensor for tensor in tensors if not tensor.formulas.are_alike]
    parts = [(part, False) for part in _parts(moved, limit)] if moved else []
    return _named([*parts, *((part, True) for part in _parts(kept, limit))])


def _parts(tensors: Sequence[OutputTensor], limit: int) -> list[list[OutputTensor]]:
    parts: list[list[OutputTensor]] = [[]]
    size = 0
    for tensor in tensors:
        width = tensor_bytes(tensor)
        if parts[-1] and 0 < limit < size + width:
            parts.append([])
            size = 0
        parts[-1].append(tensor)
        size += width
    return parts


def _named(parts: Sequence[tuple[Sequence[OutputTensor], bool]]) -> tuple[Shard, ...]:
    names = ["model.safetensors"]
    if len(parts) > 1:
        count = len(parts)
        names = [f"model-{index + 1:05d}-of-{count:05d}.safetensors" for index in range(count)]
    return tuple(_shard(name, *part) for name, part in zip(names, parts, strict=True))


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
            step = count if tensor.formulas.is_sparse else elements
            for start in range(0, count, max(1, step)):
                piece = Piece(tensor, start, min(start + step, count))
                if pending and filled + piece.stop - piece.start > elements:
                    yield SliceJob(index, tuple(pending))
                    pending, filled = [], 0
                pending.append(piece)
                filled += piece.stop - piece.start
        if pending:
            yield SliceJob(index, tuple(pending))


def _shard(name: str, tensors: Sequence[OutputTensor], is_shared: bool) -> Shard:
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
    return Shard(name, len(text).to_bytes(8, "little") + text, tuple(ordered), is_shared)
