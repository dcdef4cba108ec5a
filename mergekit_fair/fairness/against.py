"""Signed differences from one chosen group: who is better off, and by how much.

r_g − r_reference for every other group g, each in [−1, 1]. The interval is Newcombe's (1998, method
10), made of the Wilson limits of both rates: it needs no bootstrap, and keeps its width where all
rows of a group agree. Rows that both groups share make it wider than needed, never narrower.
"""

from __future__ import annotations

from math import hypot

import numpy as np

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.eligible_groups import MAX_UNANSWERED
from mergekit_fair.fairness.intervals import Interval, Samples
from mergekit_fair.fairness.measurement import Against
from mergekit_fair.fairness.metrics import GROUP_RATES
from mergekit_fair.fairness.rates import Rate, accuracy, unanswered_rate

Share = tuple[float, float, float]  # a rate with its Wilson limits

_RATES = {name: row.function for name, row in GROUP_RATES.items() if isinstance(row.function, Rate)}


def differences_against(samples: Samples, reference: str) -> Against:
    """Every group's rates minus those of `reference`.

    Undefined where a rate is, and, accuracy excepted, where more than `MAX_UNANSWERED` of the
    predictions of either group are missing.

    Raises:
        MeasurementError: no such group, or it has no rows.
    """
    names = samples.table.groups
    sizes = dict(zip(names, samples.rows.groups.sum(axis=(-2, -1)).tolist(), strict=True))
    if not sizes.get(reference):
        raise MeasurementError(
            "no such group" if reference not in sizes else "has no rows",
            where="against",
            got=reference,
            allowed=[name for name, size in sizes.items() if size],
            fix="name the group that all others are compared with as it is named in the data",
        )
    shares = {name: _shares(samples, row) for row, name in enumerate(names)}
    return Against(
        group=reference,
        groups={
            name: {rate: _difference(found[rate], shares[reference][rate]) for rate in _RATES}
            for name, found in shares.items()
            if name != reference
        },
    )


def _shares(samples: Samples, row: int) -> dict[str, Share | None]:
    """The rates of one group; None where undefined."""
    mine = slice(row, row + 1)
    counts = samples.counts.groups[mine]
    is_answered = not unanswered_rate(counts)[0] > MAX_UNANSWERED
    shares = {}
    for name, rate in _RATES.items():
        value, limits = (
            float(rate(counts)[0]),
            samples.limits(rate, mine, samples.settings.confidence),
        )
        is_known = bool(limits) and (is_answered or rate is accuracy)
        shares[name] = _share(value, *limits[0]) if is_known else None
    return shares


def _share(value: float, low: float, high: float) -> Share:
    return value, min(low, value), max(high, value)


def _difference(group: Share | None, reference: Share | None) -> Interval:
    if group is None or reference is None:
        return Interval()
    (value, low, high), (other, least, most) = group, reference
    apart = value - other
    ends = apart - hypot(value - low, most - other), apart + hypot(high - value, other - least)
    low, high = np.clip(ends, -1.0, 1.0).tolist()
    return Interval(value=apart, low=low, high=high)
