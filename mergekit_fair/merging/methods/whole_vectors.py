"""What a method may read of whole task vectors: K_ij = ⟨Δ_i, Δ_j⟩, or its diagonal, the norms."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

Pair = tuple[int, int]


class Measured(IntEnum):
    """What a method reads of whole vectors: nothing, their norms, all of their inner products."""

    NOTHING = 0
    NORMS = 1
    PRODUCTS = 2

    def pairs(self, count: int) -> list[Pair]:
        """The places (i, j), i ≤ j, of what is measured of `count` vectors.

        >>> Measured.NORMS.pairs(2), Measured.PRODUCTS.pairs(2)
        ([(0, 0), (1, 1)], [(0, 0), (0, 1), (1, 1)])
        """
        places = range(count)
        if self == Measured.PRODUCTS:
            return [(i, j) for i in places for j in places[i:]]
        return [(i, i) for i in places] if self == Measured.NORMS else []


@dataclass(frozen=True)
class WholeVectors:
    """What was measured of task vectors, over all tensors that are merged.

    Attributes:
        products: (model, model) → ⟨Δ, Δ⟩, each pair in one order; of norms alone the diagonal.
    """

    products: Mapping[tuple[Any, Any], float]

    @classmethod
    def of(
        cls, models: Sequence[Hashable], pairs: Iterable[Pair], products: Iterable[float]
    ) -> WholeVectors:
        """Of products of pairs of places in `models`."""
        named = ((models[i], models[j]) for i, j in pairs)
        return cls(dict(zip(named, products, strict=True)))

    @property
    def norms(self) -> dict[Any, float]:
        """Model → ‖Δ‖₂."""
        pairs = self.products.items()
        return {one: math.sqrt(value) for (one, other), value in pairs if one == other}

    def gram(self, models: Sequence[Hashable]) -> tuple[tuple[float, ...], ...]:
        """K of these models, in this order."""
        both = {(other, one): value for (one, other), value in self.products.items()}
        both.update(self.products)
        return tuple(tuple(both[one, other] for other in models) for one in models)
