"""Surrogates of rates: quadratic polynomials in λ on the logit scale.

    logit r(λ) ≈ β₀ + Σ_g β_g u_g + Σ_{g≤h} β_gh u_g u_h,        u = λ scaled to [−1, 1]

fitted by weighted ridge least squares to the empirical logit z = ln((k + ½) / (m − k + ½)) of k
successes in m rows, with weights 1 / (1/(k + ½) + 1/(m − k + ½)), the binomial information.
Source: MAP (arXiv 2406.07529) for quadratics in λ; Cox 1970 for the empirical logit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.sweep.search.space import Array

# Prior standard deviations, in logits over half a range: λ may move a rate through its whole
# range; curvature is smaller than slope until the data say otherwise.
_INTERCEPT, _SLOPE, _CURVATURE = 10.0, 4.0, 2.0
# The dispersion's prior: 1 (binomial), worth this many residuals.
_PRIOR_RESIDUALS = 2.0
# The dispersion and the coefficients need each other; this many turns settle both.
_TURNS = 4


@dataclass(frozen=True, eq=False)
class Polynomial:
    """Gaussian posterior of a polynomial's coefficients.

    Attributes:
        mean: (P,).
        root: (P, P), lower triangular Cholesky factor of the precision.
        dispersion: of the residuals, in binomial variances. Points are measured on the same
            rows, so it may well be below 1.
    """

    mean: Array
    root: Array
    dispersion: float

    def draw(self, rng: np.random.Generator) -> Array:
        """One sample of the coefficients (P,)."""
        noise = rng.standard_normal(len(self.mean))
        return np.asarray(self.mean + np.linalg.solve(self.root.T, noise))


def terms(points: Array, observations: int) -> Array:
    """The polynomial's terms, as many as the observations can tell apart.

    A full quadratic with at least as many observations as it has coefficients, else one without
    products with at least 2G + 1, else a linear one.

    Args:
        points: (n, G), scaled to [−1, 1].
        observations: number of points that the fit rests on.

    Returns:
        (n, P) with P = 1 + G + G(G + 1)/2, 1 + 2G or 1 + G.
    """
    count, dimensions = points.shape
    parts = [np.ones((count, 1)), points]
    if observations >= 1 + 2 * dimensions:
        parts.append(points**2)
    if observations >= 1 + dimensions + dimensions * (dimensions + 1) // 2:
        first, second = np.triu_indices(dimensions, k=1)
        parts.append(points[:, first] * points[:, second])
    return np.concatenate(parts, axis=1)


def fit(design: Array, dimensions: int, rates: Array, rows: Array) -> Polynomial:
    """Weighted ridge fit with its posterior.

    Args:
        design: (n, P) from :func:`terms`, n ≥ 1.
        dimensions: G.
        rates: (n,), in [0, 1], all defined.
        rows: (n,), rows that each rate is a share of, > 0.
    """
    hits = rates * rows + 0.5
    misses = (1 - rates) * rows + 0.5
    logits, weights = np.log(hits / misses), 1 / (1 / hits + 1 / misses)
    ridge = np.diag(1 / _prior(design.shape[1], dimensions) ** 2)
    information = (design.T * weights) @ design
    dispersion = 1.0
    for _ in range(_TURNS):
        precision = information / dispersion + ridge
        mean = np.linalg.solve(precision, design.T @ (weights * logits) / dispersion)
        squares = float((weights * (logits - design @ mean) ** 2).sum())
        used = float(np.trace(np.linalg.solve(precision, information / dispersion)))
        free = max(len(rates) - used, 0.0)
        dispersion = (_PRIOR_RESIDUALS + squares) / (_PRIOR_RESIDUALS + free)
    precision = information / dispersion + ridge
    mean = np.linalg.solve(precision, design.T @ (weights * logits) / dispersion)
    root = np.linalg.cholesky(precision)
    return Polynomial(mean.astype(np.float64), root.astype(np.float64), dispersion)


def expit(values: Array) -> Array:
    """1 / (1 + exp(−v)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))


def _prior(count: int, dimensions: int) -> NDArray[np.float64]:
    deviations = np.full(count, _CURVATURE)
    deviations[0] = _INTERCEPT
    deviations[1 : 1 + dimensions] = _SLOPE
    return deviations
