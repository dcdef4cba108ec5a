"""AUC: how often a positive row has the higher score, by group and against the rest.

    AUC  = P(s⁺ > s⁻) + P(s⁺ = s⁻) / 2    s⁺ of a positive, s⁻ of a negative row, drawn by weight

    subgroup  both rows of the group                 how well the model tells the group's rows apart
    BPSN      positive outside, negative inside      low: the group's negatives score too high
    BNSP      negative outside, positive inside      low: the group's positives score too low

Source: Borkan et al. 2019 (arXiv 1903.04561), section 3; what a row contributes: DeLong, DeLong
and Clarke-Pearson 1988. Cost: one sort of the rows, then a pass over them for each AUC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.clusters import Codes
from mergekit_fair.fairness.jackknife import Estimate, moves_of_mean
from mergekit_fair.fairness.rates import Mask, Values


@dataclass(frozen=True, eq=False)
class RankedRows:
    """n rows with a score.

    Attributes:
        rank: (n,), 0 for the lowest score; equal scores have equal ranks.
        positive: bool (n,), the labels.
        weights: float64 (n,), greater than 0.
        members: bool (n, G).
        clusters: (n,), what each belongs to; None: each is its own.
    """

    rank: NDArray[np.intp]
    positive: Mask
    weights: Values
    members: Mask
    clusters: Codes | None = None

    def overall(self) -> Estimate | None:
        """AUC of all rows; None without a row of a class, here as below."""
        every = np.ones(len(self.rank), dtype=bool)
        return self.auc(every, every)

    def subgroup(self, group: int) -> Estimate | None:
        """AUC of the rows of a group."""
        inside = self.members[:, group]
        return self.auc(inside, inside)

    def bpsn(self, group: int) -> Estimate | None:
        """AUC of the positives outside a group against its negatives."""
        inside = self.members[:, group]
        return self.auc(~inside, inside)

    def bnsp(self, group: int) -> Estimate | None:
        """AUC of the positives of a group against the negatives outside."""
        inside = self.members[:, group]
        return self.auc(inside, ~inside)

    def auc(self, positives: Mask, negatives: Mask) -> Estimate | None:
        """AUC of the positive among some rows and the negative among others.

        Args:
            positives, negatives: bool (n,).
        """
        above = np.flatnonzero(positives & self.positive)
        below = np.flatnonzero(negatives & ~self.positive)
        if not above.size or not below.size:
            return None
        # Doubled, so that ties are whole: sums of whole weights are exact.
        won, lost = self._below(below, above), self._below(above, below)
        to_win, to_lose = self.weights[below].sum(), self.weights[above].sum()
        value = float((self.weights[above] * won).sum() / (2 * to_win * to_lose))
        moves = np.zeros(len(self.rank))
        for rows, wins in ((above, won / (2 * to_win)), (below, 1 - lost / (2 * to_lose))):
            moves[rows] = moves_of_mean(wins - value, self.weights[rows])
        return Estimate.of_rows(value, value, moves, (above, below), self.clusters)

    def _below(self, others: NDArray[np.intp], rows: NDArray[np.intp]) -> Values:
        """Of each row: twice the weight of others with lower scores, once that of equal ones."""
        weight = np.bincount(self.rank[others], self.weights[others], self.rank.max() + 1)
        return np.asarray((2 * np.cumsum(weight) - weight)[self.rank[rows]])


def power_mean(values: Values, power: float = -5.0) -> float:
    """(mean of valueᵖ)^(1 / p): near the smallest for a negative p; NaN of no values.

    Source: Jigsaw's competition on Civil Comments (2019), which takes p = −5.

    >>> round(power_mean(np.array([0.9, 0.8, 0.5])), 4), power_mean(np.array([0.9, 0.0]))
    (0.6059, 0.0)
    """
    if not len(values):
        return float("nan")
    with np.errstate(divide="ignore"):  # 0 to a negative power
        return float(np.mean(values**power) ** (1 / power))
