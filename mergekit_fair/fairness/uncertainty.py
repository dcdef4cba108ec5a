"""What a table of counts says about every metric: intervals, and how sure a gap is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mergekit_fair.fairness import metrics
from mergekit_fair.fairness.counts import Counts, CountTable, group_counts, total
from mergekit_fair.fairness.gaps import (
    DPD_RATES,
    EOD_RATES,
    OPPORTUNITY_RATES,
    Rate,
    deviations,
    gap,
)
from mergekit_fair.fairness.intervals import (
    Ends,
    Interval,
    around,
    basic,
    bias_corrected,
    conservative,
    conservative_minimum,
    percentile,
    replicates,
    smoothed,
    wilson,
)
from mergekit_fair.fairness.measurement import Uncertainty
from mergekit_fair.fairness.metrics import Values
from mergekit_fair.fairness.permutation import MAX_ROWS, Null, permuted
from mergekit_fair.fairness.point_metrics import Deciding, statistics
from mergekit_fair.fairness.settings import MetricSettings
from mergekit_fair.fairness.wilson_band import gap_band, rate_limits, ratio_band

_GAPS = {"dpd": DPD_RATES, "eod": EOD_RATES, "equal_opportunity": OPPORTUNITY_RATES}
_RATIOS = {"dp_ratio": DPD_RATES, "eo_ratio": EOD_RATES}


@dataclass(frozen=True, eq=False)
class Evidence:
    """One table with everything that is drawn from it, once.

    Attributes:
        table: the counts.
        deciding: which groups decide.
        settings: reference and confidence; draws and seed are those of bootstrap and permutations.
    """

    table: CountTable
    deciding: Deciding
    settings: MetricSettings
    drawn: tuple[Counts, Counts] = field(init=False)
    smooth: tuple[Counts, Counts] = field(init=False)
    smooth_drawn: tuple[Counts, Counts] = field(init=False)

    def __post_init__(self) -> None:
        cells, patterns = self.table.cells, self.table.patterns
        draws, seed = self.settings.draws, self.settings.seed
        smooth = smoothed(cells, patterns)
        for name, source in (
            ("drawn", replicates(cells, draws, seed)),
            ("smooth", smooth),
            ("smooth_drawn", replicates(smooth, draws, seed)),
        ):
            object.__setattr__(self, name, (group_counts(source, patterns), total(source)))

    @property
    def counts(self) -> tuple[Counts, Counts]:
        """Counts by group (G, 2, 3) and over all rows (2, 3)."""
        cells = self.table.cells
        return group_counts(cells, self.table.patterns), total(cells)

    def intervals(self) -> dict[str, Interval]:
        """Every metric with its interval; the order is that of the output."""
        groups, overall = self.counts
        values = statistics(groups, overall, self.deciding, self.settings.reference)
        found = {"acc": self._proportion("acc", overall)}
        found |= {name: self._gap(rates) for name, rates in list(_GAPS.items())[:2]}
        found["bal_acc"] = around(
            float(values["bal_acc"]),
            (metrics.balanced_accuracy(self.drawn[1]),),
            percentile,
            self.settings.confidence,
        )
        found["worst_group_acc"] = self._worst_accuracy(float(values["worst_group_acc"]))
        for name in ("selection_rate", "tpr", "fpr"):
            found[name] = self._proportion(name, overall)
        found["equal_opportunity"] = self._gap(OPPORTUNITY_RATES)
        for name, rates in _RATIOS.items():
            limits = rate_limits(rates, groups, self.deciding.comparable, self.settings.confidence)
            found[name] = _within(float(values[name]), ratio_band(limits))
        return found

    def uncertainty(self, name: str, interval: Interval) -> Uncertainty:
        """How sure the gap `dpd` or `eod` is, beside its own interval.

        Raises:
            KeyError: another name.
        """
        rates = _GAPS[name]
        value = float("nan") if interval.value is None else interval.value
        drawn = gap(self._deviations(rates, *self.drawn), self.settings.reference)
        defined = drawn[np.isfinite(drawn)]
        known = interval.low is not None
        null = self._null(name, rates, value)
        distinguishable = (
            None
            if null is None or interval.low is None
            else interval.low > 0 and null.p_value <= 1 - self.settings.confidence
        )
        band = None
        if self.settings.reference == "between_groups" and interval.value is not None:
            groups, _ = self.counts
            band = gap_band(
                rate_limits(rates, groups, self.deciding.comparable, self.settings.confidence)
            )
        return Uncertainty(
            bias=float(defined.mean() - value) if known else None,
            standard_error=float(defined.std()) if known else None,
            basic=self._kind(value, drawn, basic) if known else None,
            bias_corrected=self._kind(value, drawn, bias_corrected) if known else None,
            band=band,
            null=null,
            distinguishable_from_0=distinguishable,
        )

    def _kind(self, value: float, drawn: Values, ends: Callable[..., Ends]) -> Ends | None:
        found = around(value, (drawn,), ends, self.settings.confidence)
        return None if found.low is None or found.high is None else (found.low, found.high)

    def _null(self, name: str, rates: Sequence[Rate], value: float) -> Null | None:
        if np.isnan(value) or self.table.n >= MAX_ROWS:
            return None
        cells = permuted(
            self.table.cells,
            self.settings.draws,
            self.settings.seed,
            within_labels=name != "dpd",
        )
        groups, overall = group_counts(cells, self.table.patterns), total(cells)
        drawn = gap(self._deviations(rates, groups, overall), self.settings.reference)
        return Null.of(value, drawn, self.settings.confidence)

    def _deviations(self, rates: Sequence[Rate], groups: Counts, overall: Counts) -> Values:
        return deviations(rates, groups, overall, self.deciding.comparable, self.settings.reference)

    def _gap(self, rates: Sequence[Rate]) -> Interval:
        value = float(gap(self._deviations(rates, *self.counts), self.settings.reference))
        drawn, smooth = (
            self._deviations(rates, *counts) for counts in (self.drawn, self.smooth_drawn)
        )
        errors = smooth - self._deviations(rates, *self.smooth)
        samples = tuple(gap(sample, self.settings.reference) for sample in (drawn, smooth, errors))
        return around(value, samples, conservative, self.settings.confidence)

    def _worst_accuracy(self, value: float) -> Interval:
        usable = self.deciding.groups
        losses = metrics.accuracy(self.smooth[0]) - metrics.accuracy(self.smooth_drawn[0])
        samples = (
            metrics.worst_group_accuracy(self.drawn[0], usable),
            metrics.worst_group_accuracy(self.smooth_drawn[0], usable),
            metrics.largest(np.where(usable, losses, np.nan)),
        )
        return around(value, samples, conservative_minimum, self.settings.confidence)

    def _proportion(self, name: str, overall: Counts) -> Interval:
        positive, negative = overall[1], overall[0]
        successes, trials = {
            "acc": (overall[0, 0] + overall[1, 1], overall.sum()),
            "selection_rate": (overall[:, 1].sum(), overall[:, :2].sum()),
            "tpr": (positive[1], positive[:2].sum()),
            "fpr": (negative[1], negative[:2].sum()),
        }[name]
        if trials == 0:
            return Interval(None)
        ends = wilson(int(successes), int(trials), self.settings.confidence)
        return Interval(float(successes / trials), *ends)


def _within(value: float, ends: Ends | None) -> Interval:
    if np.isnan(value) or ends is None:
        return Interval(None)
    return Interval(value, min(ends[0], value), max(ends[1], value))
