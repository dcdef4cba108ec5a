"""Two predictors of the same rows: joint cells, their draws, and the difference in every metric.

    Extremal metrics (DPD, EOD, worst-group accuracy)   test inversion, `inversion.inverted`
    all others (accuracy, selection rate, …)            value minus quantiles of the errors

Errors are those of bootstrap draws of whole rows, both predictions together, from a table in which
every group and label has about one row more of each kind of answer: where all of a group's few
rows agree, plain draws agree too, and a difference of a few rows would seem to be certain. Rates
over all rows have one such row in all (Agresti & Min 2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.clusters import Clusters, students
from mergekit_fair.fairness.counts import Patterns
from mergekit_fair.fairness.eligible_groups import EligibleGroups
from mergekit_fair.fairness.grouped import Counts, Grouped, Sums, drawn_sums
from mergekit_fair.fairness.intervals import MAX_UNDEFINED, Interval, Number
from mergekit_fair.fairness.inversion import ExtremeEstimate, Test, inverted, shifted
from mergekit_fair.fairness.metric_kinds import Extremal, Metric
from mergekit_fair.fairness.metrics import COMPARED, METRICS
from mergekit_fair.fairness.rates import Values
from mergekit_fair.fairness.settings import MetricSettings
from mergekit_fair.fairness.smoothing import of_smallest_group, pattern_effects

_NEVER = 1e-9
_KINDS = 18  # y, ŷ of the first and ŷ of the second
# Of cells (…, ŷ, ŷ): rows that both have answered, the first alone, the second alone.
_BLOCKS = np.s_[..., :2, :2], np.s_[..., :2, 2:], np.s_[..., 2:, :2]
# What two rows more of such a block are in each of its cells.
_PARTS = np.array([[0.5, 0.5, 1.0], [0.5, 0.5, 1.0], [1.0, 1.0, 0.0]])


class Difference(Interval):
    """A difference b − a in [−1, 1] with its interval, and the p-value of "it is 0"."""

    p_value: Number = None


@dataclass(frozen=True, eq=False)
class PairedCells:
    """The joint cells of two predictors, in an order of their own.

    Attributes:
        patterns: groups and weights of the rows.
        cells: int64 (P, 2, 3, 3): rows by [pattern, y, ŷ of the first, ŷ of the second].
        sign: 1 if the second minus the first is asked for, −1 for the first minus the second, 0
            if changing places changes nothing: then both are the same question.
        clusters: what is resampled, of these cells; None: single rows.
    """

    patterns: Patterns
    cells: NDArray[np.int64]
    sign: int
    clusters: Clusters | None = None

    @classmethod
    def of(cls, patterns: Patterns, labels: Any, a: Any, b: Any) -> PairedCells:
        """The cells decide which is the first, so that (a, b) and (b, a) are drawn alike.

        Args:
            patterns: of the m rows.
            labels, a, b: int8 (m,), labels and two columns of predictions.
        """
        here = cls.as_given(patterns, labels, a, b)
        there = cls.as_given(patterns, labels, b, a)
        apart = (here.cells - there.cells).reshape(-1)
        sign = int(np.sign(apart[np.flatnonzero(apart)[:1]]).sum())
        if sign == 0 and here.clusters is not None and there.clusters is not None:
            one, other = here.clusters.content, there.clusters.content
            sign = int(one > other) - int(one < other)
        return replace(there if sign < 0 else here, sign=sign)

    @classmethod
    def as_given(cls, patterns: Patterns, labels: Any, a: Any, b: Any) -> PairedCells:
        """The cells of a and b in this order; otherwise as `of`."""
        size = len(patterns.membership)
        code = ((patterns.of_row * 2 + labels) * 3 + a) * 3 + b
        cells = np.bincount(code, minlength=size * _KINDS).reshape(size, 2, 3, 3)
        return cls(patterns, cells, 1, patterns.clustered(code, cells.size))

    def differences(
        self, settings: MetricSettings, names: Sequence[str] = COMPARED
    ) -> dict[str, Difference]:
        """b minus a of every compared metric, or of some."""
        tables = [self.patterns.table(self.cells.sum(axis=axis)) for axis in (-1, -2)]
        eligible = [EligibleGroups.of(table, settings) for table in tables]
        draws = {
            is_by_group: self._draws(settings, is_by_group=is_by_group)
            for is_by_group in {isinstance(METRICS[name], Extremal) for name in names}
        }
        size = None if self.clusters is None else len(self.clusters)
        settings = settings if size is None else settings.of_clusters(size)
        found = {}
        for name in names:
            metric, reference = METRICS[name], settings.reference
            first, second = (
                float(metric.values(table.counts, who, reference))
                for table, who in zip(tables, eligible, strict=True)
            )
            value = second - first
            test: Test | float = 1.0
            if np.isfinite(value):
                counts = [table.counts for table in tables]
                of_metric = draws[isinstance(metric, Extremal)]
                test = of_metric.test(metric, counts, eligible, value, settings)
            if size is not None and not isinstance(test, float):
                test = (*test[:2], students(test[2], size))
            found[name] = turned(difference_of(value, test), self.sign)
        return found

    def numbers(self, metric: Extremal, settings: MetricSettings) -> tuple[Numbers, Numbers]:
        """What a metric is the extreme of, of the first and of the second, with its errors."""
        tables = [self.patterns.table(self.cells.sum(axis=axis)) for axis in (-1, -2)]
        eligible = [EligibleGroups.of(table, settings) for table in tables]
        draws = self._draws(settings, is_by_group=True)
        counts = [table.counts for table in tables]
        first, second = draws.numbers(metric, counts, eligible, settings)
        return first, second

    def _draws(self, settings: MetricSettings, *, is_by_group: bool) -> _Draws:
        """For gaps of groups, or for rates over all rows, which read no groups."""
        patterns, clusters = self.patterns, self.clusters
        cells: Counts = self.cells
        if is_by_group:
            share = _smallest_shares(cells, patterns)
        else:
            patterns, cells, place = _ungrouped(patterns, cells)
            share = _share_of_all(cells)
            clusters = None if clusters is None else clusters.merged(place, cells.size)
        if clusters is None:
            return _Draws.of(patterns, _smoothed(cells, share), settings)
        effect, of_all = self._design_effects()
        effect = effect if is_by_group else of_all
        return _Draws.of_clusters(patterns, cells, share, effect, clusters, settings)

    def _design_effects(self) -> tuple[Values, Values]:
        """By pattern and label (P, 2), and of all rows: the larger one of both predictors."""
        assert self.clusters is not None
        kinds = np.arange(self.cells.size)
        by_pattern, of_all = [], []
        for answer in (kinds // 3 % 3, kinds % 3):
            place = kinds // 9 * 3 + answer
            merged = self.clusters.merged(place, len(self.cells) * 6)
            cells = np.bincount(place, self.cells.reshape(-1)).astype(np.int64)
            table = self.patterns.table(cells.reshape(-1, 2, 3), merged)
            spread = table.spread
            assert spread is not None
            by_pattern.append(pattern_effects(table, spread))
            of_all.append(spread.overall_effect())
        return np.max(by_pattern, axis=0), np.full((1, 2), max(of_all))


@dataclass(frozen=True, eq=False)
class _Draws:
    """A smoothed table of two predictors, and bootstrap draws of it: of the first, the second."""

    smooth: tuple[Grouped, Grouped]
    drawn: tuple[Grouped, Grouped]

    @classmethod
    def of(cls, patterns: Patterns, cells: Counts, settings: MetricSettings) -> _Draws:
        """Of cells (P, 2, 3, 3)."""
        flat: Values = np.ascontiguousarray(cells, dtype=np.float64).reshape(-1)
        return cls._of(patterns, flat, None, settings)

    @classmethod
    def of_clusters(
        cls,
        patterns: Patterns,
        cells: Counts,
        share: Values,
        effect: Values,
        clusters: Clusters,
        settings: MetricSettings,
    ) -> _Draws:
        """Of cells (P, 2, 3, 3): as many rows more as are worth `share`, alike, independent ones.

        Args:
            effect: (P or 1, 2), how many are worth one.
        """
        each = effect[..., np.newaxis, np.newaxis]
        smooth, scales = _smoothed(cells, share * each), _scales(cells, share * each)
        added, chance = scales * each, share * _PARTS
        drawn = clusters.with_rows(*(part.reshape(-1) for part in (scales, added, chance)))
        flat: Values = np.ascontiguousarray(smooth).reshape(-1)
        return cls._of(patterns, flat, drawn, settings)

    @classmethod
    def _of(
        cls,
        patterns: Patterns,
        flat: Values,
        clusters: Clusters | None,
        settings: MetricSettings,
    ) -> _Draws:
        kinds = np.flatnonzero(flat)
        counts = flat[kinds]
        pattern, label = kinds // _KINDS, kinds // 9 % 2 * 3
        sums = [
            Sums(patterns.membership, patterns.weights, pattern, label + answer)
            for answer in (kinds // 3 % 3, kinds % 3)
        ]
        of_kinds = None if clusters is None else clusters.of_kinds(kinds)
        first, second = drawn_sums(counts, sums, settings.draws, settings.seed, of_kinds)
        smooth = sums[0].of(counts), sums[1].of(counts)
        return cls(smooth, (first, second))

    def test(
        self,
        metric: Metric,
        counts: list[Grouped],
        eligible: list[EligibleGroups],
        value: float,
        settings: MetricSettings,
    ) -> Test | float:
        """Limits and p-value; the share of undefined draws where these are too many."""
        if isinstance(metric, Extremal):
            return self._inverted(metric, counts, eligible, settings)
        of_both = zip(self.smooth, self.drawn, eligible, strict=True)
        first, second = (
            metric.values(drawn, who, settings.reference)
            - metric.values(smooth, who, settings.reference)
            for smooth, drawn, who in of_both
        )
        errors = second - first
        defined = np.isfinite(errors)
        if defined.mean() < 1 - MAX_UNDEFINED:
            return float(1 - defined.mean())
        return shifted(value, errors[defined], settings.confidence)

    def numbers(
        self,
        metric: Extremal,
        counts: list[Grouped],
        eligible: list[EligibleGroups],
        settings: MetricSettings,
    ) -> list[Numbers]:
        """Of both."""
        return [
            _numbers(metric, *model, settings.reference)
            for model in zip(counts, self.smooth, self.drawn, eligible, strict=True)
        ]

    def _inverted(
        self,
        metric: Extremal,
        counts: list[Grouped],
        eligible: list[EligibleGroups],
        settings: MetricSettings,
    ) -> Test | float:
        return inverted_numbers(metric, self.numbers(metric, counts, eligible, settings), settings)


@dataclass(frozen=True, eq=False)
class Numbers:
    """What an extreme of one model is of: M numbers, of one rate after the other.

    Attributes:
        sizes: how many each rate has.
        values, rates, smooth: (M,), the numbers, their smoothed rates, the numbers smoothed.
        errors: (M, draws).
    """

    sizes: tuple[int, ...]
    values: Values
    rates: Values
    smooth: Values
    errors: Values

    @classmethod
    def joined(cls, parts: Sequence[Numbers]) -> Numbers:
        """All of them, one after the other."""
        columns = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("values", "rates", "smooth", "errors")
        )
        return cls(tuple(size for part in parts for size in part.sizes), *columns)


def inverted_numbers(
    metric: Extremal, models: Sequence[Numbers], settings: MetricSettings
) -> Test | float:
    """Limits and p-value of the second's extreme minus the first's; the share of undefined draws
    where these are too many."""
    defined = np.all([np.isfinite(each.errors).all(axis=0) for each in models], axis=0)
    if defined.mean() < 1 - MAX_UNDEFINED:
        return float(1 - defined.mean())
    first, second = (
        ExtremeEstimate(
            metric.extreme(each.sizes, settings.reference),
            each.values,
            of_draws - of_draws.mean(axis=1, keepdims=True),
            each.rates,
            each.rates - each.smooth,
        )
        for each in models
        for of_draws in [np.compress(defined, each.errors, axis=1)]  # in C order, as fast as any
    )
    low, high, p_value = inverted(first, second, settings.confidence)
    return (low, high, p_value) if metric.sign > 0 else (-high, -low, p_value)


def _answered(cells: Counts) -> Values:
    """(P, 2, 3, 3), in each cell how many rows the same ones of the two have answered; or 0."""
    rows = np.zeros(cells.shape)
    for block in _BLOCKS:
        rows[block] = cells[block].sum(axis=(-2, -1), keepdims=True)
    return rows


def _smallest_shares(cells: Counts, patterns: Patterns) -> Values:
    """(P, 2, 3, 3), the share of such rows of a (pattern, y) pair in the smallest of its groups.

    Those of a group add up to one at least; 0 for rows in no group.
    """
    shares = np.zeros(cells.shape)
    for block in _BLOCKS:
        rows = cells[block].sum(axis=(-2, -1)).astype(np.float64)
        found = of_smallest_group(rows, patterns.membership, patterns.weights)
        shares[block] = found[..., np.newaxis, np.newaxis]
    return shares


def _share_of_all(cells: Counts) -> Values:
    """(P, 2, 3, 3), each pattern's share of all such rows of the label."""
    answered = _answered(cells)
    total = answered.sum(axis=0)
    return np.divide(answered, total, out=np.zeros_like(answered), where=total > 0)


def _smoothed(cells: Counts, extra: Values) -> Values:
    """With 2·extra (P, 2, 3, 3) rows more of each pattern, label and who has answered.

    Totals are as they were. Were none added to rows that one alone has answered, a model that never
    answers would be worse for certain, however few rows there are.
    """
    return np.asarray((cells + extra * _PARTS) * _scales(cells, extra))


def _scales(cells: Counts, extra: Values) -> Values:
    """(P, 2, 3, 3), by which rows and what is added to them become as many as they were."""
    answered = _answered(cells)
    return np.divide(answered, answered + 2 * extra, out=np.ones_like(answered), where=answered > 0)


def _ungrouped(patterns: Patterns, cells: Counts) -> tuple[Patterns, Counts, NDArray[np.intp]]:
    """The same rows without their groups, and where each cell goes."""
    if patterns.weights is None:
        weights, of_pattern = None, np.zeros(len(cells), dtype=np.intp)
    else:
        weights, of_pattern = np.unique(patterns.weights, return_inverse=True)
    size = 1 if weights is None else len(weights)
    summed = np.zeros((size, *cells.shape[1:]), dtype=np.int64)
    np.add.at(summed, of_pattern.reshape(-1), cells)
    nobody = np.zeros((size, 0), dtype=np.bool_)
    every = np.arange(cells.size)
    place = of_pattern.reshape(-1)[every // _KINDS] * _KINDS + every % _KINDS
    return Patterns((), nobody, weights, slice(0), np.zeros(0, dtype=np.intp), 0), summed, place


def _numbers(
    metric: Extremal,
    counts: Grouped,
    smooth: Grouped,
    drawn: Grouped,
    eligible: EligibleGroups,
    reference: str,
) -> Numbers:
    """Those that are defined."""
    values, pulled, replicates = (
        metric.numbers(each, eligible, reference) for each in (counts, smooth, drawn)
    )
    known = np.isfinite(values) & np.isfinite(pulled)
    # Where nobody has answered nothing is added, and there is no error either.
    rates = np.clip(metric.group_rates(smooth), _NEVER, 1 - _NEVER)
    errors = (replicates - pulled)[..., known]
    sizes = tuple(int(n) for n in known.sum(axis=-1) if n)
    errors = np.ascontiguousarray(errors.T)
    return Numbers(sizes, values[known], rates[known], pulled[known], errors)


def difference_of(value: float, test: Test | float) -> Difference:
    """A value with its limits, or with the share of draws that are undefined."""
    if np.isnan(value):
        return Difference()
    if isinstance(test, float):
        return Difference(value=value, dropped=test)
    low, high, p_value = test
    low, high = min(max(low, -1.0), value), max(min(high, 1.0), value)
    return Difference(value=value, low=low, high=high, p_value=p_value)


def turned(found: Difference, sign: int) -> Difference:
    """A difference the other way round for −1; for 0 one that is its own opposite."""
    if sign == 1 or found.value is None:
        return found
    low, high = found.low, found.high
    if low is not None and high is not None:
        low, high = (-high, -low) if sign else ((low - high) / 2, (high - low) / 2)
    # 0.0 − x: no difference is written as −0.0.
    parts = {"value": 0.0 - found.value, "low": low, "high": high}
    return found.model_copy(update=parts)
