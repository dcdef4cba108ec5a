"""Scores moved along directions until groups are treated alike: one smooth objective.

Hard rates jump by a row at a time. Of a decision that is soft near the threshold the rates are
smooth, and vary 4 to 6 times less from sample to sample: few coefficients over directions that were
fitted elsewhere fit little noise (METHODS §8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.advice import option
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.eligible_groups import eligible_groups
from mergekit_fair.fairness.labels import UNANSWERED

Array = NDArray[np.float64]

# Gap → the labels of the rows that each of its rates is a share of.
LABELS_OF_RATES: dict[str, tuple[tuple[int, ...], ...]] = {"dpd": ((0, 1),), "eod": ((1,), (0,))}

# Width of the soft decision, in standard deviations of the scores.
SOFTNESS = 0.25
# Weights of the objective's parts against the mean error: rates apart, level moved, steps large.
APART, LEVEL, RIDGE = 3.0, 30.0, 0.01


def deciding_groups(gap: str, rows: Predictions, settings: MetricSettings) -> list[str]:
    """The groups that decide one of the gap's rates at least.

    Raises:
        MeasurementError: a rate is decided by fewer than two.
    """
    inside, deciding = zip(*shares(gap, rows, settings), strict=True)
    if min(large.sum() for large in deciding) < 2:
        each = " of each label" if gap == "eod" else ""
        counts = np.min([each.sum(axis=1) for each in inside], axis=0)
        largest = sorted(zip(counts.tolist(), rows.groups, strict=True), reverse=True)[:8]
        raise MeasurementError(
            f"fewer than two groups have {settings.min_group_size} rows{each}",
            where=rows.task,
            got={name: count for count, name in largest},
            allowed=f"{settings.min_group_size} or more",
            fix=f"give these rows a larger share, or lower {option('min_group_size')}",
        )
    return [name for name, fits in zip(rows.groups, np.any(deciding, axis=0), strict=True) if fits]


def counting(rows: Predictions) -> NDArray[np.bool_]:
    """The rows with an answer that stand for somebody, (n,)."""
    answered = rows.predicted != UNANSWERED
    return answered if rows.weights is None else answered & (rows.weights > 0)


def shares(
    gap: str, rows: Predictions, settings: MetricSettings
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """For each rate: its rows of every group (G, n), and who decides it (G,)."""
    settings = settings.excluding(rows.excluded)
    members, counted = np.stack(list(rows.groups.values())), counting(rows)
    found = []
    for labels in LABELS_OF_RATES[gap]:
        inside = members & counted & np.isin(rows.labels, labels)
        found.append((inside, eligible_groups(tuple(rows.groups), inside.sum(axis=1), settings)))
    return found


def rate_rows(gap: str, rows: Predictions, settings: MetricSettings) -> tuple[Array, ...]:
    """For each rate of a gap (H, n): what every row counts for in it, of the H groups that decide.

    Args:
        gap: `dpd` or `eod`.
        rows: n.
        settings: who decides.
    """
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    return tuple(inside[large] * weights for inside, large in shares(gap, rows, settings))


def rates_of(inside: Array, chances: Array) -> Array:
    """Rates (H, …) of chances (n, …), by what rows (H, n) count for; 0 for a group without rows.

    >>> rates_of(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]), np.array([1.0, 0.0, 1.0]))
    array([0.5, 1. ])
    """
    return np.asarray(_normalised(inside) @ chances)


def _normalised(inside: Array) -> Array:
    whole = inside.sum(axis=1, keepdims=True)
    return np.asarray(inside / np.where(whole > 0, whole, 1.0))


@dataclass(frozen=True, eq=False)
class SoftObjective:
    """Of steps b (K,) along directions, in standard deviations σ of the scores:

        E |y − p| + μ Σ_rates Σ_g (r_g − r̄)² + 30 (E p − E p₀)² + Σ_k ρ_k b_k²

    with p = σ(4 (s/σ_s + Σ_k b_k u_k)), r_g the mean of p over the rows of g (of both labels, or of
    each), r̄ their mean over groups, and p₀ that at b = 0. The level term keeps a gap from closing
    by selecting nobody. Source: METHODS §7, §8.

    Attributes:
        scores: (m,), in standard deviations.
        labels: (m,).
        weights: (m,), summing to 1.
        directions: (K, m).
        means: for each rate (H, m), so that means @ p are the rates of H groups; those with rows.
        level: the mean of p at b = 0.
        scale: the standard deviation.
        apart: μ.
        ridge: ρ (K,), or one for all.
    """

    scores: Array
    labels: Array
    weights: Array
    directions: Array
    means: tuple[Array, ...]
    level: float
    scale: float
    apart: float = APART
    ridge: float | Array = RIDGE

    @classmethod
    def of(
        cls,
        gap: str,
        rows: Predictions,
        settings: MetricSettings,
        directions: Sequence[ArrayLike] | Array,
        *,
        apart: float = APART,
        ridge: float | Array = RIDGE,
        inside: Sequence[Array] | None = None,
    ) -> SoftObjective:
        """Over the rows with an answer; directions are (K, n).

        Args:
            gap, rows, settings: as of `rate_rows`.
            directions: what each step adds to the rows' scores.
            apart, ridge: weights of the objective's parts.
            inside: `rate_rows` where the rows are a part of those that say who decides.

        Raises:
            MeasurementError: there are no scores.
        """
        if rows.logit_gaps is None:
            raise MeasurementError("has no scores to move", where=rows.task)
        counted = counting(rows)
        scores = rows.logit_gaps[counted]
        weights = np.ones(len(rows)) if rows.weights is None else rows.weights
        weights = weights[counted] / weights[counted].sum()
        inside = rate_rows(gap, rows, settings) if inside is None else inside
        parts = [each[:, counted] for each in inside]
        directions = np.asarray(directions, dtype=np.float64)
        scale = float(np.sqrt(weights @ (scores - weights @ scores) ** 2)) or 1.0
        return cls(
            scores=scores / scale,
            labels=rows.labels[counted].astype(np.float64),
            weights=weights,
            directions=directions if counted.all() else directions[:, counted],
            means=tuple(_normalised(part[part.any(axis=1)]) for part in parts),
            level=float(weights @ expit(scores / scale / SOFTNESS)),
            scale=scale,
            apart=apart,
            ridge=ridge,
        )

    def __call__(self, steps: Array) -> tuple[float, Array]:
        """The value and its gradient."""
        value, slope = self.at(self.scores + steps @ self.directions)
        value += float((self.ridge * steps) @ steps)
        return value, self.directions @ slope + 2 * self.ridge * steps

    def at(self, scores: Array) -> tuple[float, Array]:
        """The value without its ridge, and its slope (m,), at other scores of the rows, (m,)."""
        chance = expit(scores / SOFTNESS)
        value = float(self.weights @ np.abs(self.labels - chance))
        slope = self.weights * (1 - 2 * self.labels)
        for mean in self.means:
            apart = mean @ chance
            apart = apart - apart.mean()
            value += self.apart * float(apart @ apart)
            slope = slope + 2 * self.apart * (apart @ mean)
        moved = float(self.weights @ chance) - self.level
        value += LEVEL * moved**2
        slope = slope + 2 * LEVEL * moved * self.weights
        return value, slope * chance * (1 - chance) / SOFTNESS

    def minimum(self) -> Array:
        """The steps (K,), in units of the scores, that L-BFGS finds from 0."""
        from scipy.optimize import minimize

        start = np.zeros(len(self.directions))
        found = minimize(self, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
        return np.asarray(found.x * self.scale, dtype=np.float64)
