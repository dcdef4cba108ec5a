"""Put a checkpoint's tensors into a model that is in memory already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch


def can_assign_in_place(names: Iterable[str], model: Any) -> bool:
    """Whether tensors of these names, as a file has them, fill every storage of a model.

    Tied weights share a storage, of which a file has one. Where transformers names the tensors in
    files otherwise than those in memory (ViT), nothing fits.
    """
    slots, names = model.state_dict(), set(names)
    if not names <= set(slots):
        return False
    written = {slots[name].data_ptr() for name in names}
    return all(slot.data_ptr() in written for slot in slots.values())


def assign_weights(
    tensors: Iterable[tuple[str, torch.Tensor]], model: Any, *, in_place: bool
) -> Any:
    """The model with these weights, in the dtype of the first floating tensor.

    Args:
        tensors: (name in a file, tensor), all that a file has.
        model: a transformers model in evaluation mode.
        in_place: what `can_assign_in_place` says; else transformers' own loader converts the names
            and the model is made anew.

    Returns:
        The model itself, or the new one on its device.
    """
    if not in_place:
        return _remade(dict(tensors), model)
    slots: Mapping[str, torch.Tensor] = model.state_dict()
    dtype = None
    with torch.no_grad():
        for name, tensor in tensors:
            if dtype is None and tensor.is_floating_point():
                dtype = tensor.dtype
                slots = model.to(dtype).state_dict()
            if tensor.data_ptr() != slots[name].data_ptr():  # else written there already
                slots[name].copy_(tensor)
    return model


def _remade(tensors: Mapping[str, torch.Tensor], model: Any) -> Any:
    remade = type(model).from_pretrained(None, config=model.config, state_dict=tensors)
    return remade.to(model.device).eval()
