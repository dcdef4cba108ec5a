"""Calibration in the large: mean(p) − mean(y), over all rows and by group.

Positive: a group gets higher probabilities than it has positives. A model may be right over all
rows, and promise one group too much and another too little.
"""

from __future__ import annotations

from itertools import chain
from math import fsum

import numpy as np

from mergekit_fair.fairness.clusters import Codes
from mergekit_fair.fairness.jackknife import Estimate, moves_of_mean
from mergekit_fair.fairness.rates import Mask, Values

_AT_ONCE = 2**16
_SPLITTER = 2.0**27 + 1  # cuts a float64 into halves whose products are exact (Dekker 1971)


def calibration(
    probabilities: Values,
    positive: Mask,
    weights: Values,
    chosen: Mask,
    clusters: Codes | None = None,
) -> Estimate | None:
    """mean(p) − mean(y) of some rows, in [−1, 1]; None without rows.

    Args:
        probabilities: float64 (n,), in [0, 1].
        positive: bool (n,), the labels.
        weights: float64 (n,), greater than 0.
        chosen: bool (n,), the rows that count.
        clusters: (n,), what each row belongs to; None: each is its own.
    """
    rows = np.flatnonzero(chosen)
    if not rows.size:
        return None
    excess, mine = probabilities[rows] - positive[rows], weights[rows]
    value = weighted_mean(excess, mine)
    moves = np.zeros(len(weights))
    moves[rows] = moves_of_mean(excess - value, mine)
    negatives = float(mine[~positive[rows]].sum() / mine.sum())
    return Estimate.of_rows(value, negatives, moves, (rows,), clusters)


def weighted_mean(values: Values, weights: Values) -> float:
    """Σ w·x / Σ w, its sums rounded once: whole weights equal repeated rows, in any order.

    >>> weighted_mean(np.array([0.1, 0.7]), np.array([3.0, 1.0])) == fsum([0.1, 0.1, 0.1, 0.7]) / 4
    True
    """
    product = values * weights
    (a, b), (c, d) = _halves(values), _halves(weights)
    lost = b * d - (((product - a * c) - b * c) - a * d)  # by rounding the product
    return _exact_sum(product, lost) / _exact_sum(weights)


def _exact_sum(*columns: Values) -> float:
    """Of all numbers, rounded once; few of them are Python's at a time."""
    parts = (
        column[start : start + _AT_ONCE].tolist()
        for column in columns
        for start in range(0, len(column), _AT_ONCE)
    )
    return fsum(chain.from_iterable(parts))


def _halves(values: Values) -> tuple[Values, Values]:
    cut = _SPLITTER * values
    high = cut - (cut - values)
    return high, values - high
