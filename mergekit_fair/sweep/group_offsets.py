"""One offset a group on a model's scores, where rows may be in several groups.

Of all decisions that know scores and groups, the most accurate one within limits on the groups'
rates compares the score with a threshold that is a sum over the row's groups (Hardt et al.,
arXiv 1610.02413; for groups that overlap, the Lagrangian of Chen et al., arXiv 2310.05725).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.eligible_groups import eligible_groups
from mergekit_fair.fairness.labels import UNANSWERED

Array = NDArray[np.float64]

# Gap → the labels of the rows that each of its rates is a share of.
LABELS_OF_RATES: dict[str, tuple[tuple[int, ...], ...]] = {"dpd": ((0, 1),), "eod": ((1,), (0,))}

# Weights of the objective's parts against the mean error: rates apart, level moved, offsets large.
_APART, _LEVEL, _RIDGE = 3.0, 30.0, 0.01
# Width of the soft decision, in standard deviations of the scores.
_SOFTNESS = 0.25
# Shares of the fitted offsets that are tried on hard predictions.
SHARES = (1.0, 0.75, 0.5, 0.25)


@dataclass(frozen=True)
class GroupOffsets:
    """1 is predicted where s + Σ_g a_g > 0, the sum over the groups of a row.

    Rows in no group with an offset keep the model's own threshold.

    Attributes:
        offsets: group → a_g, in the units of the scores.

    >>> rows = Predictions(
    ...     "toxic", (0, 1, 2, 3), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]),
    ...     {"a": np.array([True, True, False, False]), "b": np.array([False, True, True, False])},
    ...     (), np.array([-0.75, -0.75, 0.25, 0.25]),
    ... )
    >>> GroupOffsets({"a": 0.5, "b": 0.5}).scores(rows)
    array([-0.25,  0.25,  0.75,  0.25])
    """

    offsets: Mapping[str, float]

    @property
    def groups(self) -> tuple[str, ...]:
        """Those that have an offset."""
        return tuple(self.offsets)

    def scores(self, predictions: Predictions) -> Scores:
        """The moved scores (n,); NaN stays NaN."""
        moved = np.array(predictions.scores, dtype=np.float64)
        for name, offset in self.offsets.items():
            if name in predictions.groups:
                moved += offset * predictions.groups[name]
        return moved

    def times(self, share: float) -> GroupOffsets:
        """The same direction, less far."""
        return GroupOffsets({name: share * offset for name, offset in self.offsets.items()})


def fit_offsets(gap: str, rows: Predictions, settings: MetricSettings) -> GroupOffsets:
    """The minimum of a smooth objective, by L-BFGS from the model's own threshold.

        E |y − p| + 3 Σ_rates Σ_g (r_g − r̄)² + 30 (E p − E p₀)² + 0.01 Σ_g b_g²

    with p = σ(4 (s/σ_s + Σ_{g ∋ x} b_g)), the offsets b in standard deviations σ_s of the scores,
    r_g the mean of p over the rows of g (of both labels, or of each), r̄ their mean over groups,
    and p₀ that at b = 0. Soft rates vary less than hard ones, and few
    coefficients fit little noise; the level term keeps a gap from closing by selecting nobody.
    Source: METHODS §7, §8.

    Args:
        gap: `dpd` or `eod`.
        rows: with logit gaps.
        settings: who decides, and so gets an offset: groups of which each rate, or one of them,
            is a share of at least `min_group_size` rows.

    Raises:
        MeasurementError: there are no scores, or fewer than two such groups.
    """
    from scipy.optimize import minimize

    if rows.logit_gaps is None:
        raise MeasurementError("has no scores to put thresholds on", where=rows.task)
    fitted = deciding_groups(gap, rows, settings)
    objective = _Objective.of(gap, rows, settings, fitted)
    found = minimize(objective, np.zeros(len(fitted)), jac=True, method="L-BFGS-B")
    steps = found.x * objective.scale
    return GroupOffsets(dict(zip(fitted, map(float, steps), strict=True)))


def deciding_groups(gap: str, rows: Predictions, settings: MetricSettings) -> list[str]:
    """The groups that decide one of the gap's rates at least.

    Raises:
        MeasurementError: a rate is decided by fewer than two.
    """
    deciding = [large for _, large in _shares(gap, rows, settings)]
    if min(large.sum() for large in deciding) < 2:
        each = " of each label" if gap == "eod" else ""
        raise MeasurementError(
            f"fewer than two groups have {settings.min_group_size} rows{each}", where=rows.task
        )
    return [name for name, fits in zip(rows.groups, np.any(deciding, axis=0), strict=True) if fits]


def counting(rows: Predictions) -> NDArray[np.bool_]:
    """The rows with an answer that stand for somebody, (n,)."""
    answered = rows.predicted != UNANSWERED
    return answered if rows.weights is None else answered & (rows.weights > 0)


def _shares(
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


@dataclass(frozen=True, eq=False)
class _Objective:
    """Of offsets b (K,), in standard deviations of the scores: its value and gradient.

    Attributes:
        scores: (m,), in standard deviations.
        labels: (m,).
        weights: (m,), summing to 1.
        members: (K, m), 0 or 1.
        means: for each rate (H, m), so that means @ p is the rate of each of H groups.
        level: the mean of p without offsets.
        scale: the standard deviation.
    """

    scores: Array
    labels: Array
    weights: Array
    members: Array
    means: tuple[Array, ...]
    level: float
    scale: float

    @classmethod
    def of(
        cls, gap: str, rows: Predictions, settings: MetricSettings, fitted: list[str]
    ) -> _Objective:
        counted = counting(rows)
        assert rows.logit_gaps is not None
        scores = rows.logit_gaps[counted]
        weights = np.ones(len(rows)) if rows.weights is None else rows.weights
        weights = weights[counted] / weights[counted].sum()
        scale = float(np.sqrt(weights @ (scores - weights @ scores) ** 2)) or 1.0
        means = []
        for inside, large in _shares(gap, rows, settings):
            each = inside[large][:, counted] * weights
            means.append(each / each.sum(axis=1, keepdims=True))
        return cls(
            scores=scores / scale,
            labels=rows.labels[counted].astype(np.float64),
            weights=weights,
            members=np.stack([rows.groups[name][counted] for name in fitted]).astype(np.float64),
            means=tuple(means),
            level=float(weights @ expit(scores / scale / _SOFTNESS)),
            scale=scale,
        )

    def __call__(self, offsets: Array) -> tuple[float, Array]:
        chance = expit((self.scores + offsets @ self.members) / _SOFTNESS)
        value = float(self.weights @ np.abs(self.labels - chance))
        slope = self.weights * (1 - 2 * self.labels)
        for mean in self.means:
            apart = mean @ chance
            apart = apart - apart.mean()
            value += _APART * float(apart @ apart)
            slope = slope + 2 * _APART * (apart @ mean)
        moved = float(self.weights @ chance) - self.level
        value += _LEVEL * moved**2 + _RIDGE * float(offsets @ offsets)
        slope = slope + 2 * _LEVEL * moved * self.weights
        slope = slope * chance * (1 - chance) / _SOFTNESS
        return value, self.members @ slope + 2 * _RIDGE * offsets
