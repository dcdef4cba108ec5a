"""Rates and gaps on counts; every function is pure and vectorised over leading axes.

Counts are arrays (..., 2, 3) of rows by [y, ŷ], or (..., G, 2, 3) with one table per group, so
one call serves a data set and thousands of its bootstrap replicates. The third ŷ, "no usable
prediction", is an error for accuracy, and is left out of rates of predictions; how often it
occurs is a metric of its own. Counts (..., 2, 2) without it are taken too.

Everywhere: values lie in [0, 1]; NaN means undefined (no rows to compute a rate from, fewer than
two groups to compare), never 0; undefined rates are left out of every maximum and mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.counts import Counts

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]

RARE = 0.05


def accuracy(counts: Counts) -> Values:
    """Share of correct predictions, P(ŷ = y): (..., 2, 3) -> (...); NaN without rows.

    A missing prediction is not correct.
    """
    return _ratio(counts[..., 0, 0] + counts[..., 1, 1], _size(counts))


def unanswered_rate(counts: Counts) -> Values:
    """Share of rows without a usable prediction: (..., 2, 3) -> (...); NaN without rows."""
    return _ratio(_size(counts) - _answered(counts), _size(counts))


def selection_rate(counts: Counts) -> Values:
    """P(ŷ = 1) among rows with a prediction: (..., 2, 3) -> (...); NaN without any."""
    return _ratio(counts[..., 0, 1] + counts[..., 1, 1], _answered(counts))


def base_rate(counts: Counts) -> Values:
    """Share of positive labels, P(y = 1): (..., 2, 3) -> (...); NaN without rows."""
    return _ratio(counts[..., 1, :].sum(axis=-1), _size(counts))


def true_positive_rate(counts: Counts) -> Values:
    """P(ŷ = 1 | y = 1) among answered rows: (..., 2, 3) -> (...); NaN without positives."""
    return _ratio(counts[..., 1, 1], counts[..., 1, 0] + counts[..., 1, 1])


def false_positive_rate(counts: Counts) -> Values:
    """P(ŷ = 1 | y = 0) among answered rows: (..., 2, 3) -> (...); NaN without negatives."""
    return _ratio(counts[..., 0, 1], counts[..., 0, 0] + counts[..., 0, 1])


def balanced_accuracy(counts: Counts) -> Values:
    """(TPR + 1 − FPR) / 2: (..., 2, 3) -> (...); NaN unless both classes occur."""
    return (true_positive_rate(counts) + 1.0 - false_positive_rate(counts)) / 2.0


def worst_group_accuracy(groups: Counts, usable: Mask) -> Values:
    """Lowest accuracy of a usable group, min_g P(ŷ = y | g).

    Args:
        groups: (..., G, 2, 3).
        usable: bool (G,), the groups that may decide the minimum.

    Returns:
        (...), in [0, 1]; NaN when no usable group has rows.
    """
    return smallest(np.where(usable, accuracy(groups), np.nan))


def is_degenerate(counts: Counts) -> NDArray[np.bool_]:
    """Whether predictions are constant or nearly so.

    True when a class is never predicted, or when the rarer *predicted* class is rarer than 5 %
    of the rarer *true* class: min_c P(ŷ = c) < 0.05 · min_c P(y = c). A constant predictor has
    DPD = EOD = 0, so gaps mean nothing here and must not win a selection. The rule compares with
    the labels, so a predictor of a rare class is not degenerate for predicting it rarely.

    Args:
        counts: (..., 2, 3), over all rows.
    """
    predicted = counts[..., :2].sum(axis=-2).min(axis=-1)
    true = counts.sum(axis=-1).min(axis=-1)
    return np.asarray((predicted == 0) | (predicted < RARE * true))


def spread(rates: Values) -> Values:
    """max − min over the last axis, NaN left out; NaN with fewer than two defined rates."""
    enough = np.isfinite(rates).sum(axis=-1) >= 2
    # Infinities stand for "nothing found" and would subtract to NaN with a warning.
    highest = np.where(enough, _over(rates, np.maximum, -np.inf), np.nan)
    lowest = np.where(enough, _over(rates, np.minimum, np.inf), np.nan)
    return np.asarray(highest - lowest)


def ratio(rates: Values) -> Values:
    """min / max over the last axis, NaN left out, in [0, 1].

    NaN with fewer than two defined rates, and where the largest is 0: then nobody is selected,
    and equality means nothing.
    """
    enough = np.isfinite(rates).sum(axis=-1) >= 2
    highest = np.where(enough, _over(rates, np.maximum, -np.inf), np.nan)
    lowest = np.where(enough, _over(rates, np.minimum, np.inf), np.nan)
    return _ratio(lowest, highest)


def smallest(values: Values) -> Values:
    """min over the last axis, NaN left out; NaN when nothing is defined."""
    return -largest(-values)


def largest(gaps: Values) -> Values:
    """max over the last axis, NaN left out; NaN when nothing is defined."""
    highest = _over(gaps, np.maximum, -np.inf)
    return np.where(np.isinf(highest), np.nan, highest)


def mean(gaps: Values) -> Values:
    """Mean over the last axis, NaN left out; NaN when nothing is defined."""
    defined = np.isfinite(gaps)
    return _ratio(np.where(defined, gaps, 0.0).sum(axis=-1), defined.sum(axis=-1))


def _size(counts: Counts) -> NDArray[np.int64]:
    return np.asarray(counts.sum(axis=(-2, -1)))


def _answered(counts: Counts) -> NDArray[np.int64]:
    # Added by hand: sums over short axes cost a bootstrap most of its time.
    return np.asarray(counts[..., 0, 0] + counts[..., 0, 1] + counts[..., 1, 0] + counts[..., 1, 1])


def _over(values: Values, ufunc: np.ufunc, nothing: float) -> Values:
    filled = np.where(np.isnan(values), nothing, values)
    return np.asarray(ufunc.reduce(filled, axis=-1, initial=nothing))


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Values:
    undefined = np.full(np.shape(whole), np.nan)
    return np.asarray(np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0))
