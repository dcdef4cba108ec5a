"""Which groups make a gap or a minimum: named beside every figure that rests on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import model_serializer

from mergekit_fair.fairness.intervals import Samples
from mergekit_fair.fairness.metric_kinds import Gap, Minimum
from mergekit_fair.fairness.metrics import GROUP_RATES, METRICS
from mergekit_fair.fairness.rates import Values, largest, max_min_gap
from mergekit_fair.schema import Record

# Figures that are nearer than this are equal: another processor adds up weights in another order.
_EQUAL = 1e-12
_NAMES = {row.function: name for name, row in GROUP_RATES.items()}


class Deciding(Record):
    """The groups whose rates a figure is made of; of equals, the first by name.

    Attributes:
        rate: of `metrics.GROUP_RATES`; None where it is a mean of scores.
        highest, lowest: the groups that have the highest and the lowest rate, or value. One of
            them is None for a minimum, and where a gap is that of one group to its rest or to all
            rows: `highest` is then the group, if its rate is the higher one, else `lowest`.
    """

    rate: str | None = None
    highest: str | None = None
    lowest: str | None = None

    @model_serializer(mode="wrap")
    def _known(self, serialize: Any) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}

    @property
    def groups(self) -> tuple[str, ...]:
        """One or two names."""
        return tuple(name for name in (self.highest, self.lowest) if name is not None)

    @property
    def all_alike(self) -> bool:
        """Whether nobody makes the gap: one group is highest and lowest, as all rates are equal."""
        return self.highest == self.lowest


def deciding_groups(samples: Samples) -> dict[str, Deciding]:
    """Name of a metric → the groups that make it, of all gaps and minima that are defined."""
    found = {
        name: _of_gap(metric, samples) if isinstance(metric, Gap) else _of_minimum(metric, samples)
        for name, metric in METRICS.items()
        if isinstance(metric, (Gap, Minimum))
    }
    return {name: deciding for name, deciding in found.items() if deciding is not None}


def ends(names: tuple[str, ...], values: Values) -> tuple[str, str] | None:
    """Who has the highest and who the lowest of values (G,), NaN left out; None of fewer than two.

    >>> ends(("a", "b", "c"), np.array([0.2, 0.5, 0.2]))
    ('b', 'a')
    """
    if np.isfinite(values).sum() < 2:
        return None
    return first(names, values), first(names, -values)


def first(names: tuple[str, ...], values: Values) -> str:
    """The first name of those with the largest value, of which there is one."""
    highest = np.nanmax(values)
    return min(name for name, value in zip(names, values, strict=True) if value >= highest - _EQUAL)


def _of_gap(metric: Gap, samples: Samples) -> Deciding | None:
    names, reference = samples.table.groups, samples.reference
    lines = metric.deviations(samples, samples.counts)
    is_range = reference == "between_groups"
    sizes = max_min_gap(lines) if is_range else largest(np.abs(lines))
    if np.isnan(sizes).any():
        return None
    at = int(np.flatnonzero(sizes >= sizes.max() - _EQUAL)[0])
    rate, line = _NAMES[metric.rates[at]], lines[at]
    if is_range:
        highest, lowest = ends(names, line) or (None, None)
        return Deciding(rate=rate, highest=highest, lowest=lowest)
    name = first(names, np.abs(line))
    side = "highest" if line[names.index(name)] >= 0 else "lowest"
    return Deciding(rate=rate, **{side: name})


def _of_minimum(metric: Minimum, samples: Samples) -> Deciding | None:
    values = np.where(samples.eligible.deciding, metric.rate(samples.counts.groups), np.nan)
    if np.isnan(values).all():
        return None
    return Deciding(rate=_NAMES[metric.rate], lowest=first(samples.table.groups, -values))
