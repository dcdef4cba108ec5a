"""Which numbers are learned, and the λ of every vector and tensor that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.merging.methods.head_policy import is_head
from mergekit_fair.merging.placed_weights import LAYER

Array = NDArray[np.float64]
Per = Literal["model", "layer", "tensor"]


def shared_by(per: Per, tensors: Sequence[str]) -> list[str]:
    """With which others each tensor shares its number, by a name.

    >>> shared_by("layer", ["embed.weight", "h.0.w", "h.0.b", "h.1.w", "classifier.weight"])
    ['other', 'h.0', 'h.0', 'h.1', 'head']

    Args:
        per: one number for all tensors of a vector, for those of a layer, or for each.
        tensors: their names.
    """
    if per == "tensor":
        return list(tensors)
    if per == "model":
        return ["all"] * len(tensors)
    found = []
    for name in tensors:
        layer = LAYER.search(name)
        outside = "head" if is_head(name) else "other"
        found.append(outside if layer is None else name[: layer.end() - 1])
    return found


@dataclass(frozen=True, eq=False)
class CoefficientMap:
    """λ_{g,t} = start_{g,t} + slope_{g,t} · c[index_{g,t}] of G vectors and T tensors.

    Attributes:
        first: c (C,), where learning begins.
        start, slope: (G, T).
        index: (G, T), which learned number.
    """

    first: Array
    start: Array
    slope: Array
    index: NDArray[np.int64]

    @classmethod
    def of_vectors(cls, lambdas: Array, shared: Sequence[str]) -> Self:
        """LearnedNumbers that are λ themselves: one for each vector and name (aTLAS, AdaMerging).

        >>> of = CoefficientMap.of_vectors(np.full((2, 3), 0.5), ["a", "a", "b"])
        >>> of.lambdas(np.array([0.1, 0.2, 0.3, 0.4])).tolist()
        [[0.1, 0.1, 0.2], [0.3, 0.3, 0.4]]

        Args:
            lambdas: (G, T), where learning begins.
            shared: of each tensor, see `shared_by`.
        """
        names, place = np.unique(np.array(shared), return_inverse=True)
        index = np.arange(len(lambdas))[:, None] * len(names) + place.reshape(-1)
        first = np.zeros(index.max() + 1)
        np.put(first, index, lambdas)
        return cls(first, np.zeros(lambdas.shape), np.ones(lambdas.shape), index)

    @classmethod
    def of_difference(cls, lambdas: Array) -> Self:
        """λ'_{g,t} = (1 + c_t) λ_{g,t}: one number a tensor for the merge's own difference vector
        δ = Σ_g λ_g Δ_g (DV-BASI).

        >>> CoefficientMap.of_difference(np.array([[0.5], [0.2]])).lambdas(np.array([0.1])).round(9)
        array([[0.55],
               [0.22]])
        """
        index = np.broadcast_to(np.arange(lambdas.shape[1]), lambdas.shape)
        return cls(np.zeros(lambdas.shape[1]), lambdas, lambdas, index)

    def lambdas(self, numbers: Array) -> Array:
        """λ (G, T) of c (C,)."""
        return np.asarray(self.start + self.slope * numbers[self.index])

    def gradient(self, of_lambdas: Array) -> Array:
        """∂/∂c (C,) of ∂/∂λ (G, T)."""
        parts = (self.slope * of_lambdas).ravel()
        found = np.zeros(len(self.first))
        np.add.at(found, self.index.ravel(), parts)
        return found


def weight_setting(of_tensors: Mapping[str, float], otherwise: float) -> Any:
    """A vector's weights as mergekit's YAML says them: filters by name, the longest first.

    A filter takes every tensor whose name holds it: longest first, each takes its own alone.

    >>> weight_setting({"classifier.bias": 0.5, "pre_classifier.bias": 0.2}, 0.3)
    [{'filter': 'pre_classifier.bias', 'value': 0.2}, {'filter': 'classifier.bias', 'value': 0.5}, \
{'value': 0.3}]
    >>> weight_setting({"a": 0.3, "b": 0.3}, 0.3)
    0.3

    Args:
        of_tensors: tensor → weight.
        otherwise: of all others.
    """
    if all(value == otherwise for value in of_tensors.values()):
        return otherwise
    longest = sorted(of_tensors, key=lambda name: (-len(name), name))
    filters = [{"filter": name, "value": of_tensors[name]} for name in longest]
    return [*filters, {"value": otherwise}]
