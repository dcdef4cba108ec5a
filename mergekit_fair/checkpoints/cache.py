"""Checkpoints that are used again and again: held while there is room, else read by tensor."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from mergekit_fair.checkpoints.adapted import AdaptedCheckpoint
from mergekit_fair.checkpoints.folder import found_folder, stored_in
from mergekit_fair.checkpoints.layout import Layout, readable_as_base, unwrapped
from mergekit_fair.checkpoints.reader import open_folder, read_whole
from mergekit_fair.checkpoints.vector_folder import is_vector_folder, read_vector
from mergekit_fair.errors import CheckpointError

Tensors = Mapping[str, torch.Tensor]

SHARE = 0.7  # of the free memory, that checkpoints may take


class LazyCheckpoint(Tensors):
    """The tensors of a checkpoint folder, each read whenever it is asked for; none is cached.

    Args:
        folder: of a model.
        base: the folder of the model whose names the tensors get; None for their own.
    """

    def __init__(self, folder: str | Path, base: str | Path | None = None) -> None:
        self._reader, _ = unwrapped(open_folder(folder))
        weakref.finalize(self, self._reader.close)
        if base is not None and base != folder:
            start, _ = unwrapped(open_folder(base))
            weakref.finalize(self, start.close)
            self._reader = readable_as_base(start, self._reader, Layout(Path(base)))

    def __getitem__(self, name: str) -> torch.Tensor:
        return read_whole(self._reader, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.tensors)

    def __len__(self) -> int:
        return len(self._reader.tensors)


class CheckpointCache:
    """Models by name, each on the device, in the CPU's memory or left on disk, as there is room.

    Args:
        device: where weights are used.
        room: bytes that may be taken in all, on the device and in the CPU's memory each; None:
            SHARE of what is free.

    Attributes:
        base: the folder whose names for tensors the others are read under; None for their own.
    """

    def __init__(self, device: torch.device, room: int | None = None) -> None:
        self.base: str | None = None
        devices = [device] if device.type == "cpu" else [device, torch.device("cpu")]
        self._left = {each: free_memory(each) if room is None else room for each in devices}
        self._models: dict[str, Tensors] = {}

    def share(self, model: str, tensors: Tensors) -> None:
        """Hold a model by what somebody has of it, as far as that is its own to the bit.

        Args:
            model: its folder.
            tensors: name → tensor, of any dtype and device; not to be written to from now on.
        """
        device = self.reserve(size_of(model))
        if device is None:
            return
        stored = LazyCheckpoint(model, self.base)
        held = {}
        for name in stored:
            tensor, there = stored[name].to(device), tensors.get(name)
            is_same = there is not None and are_same(there, tensor)
            held[name] = there.detach() if there is not None and is_same else tensor
        self._models[model] = held

    def adapted(self, base: str, adapter: str) -> Tensors:
        """An adapter over one of the models, which is held once; borrowed."""
        model = f"{base}+{adapter}"
        if model not in self._models:
            tensors = self[base]
            device = next(iter(tensors.values())).device
            found = AdaptedCheckpoint(tensors, base, adapter, self.base or base, device)
            self._models[model] = found
        return self._models[model]

    def __getitem__(self, model: str) -> Tensors:
        """The tensors of a model folder, or those that a vector folder holds; borrowed."""
        if model not in self._models:
            is_vector = is_vector_folder(model)
            tensors = read_vector(model) if is_vector else LazyCheckpoint(model, self.base)
            self.add(model, tensors, size_of(model))
        return self._models[model]

    def add(self, model: str, tensors: Tensors, size: int | None = None) -> None:
        """Let a name stand for tensors of so many bytes, held if there is room for them.

        Without a size they are left as they are, and their bytes are not counted.
        """
        device = None if size is None else self.reserve(size)
        if device is None:
            self._models[model] = tensors
        else:
            self._models[model] = {name: tensors[name].to(device) for name in tensors}

    def reserve(self, size: int) -> torch.device | None:
        """Where `size` more bytes may be held, which are then taken; None: nowhere."""
        for device, left in self._left.items():
            if size <= left:
                self._left[device] = left - size
                return device
        return None

    def release(self, device: torch.device, size: int) -> None:
        """Bytes that are free again."""
        self._left[device] += size


def are_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are alike to the bit, on one device."""
    about = [(each.dtype, each.shape, each.device) for each in (one, other)]
    if about[0] != about[1] or not one.is_contiguous():
        return False
    return torch.equal(*(each.reshape(-1).view(torch.uint8) for each in (one, other)))


def free_memory(device: torch.device) -> int:
    """SHARE of the free bytes of a device or, for the CPU, of what the system can give."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(SHARE * psutil.virtual_memory().available)


def size_of(model: str | Path) -> int:
    """Bytes of the tensors of a model's folder, or of a task vector's."""
    return sum(stored.info.bytes for stored in stored_in(found_folder(model)).values())


def lookup(tensors: Tensors, model: str, name: str) -> torch.Tensor:
    """One tensor of a model.

    Raises:
        CheckpointError: it has none of that name.
    """
    if name not in tensors:
        raise CheckpointError(f"has no tensor {name}", where=model)
    return tensors[name]
