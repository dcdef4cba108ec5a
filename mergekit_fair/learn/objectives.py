"""What is made small: a number of all rows' logit gaps z, and its slope."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.soft_objective import SoftObjective, rate_rows
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.learn.coefficients import Array

Goal = Literal["loss", "entropy", "dpd", "eod"]
GOALS: tuple[Goal, ...] = get_args(Goal)


class Objective(Protocol):
    """Of rows, to be made small."""

    def __call__(self, gaps: Array) -> tuple[float, Array]:
        """The value and ∂/∂z (n,) at logit gaps z (n,)."""
        ...


@dataclass(frozen=True, eq=False)
class Entropy:
    """H(p) = −p log p − (1 − p) log(1 − p) with p = σ(z), the mean of rows; reads no label.

    Source: AdaMerging, arXiv 2310.02575.

    >>> value, slope = Entropy(np.ones(2))(np.array([0.0, 2.0]))
    >>> round(value, 4), slope.round(4).tolist()
    (0.5292, [-0.0, -0.105])

    Attributes:
        weights: (n,).
    """

    weights: Array

    def __call__(self, gaps: Array) -> tuple[float, Array]:
        chance, share = expit(gaps), self.weights / self.weights.sum()
        value = np.logaddexp(0, gaps) - gaps * chance
        return float(share @ value), -share * gaps * chance * (1 - chance)


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """−log p(y) with p(1) = σ(z), the mean of rows (aTLAS, arXiv 2407.02880).

    >>> value, slope = CrossEntropy(np.array([1.0, 0.0]), np.ones(2))(np.array([0.0, 2.0]))
    >>> round(value, 4), slope.round(4).tolist()
    (1.41, [-0.25, 0.4404])

    Attributes:
        labels, weights: (n,).
    """

    labels: Array
    weights: Array

    def __call__(self, gaps: Array) -> tuple[float, Array]:
        share = self.weights / self.weights.sum()
        value = np.logaddexp(0, gaps) - self.labels * gaps
        return float(share @ value), share * (expit(gaps) - self.labels)


@dataclass(frozen=True, eq=False)
class SoftGap:
    """`SoftObjective` of z / σ_z: soft error + μ · soft gap + level; σ_z is z's own deviation.

    Attributes:
        gap: `dpd` or `eod`.
        rows: with the gaps that learning begins at: their level is kept.
        inside: `rate_rows` of the gap, of all rows that say who decides.
        mu: how much the gap counts.
    """

    gap: str
    rows: Predictions
    inside: tuple[Array, ...]
    mu: float

    @cached_property
    def _level(self) -> float:
        return self._at(self.rows).level

    def _at(self, rows: Predictions) -> SoftObjective:
        nothing = np.zeros((0, len(rows)))
        settings = MetricSettings()  # who decides is said by `inside`
        return SoftObjective.of(
            self.gap, rows, settings, nothing, apart=self.mu, inside=self.inside
        )

    def __call__(self, gaps: Array) -> tuple[float, Array]:
        now = replace(self._at(self.rows.with_scores(gaps)), level=self._level)
        value, slope = now.at(now.scores)
        away = now.weights * (now.scores - now.weights @ now.scores)  # ∂σ_z/∂z
        return value, (slope - (slope @ now.scores) * away) / now.scale


def objective_of(
    goal: Goal,
    rows: Predictions,
    chosen: NDArray[np.bool_],
    settings: MetricSettings,
    mu: float,
) -> Objective:
    """The objective of some rows.

    Args:
        goal: `loss` (cross entropy), `entropy`, or the gap to make small beside errors.
        rows: all of them, which say who decides a gap, with the gaps that learning begins at.
        chosen: bool (n,), of which the objective is.
        settings: who decides.
        mu: how much a gap counts against errors.
    """
    part = rows.take(chosen)
    weights = np.ones(len(part)) if part.weights is None else part.weights
    if goal == "entropy":
        return Entropy(weights)
    if goal == "loss":
        return CrossEntropy(part.labels.astype(np.float64), weights)
    inside = tuple(each[:, chosen] for each in rate_rows(goal, rows, settings))
    return SoftGap(goal, part, inside, mu)
