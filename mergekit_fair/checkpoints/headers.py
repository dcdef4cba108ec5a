"""safetensors headers: which tensors a file holds, where, and whether the file can be what it says.

The file is read with plain reads at offsets and not through a memory map: a file that is cut
short while it is read is then an error, not a SIGBUS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import is_special
from mergekit_fair.schema import parse_json

# Bytes per element. Floating tensors are merged, the others copied; what is missing here (8-bit
# floats, complex numbers, packed quantisation) cannot be added up and is refused.
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
INTEGERS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
SIZES = FLOATS | INTEGERS

_LONGEST = 100_000_000  # as safetensors'
# Of one file; the largest models have a hundred thousand in all of their files together.
MOST_TENSORS = 250_000
_POINTER = b"version "  # as a header's length, 2.3 · 10¹⁸
COPY_AGAIN = "copy or train the model again"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor's entry in a header: dtype as safetensors names it (`BF16`), and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def bytes(self) -> int:
        return self.count * SIZES[self.dtype]


def described(tensors: Mapping[str, TensorInfo]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of every tensor, sorted: all that a header says but for places."""
    return sorted((name, info.dtype, info.shape) for name, info in tensors.items())


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: `offset` is where its first byte lies, counted from the file's start."""

    info: TensorInfo
    file: Path
    offset: int


def read_header(file: Path) -> dict[str, Stored]:
    """Tensor name → where it lies, in one safetensors file.

    Raises:
        CheckpointError: no safetensors file, or one that is not as long as its header says.
    """
    content = header_bytes(file)
    size, header = len(content) - 8, _entries(file, content)
    stored = {
        name: Stored(
            TensorInfo(entry["dtype"], tuple(entry["shape"])),
            file,
            8 + size + entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }
    _require_layout(file, size, header)
    return stored


def header_bytes(file: Path) -> bytes:
    """The header as it stands in the file, its length before it; not looked at.

    It identifies names, dtypes, shapes and order.

    Raises:
        CheckpointError: the file cannot be read, or is too short for the header that it announces.
    """
    try:
        if is_special(file):
            raise ValueError("it is a pipe or a device")
        with file.open("rb") as stream:
            start = stream.read(8)
            if start == _POINTER:
                raise ValueError("a pointer of Git LFS; `git lfs pull` gets the weights")
            size = int.from_bytes(start, "little")
            if not 0 < size <= min(file.stat().st_size - 8, _LONGEST):
                raise ValueError("header length out of range" if start else "it is empty")
            return start + stream.read(size)
    except OSError as error:
        raise unreadable(file, error) from error
    except ValueError as error:
        raise _unlike(file, error) from error


def unreadable(file: Path, error: OSError) -> CheckpointError:
    """The error for a file that the system does not allow to be read."""
    return CheckpointError(
        f"cannot be read ({error.strerror})", where=file, fix="make the file readable"
    )


def _unlike(file: Path, error: ValueError) -> CheckpointError:
    return CheckpointError(
        f"is not a readable safetensors file ({error})", where=file, fix=COPY_AGAIN
    )


def _entries(file: Path, content: bytes) -> dict[str, Any]:
    """Tensor name → dtype, shape and offsets, as a header says."""
    try:
        if content.count(b"{") > MOST_TENSORS:
            raise ValueError(f"it describes more than {MOST_TENSORS:,} tensors")
        text = content[8:].decode("utf-8")
        header = parse_json(text, object_pairs_hook=_without_duplicates)
        if not isinstance(header, dict):
            raise ValueError("the header does not describe tensors")
        metadata = header.pop("__metadata__", {})
        if not (_is_metadata(metadata) and all(map(_is_entry, header.values()))):
            raise ValueError("the header does not describe tensors")
        "".join(header).encode("utf-8")  # JSON can spell names that no text file can hold
    except ValueError as error:
        raise _unlike(file, error) from error
    return header


def _require_layout(file: Path, size: int, header: dict[str, Any]) -> None:
    """Tensors lie one after the other, each as long as dtype and shape say, to the file's end."""
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        width = SIZES.get(entry["dtype"])
        expected = stop - start if width is None else math.prod(entry["shape"]) * width
        if start != end or stop - start != expected:
            raise CheckpointError(
                f"is damaged: its header gives tensor {name} bytes {start} to {stop}",
                where=file,
                allowed=f"{end} to {end + expected}",
                fix=COPY_AGAIN,
            )
        end = stop
    length = file.stat().st_size
    if length != 8 + size + end:
        raise CheckpointError(
            "is truncated or damaged",
            where=file,
            got=f"{length} bytes",
            allowed=f"{8 + size + end} bytes, as its header says",
            fix=COPY_AGAIN,
        )


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets or ()) == 2):
        return False
    # An empty tensor, too, has strides.
    return math.prod(size or 1 for size in shape or ()) < 1 << 63


def _is_metadata(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return mapping
