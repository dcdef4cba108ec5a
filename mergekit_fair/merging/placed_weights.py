"""Tensors and their places among the layers, as names and config.json tell them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mergekit_fair.checkpoints.headers import COPY_AGAIN, TensorInfo
from mergekit_fair.compat.transformers import configuration_of
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.methods.formula import COUNTER

# The number of a layer, where mergekit looks for it: between the first two dots around a number.
LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class PlacedWeight:
    """A tensor of an architecture.

    Attributes:
        name: of the tensor.
        place: among the layers, from 0 for the first to 1 for the last; 0 outside of them.
        dtype: that it is merged and written in, whatever the recipe says; None for most.
    """

    name: str
    place: float
    dtype: str | None = None


def place_of(layer: int, count: int) -> float:
    """Where a layer lies, which layer gradients are read at.

    >>> [place_of(layer, 3) for layer in range(3)], place_of(0, 1)
    ([0.0, 0.5, 1.0], 1.0)
    """
    return layer / (count - 1) if count > 1 else 1.0


def placed_by_name(tensors: Mapping[str, TensorInfo]) -> list[PlacedWeight]:
    """All tensors of a checkpoint: the first number between dots is the layer.

    >>> info = TensorInfo("F32", (1,))
    >>> [weight.place for weight in placed_by_name({"h.0.w": info, "h.1.w": info, "norm.w": info})]
    [0.0, 1.0, 0.0]

    Args:
        tensors: integers stay integers, but for the counters of a BatchNorm.
    """
    layers = {name: found for name in tensors if (found := LAYER.search(name))}
    counts: dict[str, int] = {}
    for name, found in layers.items():
        prefix = name[: found.start()]
        counts[prefix] = max(counts.get(prefix, 0), int(found[1]) + 1)
    return [
        PlacedWeight(
            name,
            place_of(int(found[1]), counts[name[: found.start()]])
            if (found := layers.get(name))
            else 0.0,
            forced_dtype(name, info),
        )
        for name, info in sorted(tensors.items())
    ]


def forced_dtype(name: str, info: TensorInfo) -> str | None:
    """mergekit makes floats of integers where a recipe has a dtype.

    Else, it refuses those that differ, as a BatchNorm's counters do.
    """
    if info.dtype != "I64":
        return None
    return "float32" if name.endswith(COUNTER) else "int64"


def named_config(model: Any, trust_remote_code: bool) -> Any:
    """transformers' configuration of a `ModelReference`, which names one architecture.

    Raises:
        CheckpointError: it names none or several, or transformers does not take it.
    """
    try:
        config = configuration_of(model, trust_remote_code=trust_remote_code)
    except Exception as error:  # a config makes transformers raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        fix = COPY_AGAIN
        if "trust_remote_code" in reason:
            reason = "it names code of its own"
            fix = "pass --trust-remote-code if you trust that code"
        raise CheckpointError(
            f"transformers does not take its config.json ({reason})", where=model, fix=fix
        ) from error
    names = config.architectures
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise CheckpointError(
            "its config.json must name one architecture",
            where=model,
            got=names,
            fix="save the model with transformers, as the class that you use it with",
        )
    return config
