"""The kinds of metrics: how each is computed from counts, and which interval it has.

    Proportion  a rate over all rows                          Wilson interval
    Smooth      a smooth function of rates over all rows      percentile interval
    Gap         the largest gap of rates between groups       conservative interval
    Minimum     the lowest rate of a group                    the lowest Wilson limits of groups
    Ratio       the smallest ratio of rates between groups    ends of the simultaneous Wilson band

Why each has its interval: `mergekit_fair.fairness.intervals`. Coverage was simulated for DPD, EOD
and worst-group accuracy (docs/measurement.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mergekit_fair.fairness.eligible_groups import EligibleGroups
from mergekit_fair.fairness.extremes import Extreme, Magnitude, RateRange, Shortfall
from mergekit_fair.fairness.grouped import Counts, Grouped
from mergekit_fair.fairness.intervals import (
    Interval,
    Samples,
    around,
    conservative,
    minimum_band,
    percentile,
    rate_limits,
    ratio_band,
)
from mergekit_fair.fairness.rates import (
    Mask,
    Rate,
    Values,
    deviations,
    gap,
    gap_of,
    ratio_of,
    smallest,
)


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """One metric: how it is called, read and computed.

    Attributes:
        name: its key in JSON, rules and tables.
        title: for a column or an axis.
        description: for a sentence.
        better: whether higher or lower values are better; None where neither is.
        undefined: why it is undefined, where it is.
        headline: what a verdict rests on; p-values are corrected for these.
        compared: stands in paired differences, tables and pages.
        matched: measured also at another model's selection rate.
        is_point: without an interval, a count of which stands elsewhere in a measurement.
        explained_where: a metric that is defined where this one's being undefined needs a warning
            of its own; None if the warnings about rows and groups say it already.
    """

    name: str
    title: str
    description: str
    better: Literal["higher", "lower"] | None
    undefined: str
    headline: bool = False
    compared: bool = False
    matched: bool = False
    is_point: bool = False
    explained_where: str | None = None

    @abstractmethod
    def values(self, counts: Grouped, eligible: EligibleGroups, reference: str) -> Values:
        """The metric of a table, or of every one of many tables.

        Args:
            counts: rows or their weights, (..., 2, 3).
            eligible: which groups decide.
            reference: what a gap compares with.

        Returns:
            (...), each in [0, 1]; NaN means undefined.
        """

    @abstractmethod
    def interval(self, samples: Samples) -> Interval:
        """Its value with confidence limits, from one table and its bootstrap draws."""

    def value(self, samples: Samples) -> float:
        """Its value of one table."""
        return float(self.values(samples.counts, samples.eligible, samples.reference))


@dataclass(frozen=True, kw_only=True)
class Proportion(Metric):
    """A rate over all rows."""

    rate: Rate

    def values(self, counts: Grouped, eligible: EligibleGroups, reference: str) -> Values:
        del eligible, reference
        return self.rate(counts.overall)

    def interval(self, samples: Samples) -> Interval:
        value = self.value(samples)
        if np.isnan(value):
            return Interval()
        [(low, high)] = samples.limits(self.rate, None, samples.settings.confidence)
        return Interval(value=value, low=min(low, value), high=max(high, value))


@dataclass(frozen=True, kw_only=True)
class Smooth(Metric):
    """A smooth function of counts over all rows that is not a plain proportion."""

    function: Callable[[Counts], Values]

    def values(self, counts: Grouped, eligible: EligibleGroups, reference: str) -> Values:
        del eligible, reference
        return self.function(counts.overall)

    def interval(self, samples: Samples) -> Interval:
        drawn = self.function(samples.drawn.overall)
        return around(self.value(samples), (drawn,), percentile, samples.confidence)


@dataclass(frozen=True, kw_only=True)
class Extremal(Metric):
    """A metric that one or two groups decide: the largest of many contrasts of rates."""

    sign = 1.0  # of the metric in its `Extreme`

    @abstractmethod
    def numbers(self, counts: Grouped, eligible: EligibleGroups, reference: str) -> Values:
        """What it is the extreme of, (..., R, G); NaN where a group does not take part."""

    @abstractmethod
    def group_rates(self, counts: Grouped) -> Values:
        """The rates that these numbers belong to, (..., R, G)."""

    @abstractmethod
    def extreme(self, sizes: tuple[int, ...], reference: str) -> Extreme:
        """The statistic of so many numbers of each rate."""


@dataclass(frozen=True, kw_only=True)
class Gap(Extremal):
    """The largest gap of rates between groups, under one of the three references."""

    rates: tuple[Rate, ...]

    def numbers(self, counts: Grouped, eligible: EligibleGroups, reference: str) -> Values:
        taking_part = eligible.comparable(self.rates, reference)
        return deviations(self.rates, counts, taking_part, reference)

    def group_rates(self, counts: Grouped) -> Values:
        return np.stack([rate(counts.groups) for rate in self.rates], axis=-2)

    def extreme(self, sizes: tuple[int, ...], reference: str) -> Extreme:
        return RateRange(sizes) if reference == "between_groups" else Magnitude(sizes)

    def values(self, counts: Grouped, eligible: EligibleGroups, reference: str) -> Values:
        return gap_of(self.rates, counts, eligible.comparable(self.rates, reference), reference)

    def deviations(self, samples: Samples, counts: Grouped) -> Values:
        """What the gap of counts is the size of."""
        return deviations(self.rates, counts, self.comparable(samples), samples.reference)

    def comparable(self, samples: Samples) -> Mask:
        """bool (R, G), whose rates it compares."""
        return samples.eligible.comparable(self.rates, samples.reference)

    def interval(self, samples: Samples) -> Interval:
        reference = samples.reference
        value = float(gap(self.deviations(samples, samples.counts), reference))
        drawn = self.deviations(samples, samples.drawn)
        smooth = self.deviations(samples, samples.smooth_drawn)
        errors = smooth - self.deviations(samples, samples.smooth)
        sizes = tuple(gap(deviation, reference) for deviation in (drawn, smooth, errors))
        return around(value, sizes, conservative, samples.confidence)


@dataclass(frozen=True, kw_only=True)
class Minimum(Extremal):
    """The lowest rate of a group that may decide it."""

    rate: Rate
    sign = -1.0

    def numbers(self, counts: Grouped, eligible: EligibleGroups, reference: str) -> Values:
        del reference
        return np.where(eligible.deciding, self.rate(counts.groups), np.nan)[..., np.newaxis, :]

    def group_rates(self, counts: Grouped) -> Values:
        return self.rate(counts.groups)[..., np.newaxis, :]

    def extreme(self, sizes: tuple[int, ...], reference: str) -> Extreme:
        del reference
        return Shortfall(sizes)

    def values(self, counts: Grouped, eligible: EligibleGroups, reference: str) -> Values:
        del reference
        return smallest(np.where(eligible.deciding, self.rate(counts.groups), np.nan))

    def interval(self, samples: Samples) -> Interval:
        value, deciding = self.value(samples), samples.eligible.deciding
        if np.isnan(value):
            return Interval()
        low, high = minimum_band(self.rate, deciding, samples)
        return Interval(value=value, low=min(low, value), high=max(high, value))


@dataclass(frozen=True, kw_only=True)
class Ratio(Metric):
    """The smallest ratio of rates between groups; the reference plays no part."""

    rates: tuple[Rate, ...]

    def values(self, counts: Grouped, eligible: EligibleGroups, reference: str) -> Values:
        del reference
        return ratio_of(self.rates, counts, eligible.comparable(self.rates))

    def interval(self, samples: Samples) -> Interval:
        value, ends = self.value(samples), ratio_band(rate_limits(self.rates, samples))
        if np.isnan(value) or ends is None:
            return Interval()
        return Interval(value=value, low=min(ends[0], value), high=max(ends[1], value))
