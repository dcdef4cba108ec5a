"""The table of all metrics: one row a metric, and everything that lists metrics reads it here.

A row says how a metric is called, computed from counts, given an interval, and read. A new metric
is one row of `METRICS`; a new rate by group is one row of `GROUP_RATES`. Kinds of metrics:

    Proportion  a rate over all rows                          Wilson interval
    Smooth      a smooth function of rates over all rows      percentile interval
    Gap         the largest gap of rates between groups       conservative interval
    Minimum     the lowest rate of a group                    conservative interval of a minimum
    Ratio       the smallest ratio of rates between groups    ends of the simultaneous Wilson band

Which kind has which interval, and why: `mergekit_fair.fairness.intervals`. Coverage was simulated
for DPD, EOD and worst-group accuracy (docs/measurement.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from mergekit_fair.fairness.counts import Counts
from mergekit_fair.fairness.eligible_groups import EligibleGroups
from mergekit_fair.fairness.intervals import (
    Interval,
    Samples,
    around,
    conservative,
    conservative_minimum,
    percentile,
    rate_limits,
    ratio_band,
    wilson,
)
from mergekit_fair.fairness.rates import (
    DPD_RATES,
    EOD_RATES,
    Rate,
    Values,
    accuracy,
    balanced_accuracy,
    deviations,
    false_negative_rate,
    false_positive_rate,
    gap,
    gap_of,
    largest,
    positive_predictive_value,
    ratio_of,
    selection_rate,
    smallest,
    true_positive_rate,
    unanswered_rate,
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
    def values(
        self, groups: Counts, overall: Counts, eligible: EligibleGroups, reference: str
    ) -> Values:
        """The metric of a table, or of every one of many tables.

        Args:
            groups: counts (..., G, 2, 3).
            overall: counts (..., 2, 3) over all rows.
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
        reference = samples.settings.reference
        return float(self.values(*samples.counts, samples.eligible, reference))


@dataclass(frozen=True, kw_only=True)
class Proportion(Metric):
    """A rate over all rows."""

    rate: Rate

    def values(
        self, groups: Counts, overall: Counts, eligible: EligibleGroups, reference: str
    ) -> Values:
        del groups, eligible, reference
        return self.rate(overall)

    def interval(self, samples: Samples) -> Interval:
        overall = samples.counts[1]
        part, whole = int(self.rate.part(overall)), int(self.rate.whole(overall))
        if whole == 0:
            return Interval()
        low, high = wilson(part, whole, samples.settings.confidence)
        return Interval(value=part / whole, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Smooth(Metric):
    """A smooth function of counts over all rows that is not a plain proportion."""

    function: Callable[[Counts], Values]

    def values(
        self, groups: Counts, overall: Counts, eligible: EligibleGroups, reference: str
    ) -> Values:
        del groups, eligible, reference
        return self.function(overall)

    def interval(self, samples: Samples) -> Interval:
        drawn = self.function(samples.drawn[1])
        return around(self.value(samples), (drawn,), percentile, samples.settings.confidence)


@dataclass(frozen=True, kw_only=True)
class Gap(Metric):
    """The largest gap of rates between groups, under one of the three references."""

    rates: tuple[Rate, ...]

    def values(
        self, groups: Counts, overall: Counts, eligible: EligibleGroups, reference: str
    ) -> Values:
        return gap_of(self.rates, groups, overall, eligible.comparable, reference)

    def deviations(self, samples: Samples, counts: tuple[Counts, Counts]) -> Values:
        """What the gap of counts by group and overall is the size of."""
        reference = samples.settings.reference
        return deviations(self.rates, *counts, samples.eligible.comparable, reference)

    def interval(self, samples: Samples) -> Interval:
        reference = samples.settings.reference
        value = float(gap(self.deviations(samples, samples.counts), reference))
        drawn = self.deviations(samples, samples.drawn)
        smooth = self.deviations(samples, samples.smooth_drawn)
        errors = smooth - self.deviations(samples, samples.smooth)
        sizes = tuple(gap(deviation, reference) for deviation in (drawn, smooth, errors))
        return around(value, sizes, conservative, samples.settings.confidence)


@dataclass(frozen=True, kw_only=True)
class Minimum(Metric):
    """The lowest rate of a group that may decide it."""

    rate: Rate

    def values(
        self, groups: Counts, overall: Counts, eligible: EligibleGroups, reference: str
    ) -> Values:
        del overall, reference
        return smallest(np.where(eligible.deciding, self.rate(groups), np.nan))

    def interval(self, samples: Samples) -> Interval:
        deciding = samples.eligible.deciding
        drawn, smooth = self.rate(samples.drawn[0]), self.rate(samples.smooth_drawn[0])
        losses = self.rate(samples.smooth[0]) - smooth
        parts = (
            smallest(np.where(deciding, drawn, np.nan)),
            smallest(np.where(deciding, smooth, np.nan)),
            largest(np.where(deciding, losses, np.nan)),
        )
        confidence = samples.settings.confidence
        return around(self.value(samples), parts, conservative_minimum, confidence)


@dataclass(frozen=True, kw_only=True)
class Ratio(Metric):
    """The smallest ratio of rates between groups; the reference plays no part."""

    rates: tuple[Rate, ...]

    def values(
        self, groups: Counts, overall: Counts, eligible: EligibleGroups, reference: str
    ) -> Values:
        del overall, reference
        return ratio_of(self.rates, groups, eligible.comparable)

    def interval(self, samples: Samples) -> Interval:
        value, (groups, _) = self.value(samples), samples.counts
        confidence = samples.settings.confidence
        limits = rate_limits(self.rates, groups, samples.eligible.comparable, confidence)
        ends = ratio_band(limits)
        if np.isnan(value) or ends is None:
            return Interval()
        return Interval(value=value, low=min(ends[0], value), high=max(ends[1], value))


_NO_ROWS = "no row has a usable prediction"
_NO_POSITIVES = "no row with a positive label has a usable prediction"
_NO_NEGATIVES = "no row with a negative label has a usable prediction"
_NO_PAIR = "fewer than two eligible groups have the rate, or too many predictions are missing"

_ROWS: tuple[Metric, ...] = (
    Proportion(
        name="acc",
        title="accuracy",
        description="accuracy",
        better="higher",
        rate=accuracy,
        undefined="there are no rows",
        headline=True,
        compared=True,
        matched=True,
    ),
    Gap(
        name="dpd",
        title="DPD",
        description="demographic parity difference",
        better="lower",
        rates=DPD_RATES,
        undefined=_NO_PAIR,
        headline=True,
        compared=True,
        matched=True,
    ),
    Gap(
        name="eod",
        title="EOD",
        description="equalized odds difference",
        better="lower",
        rates=EOD_RATES,
        undefined=_NO_PAIR,
        headline=True,
        compared=True,
        matched=True,
    ),
    Smooth(
        name="bal_acc",
        title="balanced accuracy",
        description="balanced accuracy, (TPR + 1 − FPR) / 2",
        better="higher",
        function=balanced_accuracy,
        undefined="a class has no label with a usable prediction",
        compared=True,
        matched=True,
    ),
    Minimum(
        name="worst_group_acc",
        title="worst-group accuracy",
        description="lowest accuracy of a group",
        better="higher",
        rate=accuracy,
        undefined="there is no eligible group",
        compared=True,
    ),
    Proportion(
        name="selection_rate",
        title="selection rate",
        description="share of positive predictions",
        better=None,
        rate=selection_rate,
        undefined=_NO_ROWS,
        compared=True,
        matched=True,
    ),
    Proportion(
        name="tpr",
        title="TPR",
        description="true positive rate",
        better="higher",
        rate=true_positive_rate,
        undefined=_NO_POSITIVES,
    ),
    Proportion(
        name="fpr",
        title="FPR",
        description="false positive rate",
        better="lower",
        rate=false_positive_rate,
        undefined=_NO_NEGATIVES,
    ),
    Proportion(
        name="fnr",
        title="FNR",
        description="false negative rate",
        better="lower",
        rate=false_negative_rate,
        undefined=_NO_POSITIVES,
        compared=True,
    ),
    Gap(
        name="equal_opportunity",
        title="equal opportunity",
        description="equal opportunity difference, the gap of TPR",
        better="lower",
        rates=(true_positive_rate,),
        undefined=_NO_PAIR,
    ),
    Gap(
        name="predictive_parity",
        title="predictive parity",
        description="predictive parity difference, the gap of P(y = 1 | ŷ = 1)",
        better="lower",
        rates=(positive_predictive_value,),
        undefined="fewer than two eligible groups have a row that is predicted positive",
        compared=True,
        explained_where="dpd",
    ),
    Ratio(
        name="dp_ratio",
        title="DP ratio",
        description="demographic parity ratio",
        better="higher",
        rates=DPD_RATES,
        undefined="no row of any group is predicted positive",
        explained_where="dpd",
    ),
    Ratio(
        name="eo_ratio",
        title="EO ratio",
        description="equalized odds ratio",
        better="higher",
        rates=EOD_RATES,
        undefined="TPR and FPR are 0 in every group that has them",
        explained_where="eod",
    ),
    Proportion(
        name="unanswered",
        title="unanswered",
        description="share of rows without a usable prediction",
        better="lower",
        rate=unanswered_rate,
        undefined="there are no rows",
        is_point=True,
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ROWS})
"""Name → metric, in the order of every list of metrics."""

HEADLINE = tuple(name for name, metric in METRICS.items() if metric.headline)
COMPARED = tuple(name for name, metric in METRICS.items() if metric.compared)
MATCHED = tuple(name for name, metric in METRICS.items() if metric.matched)
LOWER_IS_BETTER = frozenset(name for name, metric in METRICS.items() if metric.better == "lower")
HEADLINE_GAPS: Mapping[str, Gap] = MappingProxyType(
    {name: metric for name in HEADLINE if isinstance(metric := METRICS[name], Gap)}
)
"""DPD and EOD: measured under all three references, with their uncertainty."""


@dataclass(frozen=True)
class GroupRate:
    """One rate by group: `title` for a column, `function` of counts (..., 2, 3)."""

    title: str
    description: str
    function: Callable[[Counts], Values]


GROUP_RATES: Mapping[str, GroupRate] = MappingProxyType(
    {
        "selection_rate": GroupRate(
            "selection rate", "share of positive predictions", selection_rate
        ),
        "tpr": GroupRate("TPR", "true positive rate", true_positive_rate),
        "fpr": GroupRate("FPR", "false positive rate", false_positive_rate),
        "ppv": GroupRate("PPV", "positive predictive value", positive_predictive_value),
        "acc": GroupRate("accuracy", "accuracy", accuracy),
        "bal_acc": GroupRate("balanced accuracy", "balanced accuracy", balanced_accuracy),
    }
)
"""Name → rate of every group, in the order of the columns of tables."""


def metric_values(
    groups: Counts,
    overall: Counts,
    eligible: EligibleGroups,
    reference: str = "between_groups",
    names: tuple[str, ...] = tuple(METRICS),
) -> dict[str, Values]:
    """Metrics by name, each (...), of counts (..., G, 2, 3) by group and (..., 2, 3) overall.

    Arguments as of `Metric.values`; `names` picks some of the table.
    """
    return {name: METRICS[name].values(groups, overall, eligible, reference) for name in names}
