"""Statistics of weighted rows, and how far each moves when a row is left out.

The sum of the squared moves is the jackknife's variance of a statistic, that of products its
covariance with another one: no resampling, and every row is read once. Of clusters the moves of
their rows are added up first. Rows that all agree move
nothing, though the next row might not agree; so half a row more is added, which is a 1 and a 0 in
equal parts. `benchmarks/score_intervals.py` measures how often the intervals are right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.clusters import Codes, widened
from mergekit_fair.fairness.intervals import Ends, Interval, around, conservative, wilson
from mergekit_fair.fairness.rates import Values, max_min_gap
from mergekit_fair.fairness.settings import MetricSettings

_AT_ONCE = 2**26  # moves in memory at once; of more, twice


@dataclass(frozen=True, eq=False)
class Estimate:
    """A share of rows, or the difference of a known number and one.

    Attributes:
        value: the statistic.
        share: in [0, 1], what is uncertain in it.
        moves: float64 (n,), how far it moves when a row, or a cluster, comes back that was left
            out; 0 for those that it does not read.
        sizes: how many rows it reads, or effective clusters, of each kind that it needs.
        is_clustered: whether they are clusters.
    """

    value: float
    share: float
    moves: Values
    sizes: tuple[float, ...]
    is_clustered: bool = False

    @classmethod
    def of_rows(
        cls,
        value: float,
        share: float,
        moves: Values,
        kinds: Sequence[NDArray[np.intp]],
        codes: Codes | None = None,
    ) -> Estimate:
        """Of n rows.

        Args:
            kinds: the rows that it reads, of each kind that it needs.
            codes: (n,), the cluster of each row; None: each is its own.
        """
        if codes is None:
            return cls(value, share, moves, tuple(len(kind) for kind in kinds))
        of_clusters = np.asarray(np.bincount(codes, moves), dtype=np.float64)
        scale = np.sqrt(len(of_clusters) / (len(of_clusters) - 1))
        sizes = tuple(_effective(np.bincount(codes[kind])) for kind in kinds)
        return cls(value, share, of_clusters * scale, sizes, True)

    @property
    def extra(self) -> float:
        """The variance that half a row more of each kind adds."""
        ones_and_zeros = ((1 - self.share) ** 2 + self.share**2) / 2
        return sum(ones_and_zeros / 2 / size**2 for size in self.sizes)

    def interval(self, confidence: float) -> Interval:
        """Wilson's: of so many rows as would give a plain share this variance."""
        variance = float(self.moves @ self.moves) + self.extra
        spread = self.share * (1 - self.share) + sum(1 / size for size in self.sizes) / 4
        rows = spread / variance
        if self.is_clustered:
            confidence = widened(confidence, min(self.sizes))
        low, high = (end - self.share for end in wilson(self.share * rows, rows, confidence))
        value = self.value
        return Interval(value=value, low=value + min(low, 0.0), high=value + max(high, 0.0))


class Unbounded(Estimate):
    """A statistic that can be any number, such as a difference of mean logits; it has no share.

    Its interval is Student's t of so many effective clusters, less one: of means of clusters of one
    size the textbook's own, and exact where these are normal.
    """

    @property
    def extra(self) -> float:
        """Nothing: rows that agree do so by far more than that they say yes or no."""
        return 0.0

    def interval(self, confidence: float) -> Interval:
        """value ± t · √(Σ moves²)."""
        from scipy.special import stdtrit

        freedom = max(min(self.sizes) - 1, 1.0)
        error = float(np.sqrt(self.moves @ self.moves))
        reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
        return Interval(value=self.value, low=self.value - reach, high=self.value + reach)


def _effective(sizes: NDArray[np.intp]) -> float:
    """How many clusters of equal size would be as good as those of these sizes (Kish 1965)."""
    return float(sizes.sum()) ** 2 / float((sizes.astype(np.float64) ** 2).sum())


def moves_of_mean(deviations: Values, weights: Values) -> Values:
    """Moves of a weighted mean: h · (x − mean) / (1 − h), where h is a row's share of the weights.

    Args:
        deviations: (n,), x − mean.
        weights: (n,), greater than 0.
    """
    share = weights / weights.sum()
    return np.divide(share * deviations, 1 - share, out=np.zeros_like(deviations), where=share < 1)


def range_interval(
    estimate_of: Callable[[int], Estimate],
    values: Sequence[float],
    n: int,
    settings: MetricSettings,
    highest: float = 1.0,
) -> Interval:
    """max − min of several statistics of the same rows, with the conservative interval.

        low = gap − q(max e − min e), high = q(max (v + e) − min (v + e)), q at (1 + confidence) / 2

    over draws e of a normal distribution with the jackknife's covariances, which know that groups
    overlap and share their background.

    Args:
        estimate_of: number of a statistic → its estimate.
        values: of the statistics; fewer than two have no gap.
        n: rows.
        settings: confidence, draws and seed.
        highest: that the gap can be.
    """
    if len(values) < 2:
        return Interval()
    first = estimate_of(0)
    confidence = settings.confidence
    if first.is_clustered:
        n, confidence = len(first.moves), widened(confidence, len(first.moves))
    factor = np.linalg.cholesky(_covariance(estimate_of, len(values), n))
    draws = np.random.default_rng(settings.seed).standard_normal((settings.draws, len(values)))
    errors = draws @ factor.T
    samples = max_min_gap(np.array(values) + errors), max_min_gap(errors)
    gap = max(values) - min(values)
    return around(gap, samples, _unsmoothed, confidence, (0.0, highest))


def _unsmoothed(value: float, drawn: Values, errors: Values, confidence: float) -> Ends:
    return conservative(value, drawn, drawn, errors, confidence)


def _covariance(estimate_of: Callable[[int], Estimate], count: int, n: int) -> Values:
    """Covariances (count, count) of statistics of n rows, in blocks of bounded memory."""
    size = max(1, _AT_ONCE // n)
    blocks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    covariance = np.zeros((count, count))
    for position, rows in enumerate(blocks):
        estimates = [estimate_of(number) for number in rows]
        mine = np.stack([estimate.moves for estimate in estimates])
        for columns in blocks[position:]:
            others = mine
            if columns != rows:
                others = np.stack([estimate_of(number).moves for number in columns])
            covariance[np.ix_(rows, columns)] = products = mine @ others.T
            covariance[np.ix_(columns, rows)] = products.T
        covariance[rows, rows] += [estimate.extra for estimate in estimates]
    return covariance
