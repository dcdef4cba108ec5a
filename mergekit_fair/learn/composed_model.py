"""A model in memory whose weights are θ₀ + Σ_g λ_g Δ_g, and the gradient by every λ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mergekit_fair.checkpoints.names import MemoryNames
from mergekit_fair.checkpoints.reader import Reader, read_whole
from mergekit_fair.errors import CheckpointError
from mergekit_fair.learn.coefficients import Array


@dataclass(frozen=True, eq=False)
class _Place:
    """One tensor: where its weights go, θ₀ (N,), and the vectors (G, N)."""

    parameter: torch.nn.Parameter
    base: torch.Tensor
    vectors: torch.Tensor


class ComposedModel:
    """θ_t = θ₀_t + Σ_g λ_{g,t} Δ_{g,t} in the parameters of a model, in float32.

    By the chain rule ∂L/∂λ_{g,t} = ⟨∂L/∂θ_t, Δ_{g,t}⟩. In memory are the model, its gradient and
    all vectors: G + 3 times the weights in float32.

    Args:
        model: of torch, with the base's weights.
        base: its files.
        models: of the G vectors.
        names: of the tensors that are merged.
        in_memory: how the model calls them.
        advance: told the bytes that were read.

    Raises:
        CheckpointError: a tensor that the model does not have; NaN or Inf.

    Attributes:
        tensors: T names in the file, of the parameters that λ move; tied ones once.
        alike: name of a tied tensor → the one of `tensors` that it equals.
        fixed: tensors without a gradient (running means, say), which keep the recipe's λ.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        base: Reader,
        models: Sequence[Reader],
        names: Iterable[str],
        in_memory: MemoryNames,
        advance: Callable[[int], None],
    ) -> None:
        self.tensors: list[str] = []
        self.alike: dict[str, str] = {}
        self.fixed: list[str] = []
        self._places: list[_Place] = []
        model.requires_grad_(False)
        to_memory = {file: memory for memory, file in in_memory.in_file.items()}
        parameters = dict(model.named_parameters(remove_duplicate=False))
        buffers = dict(model.named_buffers(remove_duplicate=False))
        known: dict[int, str] = {}
        for name in names:
            memory = to_memory.get(name, name)
            parameter = parameters.get(memory)
            if parameter is None and memory not in buffers:
                raise CheckpointError(
                    f"tensor {name} is none of the model's own in memory, so that its gradient is "
                    "not known",
                    where=base.name,
                    fix="save the model again with transformers",
                )
            if parameter is None:
                self.fixed.append(name)
            elif id(parameter) in known:
                self.alike[name] = known[id(parameter)]
            else:
                known[id(parameter)] = name
                self._add(name, parameter, base, models)
            advance(base.tensors[name].bytes * (1 + len(models)))

    def _add(
        self, name: str, parameter: torch.nn.Parameter, base: Reader, models: Sequence[Reader]
    ) -> None:
        start = _flat(base, name)
        vectors = torch.stack([_flat(model, name) - start for model in models])
        device = parameter.device
        self.tensors.append(name)
        self._places.append(_Place(parameter, start.to(device), vectors.to(device)))
        # Where no vector moves a tensor, its gradient need not be known.
        parameter.requires_grad_(bool(vectors.any()))

    def set(self, lambdas: Array) -> None:
        """Compose the weights of λ (G, T)."""
        with torch.no_grad():
            for place, column in zip(self._places, lambdas.T, strict=True):
                if place.parameter.requires_grad:
                    of = torch.tensor(column, dtype=torch.float32, device=place.base.device)
                    moved = torch.addmv(place.base, place.vectors.T, of)
                    place.parameter.copy_(moved.view_as(place.parameter))

    def gradient(self) -> Array:
        """∂L/∂λ (G, T) of what `backward` has left in the parameters, which is taken away."""
        found = np.zeros((len(self._places[0].vectors), len(self._places)))
        for number, place in enumerate(self._places):
            gradient, place.parameter.grad = place.parameter.grad, None
            if gradient is not None:
                found[:, number] = (place.vectors @ gradient.reshape(-1).float()).cpu().numpy()
        return found

    def expanded(self, of_tensors: Sequence[float]) -> Mapping[str, float]:
        """Name in the file → the number of its tensor, tied ones included."""
        known: dict[str, Any] = dict(zip(self.tensors, of_tensors, strict=True))
        return known | {name: known[twin] for name, twin in self.alike.items()}


def _flat(model: Reader, name: str) -> torch.Tensor:
    tensor = read_whole(model, name).to(torch.float32).reshape(-1)
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"tensor {name} has NaN or Inf",
            where=model.name,
            fix="train or save the model again",
        )
    return tensor
