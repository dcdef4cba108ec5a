"""Confidence intervals from a multinomial bootstrap over count cells, and Wilson bands.

Resampling n unit-weight rows with replacement is exactly a multinomial draw of n over the
distinct cells, so a replicate costs as much as the table is large, whatever n is. Every draw
recomputes the same statistic, max − min included.

Which interval for which statistic:

    wilson        plain proportions (accuracy, selection rate): never collapses at 0 or 1.
    percentile    smooth statistics that are not plain proportions (balanced accuracy).
    conservative  gaps (DPD, EOD).
    minimum_band  worst-group accuracy.
    basic, bias_corrected    for comparison; both under-cover gaps.

Differences of two models have intervals of their own: `pair` and `inversion`.

    gap_band, ratio_band     what simultaneous limits of all group rates leave open.

Why not the textbook kinds for gaps: the largest of several noisy differences is biased upward
near 0, in the estimate and once more in its replicates: the percentile interval of a DPD of 0
over 8 groups never contains 0. And where all of a group's few rows agree (a model that is nearly
always right, or nearly always says 0), its replicates agree too: for that the conservative kind
also draws from the `smoothed` table. `benchmarks/intervals.py` measures the coverage of
all kinds and `docs/measurement.md` has its table. The price of the conservative kind is width,
1 to 2 times that of basic.

The band: each of the m rates gets a Wilson interval at confidence c^(1/m) (Šidák 1967;
conservative for correlated rates, such as those of overlapping groups). With probability c all of
them hold, so whatever follows from all of them holds too:

    max(0, max_g L_g − min_g U_g) ≤ max_g r_g − min_g r_g ≤ max_g U_g − min_g L_g
    min_g L_g / max_g U_g ≤ min_g r_g / max_g r_g ≤ min(1, min_g U_g / max_g L_g)

No bootstrap, hence no collapse when a group's few rows all agree; wide, because it asks for
every rate and uses no tie between them. Reference `between_groups` only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mergekit_fair.fairness.clusters import Spread, widened
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.eligible_groups import EligibleGroups
from mergekit_fair.fairness.grouped import Counts, Grouped
from mergekit_fair.fairness.rates import Rate, Values
from mergekit_fair.fairness.settings import MetricSettings
from mergekit_fair.fairness.smoothing import Smoothed, resampled
from mergekit_fair.schema import Record

Number = float | None
Ends = tuple[float, float]
Limits = list[tuple[float, float]]

_EACH_CELL = np.eye(6).reshape(6, 2, 3)  # one row in each cell
MAX_UNDEFINED = 0.05  # largest share of replicates that may be undefined


class Interval(Record):
    """An estimate with its confidence limits; None means undefined.

    Attributes:
        value: the estimate.
        low, high: its confidence limits; both or neither.
        dropped: share of bootstrap draws in which the statistic was undefined. It is not written.
    """

    value: Number = None
    low: Number = None
    high: Number = None
    dropped: float = Field(default=0.0, exclude=True, repr=False)

    @model_validator(mode="after")
    def _both_limits(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.value is None and self.low):
            raise ValueError("an interval needs a value and two limits")
        return self


@dataclass(frozen=True, eq=False)
class Samples:
    """One table with everything that is drawn from it, once.

    Attributes:
        table: the counts.
        settings: reference and confidence; draws and seed are those of the bootstrap.
        eligible: which groups decide.
        rows: numbers of rows.
        counts: what rates are shares of: the rows' weights, or their numbers.
        squares: their squared weights; None without weights.
        drawn: bootstrap draws of `counts`, (draws, ...).
        smooth: counts of the `smoothed` table.
        smooth_drawn: bootstrap draws of these.
        spread: how the sums of clusters vary; None without clusters.
    """

    table: CountTable
    settings: MetricSettings
    eligible: EligibleGroups
    rows: Grouped
    counts: Grouped
    squares: Grouped | None
    drawn: Grouped
    smooth: Grouped
    smooth_drawn: Grouped
    spread: Spread | None

    @classmethod
    def of(cls, table: CountTable, settings: MetricSettings) -> Samples:
        """Draw from a table.

        Raises:
            MeasurementError: an unknown group is excluded.
        """
        eligible = EligibleGroups.of(table, settings)
        spread = table.spread
        smooth = Smoothed.of(table, spread)
        return cls(
            table=table,
            settings=settings,
            eligible=eligible,
            rows=table.rows,
            counts=table.counts,
            squares=table.squares,
            drawn=resampled(table, settings.draws, settings.seed),
            smooth=smooth.summed(table),
            smooth_drawn=smooth.resampled(table, settings.draws, settings.seed),
            spread=spread,
        )

    @property
    def reference(self) -> str:
        """What gaps compare with."""
        return self.settings.reference

    @cached_property
    def confidence(self) -> float:
        """By which quantiles of draws are taken; of few clusters above that of the settings."""
        nominal = float(self.settings.confidence)
        if self.spread is None:
            return nominal
        return widened(nominal, float(self.spread.sizes(np.ones(6))[0]))

    def limits(self, rate: Rate, groups: Any, confidence: float) -> list[Ends]:
        """Wilson's of a rate of some groups, of each that has it; or, for None, of all rows.

        Args:
            groups: what picks them from arrays (G, ...).
            confidence: of each, in (0, 1).
        """
        squares = None if self.squares is None else _picked(self.squares, groups)
        pairs = rate.pairs(_picked(self.counts, groups), squares)
        if self.spread is None:
            return [wilson(part, whole, confidence) for part, whole in pairs]
        lines = [0] if groups is None else np.arange(1, 1 + len(self.table.groups))[groups]
        parts, wholes = rate.part(_EACH_CELL), rate.whole(_EACH_CELL)
        clusters = self.spread.sizes(wholes)[lines]
        rows = self.spread.effective_rows(parts, wholes)[lines]
        found = []
        for (part, whole), most, size in zip(
            pairs, rows[rows > 0].tolist(), clusters[rows > 0].tolist(), strict=True
        ):
            share, least = part / whole, min(whole, most)
            found.append(wilson(share * least, least, widened(confidence, size)))
        return found


def _picked(counts: Grouped, groups: Any) -> Counts:
    return counts.overall[np.newaxis] if groups is None else counts.groups[groups]


def wilson(successes: float, n: float, confidence: float) -> Ends:
    """Score interval of a proportion successes / n (Wilson 1927), in [0, 1]; needs n > 0.

    Of weighted rows both are effective numbers, see `Rate.pairs`.

    As `scipy.stats.binomtest(k, n).proportion_ci(method="wilson")`, which takes 250 times as long
    and is NaN where the confidence is 1 − 2⁻⁵³.

    >>> wilson(8, 10, 0.95)
    (0.49016247153664183, 0.9433178485456247)
    """
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
        smooth: (draws,), replicates of the gap from the `smoothed` table.
        errors: (draws,), the gap of the replicated errors, of the smoothed table.
        confidence: e.g. 0.95; the interval covers at least about that often.
    """
    upper = _tails(confidence)[1]
    highest = max(np.quantile(drawn, upper), np.quantile(smooth, upper))
    return value - float(np.quantile(errors, upper)), float(highest)


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
        samples: arrays (draws,) for `ends`. Draws with a NaN in any of them are dropped; if
            they are more than 5 %, low and high are None.
        ends: one of the functions above; called as `ends(value, *samples, confidence)`.
        confidence: e.g. 0.95.
        bounds: range of the statistic. Clipping to it, and widening to the estimate, can only
            raise the coverage per width.
    """
    if np.isnan(value):
        return Interval()
    defined = np.isfinite(np.stack(samples)).all(axis=0)
    dropped = float((~defined).mean())
    if dropped > MAX_UNDEFINED:
        return Interval(value=value, dropped=dropped)
    low, high = ends(value, *(sample[defined] for sample in samples), confidence)
    low, high = min(max(low, bounds[0]), value), max(min(high, bounds[1]), value)
    return Interval(value=value, low=low, high=high, dropped=dropped)


def rate_limits(rates: Sequence[Rate], samples: Samples) -> list[Limits]:
    """Simultaneous limits of every defined rate of every comparable group: one list per rate.

    Args:
        rates: such as selection rate, TPR, FPR.
        samples: the table, and the confidence that all limits hold at once.

    Returns:
        Empty where fewer than two groups have one of the rates: then nothing is compared.
    """
    deciding, confidence = samples.eligible.comparable(rates), samples.settings.confidence
    wholes = [
        rate.whole(samples.counts.groups[decides]) > 0
        for rate, decides in zip(rates, deciding, strict=True)
    ]
    if any(has.sum() < 2 for has in wholes):
        return []
    each = confidence ** (1 / sum(has.sum() for has in wholes))
    return [
        samples.limits(rate, decides, each) for rate, decides in zip(rates, deciding, strict=True)
    ]


def minimum_band(rate: Rate, decides: NDArray[np.bool_], samples: Samples) -> Ends:
    """Limits of the lowest of several rates, in [0, 1]: the lowest of their Wilson limits.

        low = min_g L_g,  high = min_g U_g

    The minimum is some group's rate, so that L_g of one group holds it from below, at α/2 as if it
    were alone. It is above none of the rates, so that `high` holds where all U_g do: each at
    1 − (1 − α/2)^(1/G). No bootstrap, hence no collapse where the few rows of a group all agree.

    Args:
        rate: of groups; it has rows in every one of these.
        decides: bool (G,), the groups, one at least.
        samples: the table and the confidence.
    """
    tail, _ = _tails(samples.settings.confidence)
    each = 1 - (1 - tail) ** (1 / int(decides.sum()))
    low = min(low for low, _ in samples.limits(rate, decides, 1 - 2 * tail))
    return low, min(high for _, high in samples.limits(rate, decides, 1 - 2 * each))


def gap_band(limits: list[Limits]) -> Ends | None:
    """Limits of the largest range over the rates, in [0, 1]; None if nothing can be compared."""
    if not limits:
        return None
    low = max(max(low for low, _ in pairs) - min(high for _, high in pairs) for pairs in limits)
    high = max(max(high for _, high in pairs) - min(low for low, _ in pairs) for pairs in limits)
    return max(low, 0.0), high


def ratio_band(limits: list[Limits]) -> Ends | None:
    """Limits of the smallest ratio over the rates, in [0, 1]; None if nothing can be compared."""
    if not limits:
        return None
    lows = [min(low for low, _ in pairs) / max(high for _, high in pairs) for pairs in limits]
    highs = [_highest_ratio(pairs) for pairs in limits]
    return min(lows), min(highs)


def _highest_ratio(pairs: Limits) -> float:
    largest = max(low for low, _ in pairs)
    return min(1.0, min(high for _, high in pairs) / largest) if largest > 0 else 1.0


def undefined_to_none(value: float) -> float | None:
    """Return a Python float, or None for NaN: JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def _deviate(confidence: float) -> float:
    """Φ⁻¹((1 + confidence) / 2), from the lower tail: finite for every confidence below 1."""
    return -NormalDist().inv_cdf(max((1 - confidence) / 2, 2**-54))


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2
