"""What one output tensor is made of: start + λ · direction of some task vectors.

A method turns its parameters into a `Formula`; `arithmetic` carries formulas out. The engine that
streams files and the kernel inside mergekit's graph share both, so that they agree to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

from mergekit_fair.errors import CheckpointError, RecipeError

# BatchNorm counts training batches in an integer that inference never reads.
COUNTER = "num_batches_tracked"


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
        is_difference: whether the model's tensors are the vector itself, θ₀ subtracted already.
    """

    weight: float
    model: Hashable
    density: float = 1.0
    label: str = ""
    is_difference: bool = False


@dataclass(frozen=True)
class Formula:
    """θ = θ_start + scale · reduction(terms).

    Attributes:
        start: the model that is added to.
        base: θ₀ of the task vectors.
        terms: in an order that does not depend on the recipe's.
        scale: λ and all that is multiplied with it.
        threshold: ρ of `agreement`.
        is_mean: with an election, divide by the weights of the vectors that agree.
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

    @property
    def coefficients(self) -> dict[Hashable, float] | None:
        """Model → λ_g, so that the result is θ_start + Σ_g λ_g Δ_g; None if it is not such a sum.

        It is not where elements are treated apart: sparse vectors, elected signs, a median of
        three or more, masks of disagreement. One vector is its own median and agrees with itself;
        the median of two is their mean.

        >>> Formula("a", "a", (Term(0.5, "x"), Term(2.0, "y")), scale=0.5).coefficients
        {'x': 0.25, 'y': 1.0}
        """
        if not self.moves:
            return {}
        count = len(self.terms)
        is_median = self.reduction == Reduction.MEDIAN
        is_masked = self.reduction == Reduction.AGREEMENT and self.threshold > 0
        is_elected = self.election != Election.NONE
        is_apart = (is_masked or is_elected) and count > 1
        if self.is_sparse or is_apart or (is_median and count > 2):
            return None
        share = self.scale / count if is_median else self.scale
        sums: dict[Hashable, float] = {}
        for term in self.terms:
            sums[term.model] = sums.get(term.model, 0.0) + share * term.weight
        return sums

    def with_vectors(self, vectors: Mapping[Hashable, bool]) -> Formula:
        """The same where some models are stored task vectors.

        A vector is zero where it holds nothing, see `without`.

        Args:
            vectors: model → whether it holds this tensor.

        Raises:
            RecipeError: a task vector in the place of the model that is added to.
        """
        if not vectors:
            return self
        if self.start in vectors:
            raise RecipeError(
                "is a task vector, and the merge would start from it",
                where=self.start,
                fix="give a whole model in its place",
            )

        terms = tuple(
            replace(term, is_difference=True) if vectors.get(term.model) else term
            for term in self.terms
        )
        return replace(self, terms=terms).without([m for m, holds in vectors.items() if not holds])

    def without(self, unmoved: Collection[Hashable]) -> Formula:
        """The same where models have the base's own tensor: their vectors are zero.

        These are left out: a tensor that none changes is the start's to the bit. A median or an
        agreement counts them: there each is θ₀ − θ₀.

        Args:
            unmoved: the models.
        """
        if not unmoved:
            return self
        terms = tuple(term for term in self.terms if term.model not in unmoved)
        if terms and self.reduction != Reduction.SUM:
            terms = tuple(
                Term(term.weight, self.base) if term.model in unmoved else term
                for term in self.terms
            )
        return replace(self, start=self.base if self.start in unmoved else self.start, terms=terms)

    def scaled(self, scale: float) -> Formula:
        """The same with another scale."""
        return self if scale == self.scale else replace(self, scale=scale)


def copy_of(model: Hashable, base: Hashable) -> Formula:
    """The formula of a tensor that is taken from one model as it is."""
    return Formula(start=model, base=base)


@dataclass(frozen=True)
class Formulas:
    """What one tensor is in each output of a merge: one formula, or of a grid one for each.

    >>> half, none = Formula("a", "a", (Term(1.0, "x"),), 0.5), Formula("a", "a")
    >>> [(direction.models, scales) for direction, scales in Formulas((half, none)).directions]
    [(('a', 'x'), ((0, 0.5),)), (('a',), ((1, 1.0),))]

    Attributes:
        each: in the outputs' order.
    """

    each: tuple[Formula, ...]

    @cached_property
    def directions(self) -> tuple[tuple[Formula, tuple[tuple[int, float], ...]], ...]:
        """Formulas without their scale, and the outputs that each is of: (number, scale)."""
        found: dict[Formula, list[tuple[int, float]]] = {}
        for number, formula in enumerate(self.each):
            moved = formula if formula.moves else copy_of(formula.start, formula.base)
            found.setdefault(moved.scaled(1.0), []).append((number, moved.scale))
        return tuple((formula, tuple(scales)) for formula, scales in found.items())

    @cached_property
    def moves(self) -> bool:
        """False if the tensor is the start's in every output, bit for bit."""
        return any(formula.moves for formula in self.each)

    @cached_property
    def are_alike(self) -> bool:
        """Whether every output has the same bits of it."""
        (_, scales), *others = self.directions
        return not others and len({scale for _, scale in scales}) == 1

    @cached_property
    def is_sparse(self) -> bool:
        """As of a formula."""
        return any(formula.is_sparse for formula in self.each)

    @cached_property
    def models(self) -> tuple[Hashable, ...]:
        """The models whose tensor is read, each once."""
        return tuple(dict.fromkeys(m for formula, _ in self.directions for m in formula.models))


@dataclass(frozen=True)
class Coefficients:
    """What a merge adds up: θ_start + Σ_g λ_g (θ_g − θ₀).

    Attributes:
        start: the model that is added to: the base θ₀, or an injection's target.
        lambdas: model → λ_g of every other model (λ, weight and all that the method multiplies
            with); None where the result is not such a sum, or where tensors differ in it.
        is_identity: whether the merge is its start, bit for bit (but for copied heads).
    """

    start: str
    lambdas: Mapping[str, float] | None
    is_identity: bool

    @property
    def lambda_eff(self) -> float | None:
        """Σ_g λ_g; without the target's own vector in an injection."""
        return None if self.lambdas is None else math.fsum(self.lambdas.values())

    @property
    def lambda_l1(self) -> float | None:
        """Σ_g |λ_g|."""
        return None if self.lambdas is None else math.fsum(map(abs, self.lambdas.values()))


def coefficients_of(formulas: Iterable[Formula], models: Iterable[str]) -> Coefficients:
    """The coefficients that all tensors of a merge share.

    Args:
        formulas: of the tensors that are merged (heads that are copied are not); one at least.
        models: all models of the recipe; those without a term have λ_g = 0.
    """
    distinct = list(dict.fromkeys(formulas))
    start, base = str(distinct[0].start), str(distinct[0].base)
    sums = [formula.coefficients for formula in distinct]
    first = sums[0]
    lambdas = None
    if first is not None and all(other == first for other in sums):
        others = (model for model in models if model not in (start, base))
        lambdas = {model: first.get(model, 0.0) for model in others}
    return Coefficients(start, lambdas, not any(formula.moves for formula in distinct))


def unequal(model: object, name: str) -> CheckpointError:
    """The error for integers that differ between models."""
    return CheckpointError(
        f"integer tensor {name} differs from the base's",
        where=model,
        fix="integers are copied, not merged: make them equal first",
    )
