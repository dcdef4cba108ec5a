"""Confidence intervals from a multinomial bootstrap over count cells.

Resampling n unit-weight rows with replacement is exactly a multinomial draw of n over the
distinct cells, so a replicate costs as much as the table is large, whatever n is. Every draw
recomputes the same statistic, max − min included.

Which interval for which statistic:

    wilson        plain proportions (accuracy, selection rate): never collapses at 0 or 1.
    percentile    smooth statistics that are no plain proportion (balanced accuracy) and paired
                  differences.
    conservative  gaps (DPD, EOD), and conservative_minimum for worst-group accuracy.
    basic, bias_corrected    for comparison; both under-cover gaps.

Why not the textbook kinds for gaps: the largest of several noisy differences is biased upward
near 0, in the estimate and once more in its replicates: the percentile interval of a DPD of 0
over 8 groups never contains 0. And where all of a group's few rows agree (a model that is nearly
always right, or nearly always says 0), its replicates agree too: for that the conservative kind
also draws from the :func:`smoothed` table. ``benchmarks/intervals.py`` measures the coverage of
all kinds and ``docs/measurement.md`` has its table. The price of the conservative kind is width,
1 to 2 times that of basic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.counts import Counts

Values = NDArray[np.float64]
Ends = tuple[float, float]

MAX_UNDEFINED = 0.05  # largest share of replicates that may be undefined


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits; None means undefined.

    ``dropped`` is the share of bootstrap draws in which the statistic was undefined.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    dropped: float = 0.0

    def to_dict(self) -> dict[str, float | None]:
        """Return ``{"value", "low", "high"}``."""
        return {"value": self.value, "low": self.low, "high": self.high}


def replicates(cells: Counts, draws: int, seed: int | np.random.Generator) -> Counts:
    """Draw bootstrap replicates of a count table.

    Args:
        cells: int64, or floats from :func:`smoothed`, any shape; one cell per kind of row.
        draws: number of replicates.
        seed: of ``numpy.random.default_rng``; the same seed gives the same replicates. A generator
            goes on from where it is.

    Returns:
        int64, shape (draws,) + cells.shape; each replicate sums to ``cells.sum()``.
    """
    flat = cells.reshape(-1)
    filled = np.flatnonzero(flat)
    n = round(float(flat.sum()))
    drawn = np.zeros((draws, flat.size), dtype=np.int64)
    drawn[:, filled] = np.random.default_rng(seed).multinomial(n, flat[filled] / n, size=draws)
    return drawn.reshape(draws, *cells.shape)


def smoothed(cells: Counts, patterns: NDArray[np.bool_]) -> Values:
    """Counts with predictions pulled towards one half, by about one row a group and label.

    Of the answered rows of a (pattern, y) pair, k with ŷ = 1 of m become m·(k + a/2) / (m + a),
    with a = 1 where the groups are a partition (Jeffreys' prior). Where groups overlap, a is the
    share of the pair in the smallest of its groups: the a of a group add up to at least one row,
    to exactly one in the smallest, and to at most one for each group that it overlaps and itself.
    Rows in no group stay as they are. A group whose few rows all agree has an error, which its
    bootstrap replicates cannot show.

    Args:
        cells: (P, 2, 3).
        patterns: bool (P, G).

    Returns:
        float64 (P, 2, 3) with the same totals of (pattern, y).
    """
    answered = cells[..., :2].sum(axis=-1).astype(np.float64)
    of_groups = patterns.T.astype(np.float64) @ answered
    mine = np.where(patterns[:, :, np.newaxis], of_groups, np.inf).min(axis=1, initial=np.inf)
    extra = np.divide(answered, mine, out=np.zeros_like(answered), where=answered > 0)
    shrunk = cells.astype(np.float64)
    scale = np.divide(answered, answered + extra, out=np.ones_like(answered), where=answered > 0)
    shrunk[..., :2] = (shrunk[..., :2] + extra[..., np.newaxis] / 2) * scale[..., np.newaxis]
    return shrunk


def wilson(successes: int, n: int, confidence: float) -> Ends:
    """Score interval of a proportion successes / n (Wilson 1927), in [0, 1]; needs n > 0."""
    z = _deviate(confidence)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    scale = 1 + z * z / n
    # Rounding may leave a limit a hair on the wrong side of the estimate, or outside [0, 1].
    low, high = max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)
    return min(low, share), max(high, share)


def percentile(value: float, drawn: Values, confidence: float) -> Ends:
    """[q_{α/2}, q_{1−α/2}] of the replicates; the estimate is not used."""
    del value
    low, high = np.quantile(drawn, _tails(confidence))
    return float(low), float(high)


def basic(value: float, drawn: Values, confidence: float) -> Ends:
    """[2·value − q_{1−α/2}, 2·value − q_{α/2}]: replicates mirrored at the estimate."""
    low, high = percentile(value, drawn, confidence)
    return 2 * value - high, 2 * value - low


def bias_corrected(value: float, drawn: Values, confidence: float) -> Ends:
    """Percentiles at Φ(2·z₀ ± z), z₀ = Φ⁻¹(share of replicates below the estimate) (Efron 1981)."""
    normal = NormalDist()
    below = float((drawn < value).mean() + (drawn == value).mean() / 2)
    edge = 1 / (drawn.size + 1)  # keeps z₀ finite
    shift = 2 * normal.inv_cdf(min(max(below, edge), 1 - edge))
    z = _deviate(confidence)
    tails = [normal.cdf(shift - z), normal.cdf(shift + z)]
    low, high = np.quantile(drawn, tails)
    return float(low), float(high)


def conservative(
    value: float, drawn: Values, smooth: Values, errors: Values, confidence: float
) -> Ends:
    """Interval of a gap whose coverage falls neither when groups tie nor when their rows agree.

        low  = value − q_{1−α/2}(gap of (smoothed deviations* − smoothed deviations))
        high = max(q_{1−α/2}(gap of deviations*), q_{1−α/2}(gap of smoothed deviations*))

    where * marks replicates. Low: a gap is a seminorm of the rates, so value − truth never
    exceeds the gap of the errors, whose quantile is subtracted. High: the truth is the size of
    one fixed contrast of rates, and the replicated gap is never below that contrast's replicate,
    so the limit is at least the contrast's own percentile limit.

    Args:
        value: the estimate.
        drawn: (draws,), replicates of the gap.
        smooth: (draws,), replicates of the gap from the :func:`smoothed` table.
        errors: (draws,), the gap of the replicated errors, of the smoothed table.
        confidence: e.g. 0.95; the interval covers at least about that often.
    """
    upper = _tails(confidence)[1]
    highest = max(np.quantile(drawn, upper), np.quantile(smooth, upper))
    return value - float(np.quantile(errors, upper)), float(highest)


def conservative_minimum(
    value: float, drawn: Values, smooth: Values, losses: Values, confidence: float
) -> Ends:
    """The same for a minimum over groups, with ``losses`` = max_g (r_g − r*_g), smoothed."""
    lower, upper = _tails(confidence)
    lowest = min(np.quantile(drawn, lower), np.quantile(smooth, lower))
    return float(lowest), value + float(np.quantile(losses, upper))


def around(
    value: float,
    samples: tuple[Values, ...],
    ends: Callable[..., Ends],
    confidence: float,
    bounds: Ends = (0.0, 1.0),
) -> Interval:
    """Make an interval from replicates, within bounds and containing the estimate.

    Args:
        value: the estimate; NaN gives an undefined interval.
        samples: arrays (draws,) for ``ends``. Draws with a NaN in any of them are dropped; if
            they are more than 5 %, low and high are None.
        ends: one of the functions above; called as ``ends(value, *samples, confidence)``.
        confidence: e.g. 0.95.
        bounds: range of the statistic. Clipping to it, and widening to the estimate, can only
            raise the coverage per width.
    """
    if np.isnan(value):
        return Interval(None)
    defined = np.isfinite(np.stack(samples)).all(axis=0)
    dropped = float((~defined).mean())
    if dropped > MAX_UNDEFINED:
        return Interval(value, dropped=dropped)
    low, high = ends(value, *(sample[defined] for sample in samples), confidence)
    low, high = min(max(low, bounds[0]), value), max(min(high, bounds[1]), value)
    return Interval(value, low, high, dropped)


def undefined_to_none(value: float) -> float | None:
    """Return a Python float, or None for NaN: JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def _deviate(confidence: float) -> float:
    """Φ⁻¹((1 + confidence) / 2), from the lower tail: finite for every confidence below 1."""
    return -NormalDist().inv_cdf(max((1 - confidence) / 2, 2**-54))


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2
