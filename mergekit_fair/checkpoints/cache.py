"""Checkpoints that are used again and again: held while there is room, else read by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mergekit_fair.checkpoints.folder import tensor_infos, weight_files
from mergekit_fair.errors import CheckpointError

Tensors = Mapping[str, torch.Tensor]

SHARE = 0.7  # of the free memory, that checkpoints may take


class Streamed(Tensors):
    """The tensors of a checkpoint folder, each read when it is asked for and kept by nobody."""

    def __init__(self, folder: str | Path) -> None:
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        for file in weight_files(folder):
            stream = self._open.enter_context(safe_open(str(file), framework="pt"))
            self._files.update(dict.fromkeys(stream.keys(), stream))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class Shelf:
    """Models by name, each on the device, in the CPU's memory or left on disk, as there is room.

    Args:
        device: where weights are used.
        room: bytes that may be taken in all, on the device and in the CPU's memory each; None:
            SHARE of what is free.
    """

    def __init__(self, device: torch.device, room: int | None = None) -> None:
        places = [device] if device.type == "cpu" else [device, torch.device("cpu")]
        self._left = {place: free_memory(place) if room is None else room for place in places}
        self._models: dict[str, Tensors] = {}

    def __getitem__(self, model: str) -> Tensors:
        """The tensors of a model folder; borrowed."""
        if model not in self._models:
            self.put(model, Streamed(model), size_of(model))
        return self._models[model]

    def put(self, model: str, tensors: Tensors, size: int | None = None) -> None:
        """Let a name stand for tensors of so many bytes, held if there is room for them.

        Without a size they are kept as they are, and count as somebody else's.
        """
        place = None if size is None else self.take(size)
        if place is None:
            self._models[model] = tensors
        else:
            self._models[model] = {name: tensors[name].to(place) for name in tensors}

    def take(self, size: int) -> torch.device | None:
        """Where `size` more bytes may be kept, which are then taken; None: nowhere."""
        for place, left in self._left.items():
            if size <= left:
                self._left[place] = left - size
                return place
        return None

    def give(self, place: torch.device, size: int) -> None:
        """Bytes that are free again."""
        self._left[place] += size


def free_memory(device: torch.device) -> int:
    """SHARE of the free bytes of a device or, for the CPU, of what the system can give."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(SHARE * psutil.virtual_memory().available)


def size_of(model: str | Path) -> int:
    """Bytes of a model folder's tensors."""
    return sum(info.bytes for info in tensor_infos(model).values())


def lookup(tensors: Tensors, model: str, name: str) -> torch.Tensor:
    """One tensor of a model.

    Raises:
        CheckpointError: it has none of that name.
    """
    if name not in tensors:
        raise CheckpointError(f"has no tensor {name}", where=model)
    return tensors[name]
