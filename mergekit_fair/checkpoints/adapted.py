"""A LoRA adapter on a base that is in memory: θ is made slice by slice, and never held."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from mergekit_fair.checkpoints.layout import (
    Layout,
    RenamedReader,
    readable_as_base,
    unwrapped,
)
from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import DTYPES, Buffer, Reader, SharedReader, open_folder

# Elements that are made at a time where a tensor is wanted whole.
_BLOCK = 1 << 18


class SlicedTensor:
    """One tensor of a reader, made slice by slice, as the engine that streams files reads it.

    Args:
        reader: whose tensor it is.
        name: of the tensor.
        dtype: of the tensor that it stands for.
        rounds: whether slices are rounded to it, too.
        device: where slices are.
    """

    def __init__(
        self,
        reader: Reader,
        name: str,
        dtype: torch.dtype,
        *,
        rounds: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self._reader, self._name, self._rounds = reader, name, rounds
        self.dtype, self.device = dtype, device or torch.device("cpu")
        self.shape = reader.tensors[name].shape
        self._buffer = Buffer(0)

    def flatten(self) -> SlicedTensor:
        """Itself: slices are of the flattened tensor."""
        return self

    def __getitem__(self, part: slice) -> torch.Tensor:
        stop = min(part.stop, math.prod(self.shape))
        size = (stop - part.start) * 8
        if len(self._buffer.memory) < size:
            self._buffer = Buffer(size)
        values = self._reader.read(self._name, part.start, stop, self._buffer)
        return values.to(self.device, self.dtype if self._rounds else values.dtype)

    def whole(self) -> torch.Tensor:
        """All of it, in memory of its own."""
        whole = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        flat = whole.view(-1)
        for start in range(0, len(flat), _BLOCK):
            flat[start : start + _BLOCK].copy_(self[start : start + _BLOCK])
        return whole


class AdaptedCheckpoint(Mapping[str, torch.Tensor]):
    """The tensors of an adapter over a base: the base's own, or W + s·B·A, made when asked for.

    Held are A and B, and what the adapter has whole. A tensor that is asked for whole comes in
    float32 or wider: θ − θ₀ would be lost in the rounding to a short dtype.

    Args:
        tensors: of the base, borrowed.
        base: the base's folder.
        adapter: the adapter's.
        names: the folder of the model whose names the tensors have.
        device: of the base's tensors.

    Attributes:
        changed: the tensors that are not the base's own.

    Raises:
        CheckpointError: as of `AdapterReader`.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        base: str,
        adapter: str,
        names: str,
        device: torch.device,
    ) -> None:
        self._tensors, self._device = tensors, device
        reader = AdapterReader(_shared(base, tensors), Path(base), adapter, device=device)
        weakref.finalize(self, reader.close)
        found, _ = unwrapped(reader)
        if base != names:
            start, _ = unwrapped(open_folder(names))
            weakref.finalize(self, start.close)
            found = readable_as_base(start, found, Layout(Path(names)))
        assert isinstance(found, (AdapterReader, RenamedReader))
        self._reader, self.changed = found, found.changed

    @property
    def changed_bytes(self) -> int:
        """Of all tensors that are not the base's own, as they come when they are asked for."""
        return sum(
            self._reader.tensors[name].count * self._dtype(name).itemsize for name in self.changed
        )

    def sliced(
        self, name: str, dtype: torch.dtype, *, rounds: bool, device: torch.device
    ) -> SlicedTensor:
        """One of `changed`; arguments as of `SlicedTensor`."""
        return SlicedTensor(self._reader, name, dtype, rounds=rounds, device=device)

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.changed:
            return self._tensors[name]
        return self.sliced(name, self._dtype(name), rounds=False, device=self._device).whole()

    def _dtype(self, name: str) -> torch.dtype:
        stored = DTYPES[self._reader.tensors[name].dtype]
        return torch.promote_types(stored, torch.float32) if stored.is_floating_point else stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _shared(base: str, tensors: Mapping[str, torch.Tensor]) -> Reader:
    """The base's tensors as they are held, or its files where they are not, under its own names."""
    stored = open_folder(base)
    if isinstance(tensors, dict) and tensors.keys() == unwrapped(stored)[0].tensors.keys():
        stored.close()
        return SharedReader(base, (), tensors)
    return stored
