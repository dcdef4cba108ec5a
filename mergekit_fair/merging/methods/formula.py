"""What one output tensor is made of: start + λ · direction of some task vectors.

A method turns its parameters into a `Formula`; `arithmetic` carries formulas out. The engine that
streams files and the kernel inside mergekit's graph share both, so that they agree to the bit.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from enum import StrEnum


class Reduction(StrEnum):
    """How the weighted task vectors v_i = w_i Δ_i of n models become one direction.

    `sum`: Σ v_i. `agreement`: FedGMA's gradient masking. `median`: element by element.
    """

    SUM = "sum"
    AGREEMENT = "agreement"
    MEDIAN = "median"


class Sparsifier(StrEnum):
    """`magnitude` keeps the largest elements of a vector (TIES), `random` any of them (DARE)."""

    MAGNITUDE = "magnitude"
    RANDOM = "random"


class Election(StrEnum):
    """TIES: which sign an element may have. `sum`: that of Σ v_i; `count`: that of most v_i."""

    NONE = "none"
    SUM = "sum"
    COUNT = "count"


@dataclass(frozen=True)
class Term:
    """One task vector: weight · (θ_model − θ₀), `density` of its elements kept.

    Attributes:
        weight: w_i, not zero.
        model: the key of the model.
        label: what the random mask of the vector is seeded with.
    """

    weight: float
    model: Hashable
    density: float = 1.0
    label: str = ""


@dataclass(frozen=True)
class Formula:
    """θ = θ_start + scale · reduction(terms).

    Attributes:
        start: the model that is added to.
        base: θ₀ of the task vectors.
        terms: in an order that does not depend on the recipe's.
        scale: λ and all that is multiplied with it.
        threshold: ρ of `agreement`.
        is_mean: with an election, divide by the number of vectors that agree.
        rescale: of a sparse vector, to the L1 norm that it had.
    """

    start: Hashable
    base: Hashable
    terms: tuple[Term, ...] = ()
    scale: float = 1.0
    reduction: Reduction = Reduction.SUM
    threshold: float = 0.0
    sparsifier: Sparsifier = Sparsifier.MAGNITUDE
    rescale: bool = False
    seed: int = 0
    election: Election = Election.NONE
    is_mean: bool = False

    @property
    def moves(self) -> bool:
        """False if the result is the start itself, bit for bit."""
        return self.scale != 0 and bool(self.terms)

    @property
    def is_sparse(self) -> bool:
        """Whether elements depend on the whole tensor, so that it cannot be cut into slices."""
        return any(term.density < 1 for term in self.terms)

    @property
    def is_linear(self) -> bool:
        """Whether the direction is Σ w_i Δ_i and nothing else."""
        plain = self.reduction == Reduction.SUM and self.election == Election.NONE
        return plain and not self.is_sparse

    @property
    def models(self) -> tuple[Hashable, ...]:
        """The models whose tensor is read, each once."""
        if not self.moves:
            return (self.start,)
        return tuple(dict.fromkeys((self.start, self.base, *(t.model for t in self.terms))))

    def scaled(self, scale: float) -> Formula:
        """The same with another scale."""
        return replace(self, scale=scale)


def copy_of(model: Hashable, base: Hashable) -> Formula:
    """The formula of a tensor that is taken from one model as it is."""
    return Formula(start=model, base=base)
