"""How task vectors lie to each other: Gram matrix, cosines, sign conflict, what a merge moves.

Every length and angle of linear merges θ(λ) = θ₀ + Σ_g λ_g Δ_g follows from the T × T Gram matrix
K = VᵀV, V = [Δ_1 … Δ_T]: one pass over the files, and no vector is held whole.

Source: METHODS §1 (arXiv 2505.24262) for the bound, arXiv 2212.04089 for the cosines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.checkpoints.reader import Buffer, Reader, one_thread_each
from mergekit_fair.checkpoints.vector_folder import VectorReader
from mergekit_fair.errors import CheckpointError, RecipeError

Matrix = NDArray[np.float64]

# Elements of all vectors together that a thread holds at a time: they stay in its cache, unless
# there are so many vectors that a slice of one would cost more to ask for than to read.
_AT_ONCE = 2**17
_SHORTEST, _LONGEST = 2**14, 2**18
# √eps: of a length that is the root of differences of squares, what lies below is rounding.
_ROUNDING = 1e-7


@dataclass(frozen=True, eq=False)
class Geometry:
    """T task vectors over the same tensors.

    Attributes:
        names: of the vectors.
        gram: float64 (T, T), K_ij = ⟨Δ_i, Δ_j⟩.
        conflict: float64 (T, T), in [0, 1]: of the elements where both vectors are non-zero, the
            share whose signs differ; NaN where there is no such element.
        both: float64 (T, T), the number of elements where both vectors are non-zero.
        tensors, elements: how many the vectors are made of.
    """

    names: tuple[str, ...]
    gram: Matrix
    conflict: Matrix
    both: Matrix
    tensors: int
    elements: int

    @property
    def norms(self) -> Matrix:
        """‖Δ_i‖₂, (T,)."""
        return np.sqrt(np.diag(self.gram))

    @property
    def cosines(self) -> Matrix:
        """K_ij / (‖Δ_i‖ ‖Δ_j‖), (T, T), in [−1, 1]; NaN beside a zero vector."""
        # Divided twice: a product of norms may overflow or vanish where the quotient does not.
        cosines = _divided(_divided(self.gram, self.norms), self.norms[:, np.newaxis])
        np.fill_diagonal(cosines, np.where(self.norms > 0, 1.0, np.nan))
        return np.asarray(np.clip(cosines, -1.0, 1.0))

    @property
    def with_mean(self) -> Matrix:
        """cos(Δ_i, Σ_h Δ_h / T), (T,), in [−1, 1]; NaN where either is zero (but for rounding)."""
        ones = np.ones(len(self.names))
        length, bound = displacement(self.gram, ones), triangle_bound(self.gram, ones)
        length = length if length > _ROUNDING * bound else 0.0
        cosines = _divided(_divided(self.gram.sum(axis=1), self.norms), np.float64(length))
        return np.asarray(np.clip(cosines, -1.0, 1.0))

    @property
    def changed(self) -> Matrix:
        """The share of elements that are not 0, (T,), in [0, 1]."""
        return _divided(np.diag(self.both), np.float64(self.elements))

    @property
    def overlap(self) -> Matrix:
        """Of the elements where either vector is non-zero, the share where both are (Jaccard's
        index), (T, T), in [0, 1]; NaN of two zero vectors."""
        own = np.diag(self.both)
        return _divided(self.both, own + own[:, np.newaxis] - self.both)

    def ratios(self, to: str | None = None) -> Matrix:
        """‖Δ_i‖ / ‖Δ_to‖, (T,), without `to` against the median norm; NaN where that is 0."""
        whole = np.median(self.norms) if to is None else self.norms[self.row_of(to)]
        return _divided(self.norms, np.float64(whole))

    def row_of(self, name: str) -> int:
        """The row of a vector; RecipeError if there is none of that name."""
        if name not in self.names:
            raise RecipeError("no such task vector", where=name, allowed=self.names)
        return self.names.index(name)

    def to_dict(self) -> dict[str, Any]:
        """JSON; undefined numbers are None."""
        return {
            "names": list(self.names),
            "tensors": self.tensors,
            "elements": self.elements,
            "gram": _listed(self.gram),
            "norms": _listed(self.norms),
            "norm_over_median": _listed(self.ratios()),
            "cosine_with_mean": _listed(self.with_mean),
            "cosines": _listed(self.cosines),
            "sign_conflict": _listed(self.conflict),
            "changed": _listed(self.changed),
            "overlap": _listed(self.overlap),
        }


def displacement(gram: ArrayLike, d: ArrayLike) -> float:
    """‖Σ_g d_g Δ_g‖₂ = √(dᵀKd), how far a merge lies from another, exactly.

    Args:
        gram: K, (T, T).
        d: λ − λ_ref, (T,). λ_ref = 0 is the base θ₀, λ_ref = 1 the balanced point θ̄.

    Returns:
        ≥ 0, in the weights' units; never above `triangle_bound`.
    """
    matrix, step = np.asarray(gram, dtype=np.float64), np.asarray(d, dtype=np.float64)
    # Where vectors cancel, or all point one way, rounding leaves the exact range by a hair.
    root = math.sqrt(max(float(step @ matrix @ step), 0.0))
    return min(root, triangle_bound(matrix, step))


def triangle_bound(gram: ArrayLike, d: ArrayLike) -> float:
    """Σ_g |d_g| ‖Δ_g‖₂, the displacement if all vectors pointed one way; arguments as there."""
    norms = np.sqrt(np.diag(np.asarray(gram, dtype=np.float64)))
    return float(np.abs(np.asarray(d, dtype=np.float64)) @ norms)


def relative_bound(gram: ArrayLike, lambdas: ArrayLike) -> float:
    """U(λ) / L = 2 Σ_g |λ_g − 1| ‖Δ_g‖₂: the paper's bound of DPD for a Lipschitz constant of 1.

    Relative: it orders the points of one recipe and bounds no DPD: L is not known here.

    Args:
        gram: K, (T, T).
        lambdas: λ_g, (T,).
    """
    return 2.0 * triangle_bound(gram, np.asarray(lambdas, dtype=np.float64) - 1.0)


Relation = Literal["aligned", "unrelated", "contradictory"]
_UNRELATED = 0.05  # |cosine| up to which vectors have nothing to do with each other


def relation_of(cosine: float | None) -> Relation | None:
    """The sign test of arXiv 2504.10957: add aligned or unrelated vectors, negate contradictory.

    There tasks are directions of one-layer, two-class models, α is the inner product of two of
    them, and addition succeeds where α ≥ 0, negation where α ≤ 0. Here the cosine of two task
    vectors stands for α, and up to 0.05 either way it counts as 0; both are this package's choices.

    >>> [relation_of(cosine) for cosine in (0.4, -0.01, -0.3, None)]
    ['aligned', 'unrelated', 'contradictory', None]
    """
    if cosine is None:
        return None
    if abs(cosine) <= _UNRELATED:
        return "unrelated"
    return "aligned" if cosine > 0 else "contradictory"


@dataclass(frozen=True)
class Screened:
    """A candidate for injection, seen against the target by its weights alone.

    Attributes:
        group: the candidate.
        cosine: of Δ_g with Δ_target = θ_target − θ₀, in [−1, 1].
        norm_ratio: ‖Δ_g‖ / ‖Δ_target‖.
        sign_conflict: as in `Geometry`.
    """

    group: str
    cosine: float | None
    norm_ratio: float | None
    sign_conflict: float | None

    def to_dict(self) -> dict[str, str | float | None]:
        """JSON, with the `relation_of` its cosine; None means undefined (a zero vector)."""
        return {
            "group": self.group,
            "cosine": self.cosine,
            "relation": relation_of(self.cosine),
            "norm_ratio": self.norm_ratio,
            "sign_conflict": self.sign_conflict,
        }


def screen(
    geometry: Geometry, target: str, candidates: Collection[str] | None = None
) -> list[Screened]:
    """Order candidates for injection into a target: the most aligned first.

    Only an order in which to measure, never a verdict: weights do not say whom a step harms.
    A zero vector has no direction and comes last; of equals, the first name comes first.

    Args:
        geometry: of the target's vector and the candidates'.
        target, candidates: names there; default of candidates: all but the target.

    Raises:
        RecipeError: a name that the geometry does not have.
    """
    row = geometry.row_of(target)
    names = candidates
    if names is None:
        names = [name for name in geometry.names if name != target]
    cosines, conflicts, ratios = (
        geometry.cosines[row],
        geometry.conflict[row],
        geometry.ratios(target),
    )
    screened = []
    for name in names:
        at = geometry.row_of(name)
        screened.append(Screened(name, *map(_known, (cosines[at], ratios[at], conflicts[at]))))
    return sorted(screened, key=_rank)


def _rank(one: Screened) -> tuple[float, str]:
    return (math.inf if one.cosine is None else -one.cosine, one.group)


def task_vector_geometry(
    base: Reader,
    models: Mapping[str, Reader],
    names: Iterable[str],
    advance: Callable[[int], None] | None = None,
) -> Geometry:
    """Measure the task vectors θ − θ₀ in one pass over all files.

    In float64, slice by slice; the result does not depend on the number of threads.

    Args:
        base: θ₀.
        models: name of the vector → θ, with the base's names and shapes; one at least.
        names: floating tensors.
        advance: told the number of bytes after each tensor.

    Raises:
        CheckpointError: NaN or Inf; names model and tensor.
    """
    listed = list(names)

    def measure(block: torch.Tensor) -> Matrix:
        return np.stack([_gram(block), *_sign_counts(block.numpy())])

    readers = list(models.values())
    gram, both, differing = _summed(
        base, readers, listed, measure, lambda sums: np.diag(sums[0]), advance
    )
    return Geometry(
        tuple(models),
        gram,
        _divided(differing, both),
        both,
        len(listed),
        sum(base.tensors[name].count for name in listed),
    )


def task_vector_gram(
    base: Reader,
    models: Sequence[Reader],
    names: Iterable[str],
    advance: Callable[[int], None] | None = None,
) -> Matrix:
    """K alone, (T, T): arguments as for `task_vector_geometry`, and the same bits."""
    return _summed(base, models, names, _gram, np.diag, advance)


def residuals(
    base: Reader,
    models: Sequence[Reader],
    others: Sequence[Reader],
    weights: ArrayLike,
    names: Iterable[str],
    advance: Callable[[int], None] | None = None,
) -> Matrix:
    """‖Δ_t − Σ_m C_mt s_m‖², (T,), of task vectors and the vectors s_m of other models.

    Args:
        base: θ₀.
        models: T models, as for `task_vector_geometry`.
        others: M models θ₀ + s_m.
        weights: C, (M, T).
        names, advance: as there.

    Raises:
        CheckpointError: NaN or Inf.
    """
    count, mixed = len(models), torch.from_numpy(np.asarray(weights, dtype=np.float64).T.copy())

    def measure(block: torch.Tensor) -> Matrix:
        rest = torch.addmm(block[:count], mixed, block[count:], alpha=-1)
        return (rest * rest).sum(dim=1).numpy()

    return _summed(base, [*models, *others], names, measure, np.asarray, advance)


def _gram(block: torch.Tensor) -> Matrix:
    """Of vectors (T, length)."""
    gram = block @ block.T
    return ((gram + gram.T) / 2).numpy()  # symmetric to the bit, whatever the BLAS does


def _summed(
    base: Reader,
    models: Sequence[Reader],
    names: Iterable[str],
    measure: Callable[[torch.Tensor], Matrix],
    squares: Callable[[Matrix], Matrix],
    advance: Callable[[int], None] | None,
) -> Matrix:
    """The sum of `measure(block)` over all blocks of the task vectors.

    Args:
        measure: of vectors (T, length), valid until the next call.
        squares: of such sums what is finite, (T,) or less, if the vectors are.

    Raises:
        CheckpointError: one is not.
    """
    nothing = measure(torch.empty((len(models), 0), dtype=torch.float64))

    def tensor(name: str) -> Matrix:
        sums = _added(nothing, map(measure, _blocks(base, models, name)))
        require_finite(base, models, name, squares(sums).tolist())
        if advance:
            advance(sum(reader.tensors[name].bytes for reader in (base, *models)))
        return sums

    with one_thread_each() as count, ThreadPoolExecutor(count) as pool:
        return _added(nothing, pool.map(tensor, names))


def _added(nothing: Matrix, parts: Iterable[Matrix]) -> Matrix:
    """In a fixed order, so that threads change nothing; counts are whole numbers below 2⁵³."""
    with np.errstate(invalid="ignore", over="ignore"):  # refused later, by the tensor's name
        return reduce(np.add, parts, nothing)


def _blocks(base: Reader, models: Sequence[Reader], name: str) -> Iterator[torch.Tensor]:
    """θ − θ₀ of a tensor, (T, length) in float64, slice by slice in the same memory."""
    count, rows = base.tensors[name].count, len(models)
    length = min(max(_AT_ONCE // rows, _SHORTEST), _LONGEST)
    raw = Buffer(length * 8)
    start = torch.empty(min(length, count), dtype=torch.float64)
    vectors = torch.empty((rows, len(start)), dtype=torch.float64)
    for begin in range(0, count, length):
        end = min(begin + length, count)
        block, origin = vectors[:, : end - begin], start[: end - begin]
        origin.copy_(base.read(name, begin, end, raw))
        for row, model in zip(block, models, strict=True):
            row.copy_(model.read(name, begin, end, raw))
            if not isinstance(model, VectorReader):  # which holds a task vector itself
                row.sub_(origin)
        yield block


def require_finite(
    base: Reader, models: Sequence[Reader], name: str, squares: Sequence[float]
) -> None:
    """Refuse a tensor of a task vector by its sum of squares.

    Raises:
        CheckpointError: NaN or Inf; names model and tensor.
    """
    for model, square in zip(models, squares, strict=False):
        if not math.isfinite(square):
            raise CheckpointError(
                f"tensor {name} minus the base's ({base.name}) is not finite",
                where=model.name,
                fix="train again, or leave the model out",
            )


def _sign_counts(vectors: Matrix) -> tuple[Matrix, Matrix]:
    """How often two of the vectors (T, length) are both non-zero, and how often they then differ
    in sign, each (T, T): by bits, 64 elements at a time.
    """

    def ones(words: NDArray[np.uint64]) -> Matrix:
        return np.asarray(np.bitwise_count(words).sum(axis=1, dtype=np.uint32), np.float64)

    rows, length = vectors.shape
    is_moved = vectors != 0
    negative, moved = _bits(np.signbit(vectors)), None if is_moved.all() else _bits(is_moved)
    both, differing = np.full((rows, rows), float(length)), np.zeros((rows, rows))
    for row in range(rows):
        apart = negative[row] ^ negative[row:]
        if moved is not None:
            shared = moved[row] & moved[row:]
            apart &= shared
            both[row, row:] = both[row:, row] = ones(shared)
        differing[row, row:] = differing[row:, row] = ones(apart)
    return both, differing


def _bits(values: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Rows of (T, length) as words of 64 bits, the last one filled up with 0."""
    packed = np.packbits(values, axis=1)
    words = np.zeros((len(packed), -(-packed.shape[1] // 8)), dtype=np.uint64)
    words.view(np.uint8)[:, : packed.shape[1]] = packed
    return words


def _divided(part: Matrix, whole: Any) -> Matrix:
    undefined = np.full(np.broadcast(part, whole).shape, np.nan)
    return np.asarray(np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _listed(values: Matrix) -> Any:
    """Nested lists, None for NaN."""
    return [_known(v) if np.ndim(v) == 0 else _listed(v) for v in values]
