"""Put a checkpoint's tensors into a model that is in memory already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mergekit_fair.errors import CheckpointError


def can_assign_in_place(names: Iterable[str], model: Any) -> bool:
    """Whether tensors of these names, as a file has them, fill every storage of a model.

    Tied weights share a storage, of which a file has one. Where transformers names the tensors in
    files otherwise than those in memory (ViT), nothing fits.
    """
    slots, names = model.state_dict(), set(names)
    if not names <= set(slots):
        return False
    written = {_place(slots[name]) for name in names}
    return all(_place(slot) in written for slot in slots.values())


class WeightSlots:
    """The weights of a model in memory, which are those of one model after the other.

    A tensor that somebody holds is shared with them, not copied: a model that is its base but for
    a few tensors takes no second base. Memory is written to only if it was made here.

    Args:
        model: a transformers model in evaluation mode, see `can_assign_in_place`.
        dtype: that it runs in whatever the files have; None: that of the files.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        self._model, self._dtype = model, dtype
        self._own: dict[str, torch.Tensor] = {}
        alike: dict[Any, list[str]] = {}
        for name, slot in model.state_dict().items():
            alike.setdefault(_place(slot), []).append(name)
        self._tied = {name: names for names in alike.values() for name in names}
        self._slots: Mapping[str, torch.Tensor] = model.state_dict(keep_vars=True)

    def get(self, name: str) -> torch.Tensor | None:
        """Memory of the model's own for a tensor, to be written to and then assigned."""
        slot = self._slots.get(name)
        if slot is not None and name not in self._own:
            shape, dtype = slot.shape, slot.dtype
            self._own[name] = torch.empty(shape, dtype=dtype, device=slot.device)
        return self._own.get(name)

    def assign(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Let the model have these weights, in its own dtype or that of the first floating tensor.

        Args:
            tensors: (name in a file, tensor), all that a file has; nobody may change them later,
                but for what `get` gave.

        Raises:
            CheckpointError: a tensor of another shape.
        """
        dtype = self._dtype
        for name, tensor in tensors:
            if dtype is None and tensor.is_floating_point():
                dtype = tensor.dtype
                _cast(self._model, dtype)
                self._slots = self._model.state_dict(keep_vars=True)
                own = self._own.items()
                self._own = {key: kept for key, kept in own if kept.dtype == self._slots[key].dtype}
            self._put(name, tensor)

    def _put(self, name: str, tensor: torch.Tensor) -> None:
        slot, own = self._slots[name], self._own.get(name)
        if tensor.shape != slot.shape:
            raise CheckpointError(
                f"tensor {name} has another shape than in the model",
                where=type(self._model).__name__,
                got=list(tensor.shape),
                allowed=str(list(slot.shape)),
            )
        if own is not None:  # as it is there, it is used: two are never kept of one tensor
            if _place(tensor) != _place(own):
                own.copy_(tensor)
            tensor = own
        tensor = tensor.detach().to(slot.device, slot.dtype).contiguous()
        if _place(tensor) != _place(slot):
            for each in self._tied[name]:
                self._slots[each].data = tensor


def _cast(model: Any, dtype: torch.dtype) -> None:
    """Give a model another dtype as if it had been opened in it.

    That leaves alone what is in no file, such as frequencies of positions, which transformers
    keeps in float32, and what the model has in another dtype than most of its weights.
    """
    slots = [slot for slot in model.state_dict(keep_vars=True).values() if slot.is_floating_point()]
    most = slots[0].dtype if slots else dtype
    if most == dtype:
        return
    cast: dict[Any, torch.Tensor] = {}  # tied weights stay tied
    for slot in slots:
        if slot.dtype == most:
            slot.data = cast.setdefault(_place(slot), slot.detach().to(dtype))


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Where a tensor's numbers are."""
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def remade(tensors: Iterable[tuple[str, torch.Tensor]], model: Any) -> Any:
    """A model of the same kind with these weights, whose names transformers' own loader converts.

    Args:
        tensors: (name in a file, tensor), all that a file has.
        model: a transformers model in evaluation mode.
    """
    made = type(model).from_pretrained(None, config=model.config, state_dict=dict(tensors))
    return made.to(model.device).eval()
