"""The redundant vector of adaptive weight disentanglement, found from the Gram matrix alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Of squared lengths relative to the mean: what lies below is rounding, as a length that is the root
# of differences of squares has half the digits.
_ROUNDING = 1e-13
# How far the first step from δ = 0 goes, in mean lengths.
_STEP = 0.05


@lru_cache(maxsize=64)
def redundant_vector(gram: tuple[tuple[float, ...], ...], alpha: float) -> tuple[float, ...]:
    """d, so that δ = Σ_g d_g Δ_g minimises mean_{g<h} cos²(Δ_g − δ, Δ_h − δ) + α ‖δ‖ / mean ‖Δ_g‖.

    A vector of length zero takes no part in it, and its cosine with any is 0. With less than two
    others, and from some α on, δ = 0, exactly.

    δ is looked for among the combinations of the task vectors. At such a δ the gradient is a
    combination of them again, so that gradient descent over all weights never leaves these; and a
    part of δ that is orthogonal to all Δ_g enters every inner product by its length only, so that
    the vectors cannot tell its direction.

    The objective is not convex. L-BFGS with the exact gradient starts from two points, the steepest
    descent from δ = 0 and the shortest δ on the line of the mean vector with
    Σ_{g≠h} ⟨Δ_g − δ, Δ_h − δ⟩ = 0; the lower end is taken. Nothing is random.

    >>> [round(value, 3) for value in redundant_vector(((2.0, 1.0), (1.0, 2.0)), 1e-6)]
    [0.211, 0.211]
    >>> redundant_vector(((2.0, 1.0), (1.0, 2.0)), 10.0)
    (0.0, 0.0)

    Args:
        gram: K_gh = ⟨Δ_g, Δ_h⟩; d depends on their order by rounding, so give them in a fixed one.
        alpha: α > 0, without a unit: scaling all vectors changes nothing.

    Raises:
        ValueError: NaN or Inf.
    """
    whole = np.array(gram, dtype=np.float64).reshape(len(gram), len(gram))
    if not np.isfinite(whole).all():
        raise ValueError("a task vector is not finite")
    found = np.zeros(len(whole))
    moved = np.flatnonzero(np.diag(whole) > 0)
    if len(moved) > 1:
        found[moved] = _solved(whole[np.ix_(moved, moved)], alpha)
    return tuple(found.tolist())


def _solved(gram: Array, alpha: float) -> Array:
    """d of vectors that are not zero, two or more: solved in r coordinates, r the rank of K."""
    from scipy.optimize import minimize

    scaled = gram / np.sqrt(np.diag(gram)).mean() ** 2
    values, basis = np.linalg.eigh(scaled)
    is_kept = values > _ROUNDING * len(values) * values[-1]
    roots, basis = np.sqrt(values[is_kept]), basis[:, is_kept]
    vectors = basis * roots  # Δ_g in an orthonormal basis of their span, (T, r)
    best = np.zeros(len(roots))
    lowest, _ = _objective(best, vectors, alpha)
    for start in _starts(vectors):
        ended = minimize(
            _objective,
            start,
            (vectors, alpha),
            "L-BFGS-B",
            jac=True,
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000},
        )
        for point in (start, ended.x):
            value, _ = _objective(point, vectors, alpha)
            if value < lowest - _ROUNDING:
                lowest, best = value, point
    return np.asarray(basis @ (best / roots))


def _starts(vectors: Array) -> list[Array]:
    """Points from which the objective falls into its valleys; vectors (T, r)."""
    count, mean = len(vectors), vectors.mean(axis=0)
    starts = []
    _, slope = _objective(np.zeros(vectors.shape[1]), vectors, 0.0)
    if (steepness := np.linalg.norm(slope)) > _ROUNDING:
        starts.append(-_STEP * slope / steepness)
    # Σ_{g≠h} ⟨Δ_g − δ, Δ_h − δ⟩ = T (T − 1) ‖Δ̄ − δ‖² − Σ_g ‖Δ_g − Δ̄‖²: zero on a sphere about Δ̄.
    radius = np.sqrt(((vectors - mean) ** 2).sum() / (count * (count - 1)))
    if (length := np.linalg.norm(mean)) > _ROUNDING:
        starts.append(mean * (1 - radius / length))
    return starts


def _objective(delta: Array, vectors: Array, alpha: float) -> tuple[float, Array]:
    """The objective and its gradient at δ (r,), of vectors (T, r) whose mean length is 1."""
    count = len(vectors)
    rest = vectors - delta
    squares = (rest * rest).sum(axis=1)
    is_zero = squares <= _ROUNDING
    inverse = np.where(is_zero, 0.0, 1 / np.sqrt(np.where(is_zero, 1.0, squares)))
    unit = rest * inverse[:, np.newaxis]
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 0.0)
    ordered = count * (count - 1)
    # ∂cos_gh / ∂(Δ_g − δ) = (u_h − cos_gh u_g) / ‖Δ_g − δ‖, u the unit vectors.
    turned = cosines @ unit - (cosines**2).sum(axis=1)[:, np.newaxis] * unit
    slope = -4 / ordered * (inverse[:, np.newaxis] * turned).sum(axis=0)
    length = float(np.linalg.norm(delta))
    if length > 0:
        slope = slope + alpha / length * delta
    return float((cosines**2).sum()) / ordered + alpha * length, slope
