"""Warnings of a measurement: what is undefined or left out, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil

import numpy as np

from mergekit_fair.fairness.counts import Counts
from mergekit_fair.fairness.gaps import EOD_RATES, deviations
from mergekit_fair.fairness.intervals import MAX_UNDEFINED, Interval
from mergekit_fair.fairness.metrics import is_degenerate, unanswered_rate
from mergekit_fair.fairness.permutation import MAX_ROWS
from mergekit_fair.fairness.point_metrics import MAX_UNANSWERED, Deciding
from mergekit_fair.fairness.settings import MetricSettings


def notes(
    names: tuple[str, ...],
    groups: Counts,
    overall: Counts,
    deciding: Deciding,
    settings: MetricSettings,
    intervals: Mapping[str, Interval],
) -> Iterator[str]:
    """All warnings of a measurement: the table's, the groups', the intervals', the settings'."""
    yield from answer_notes(names, groups, overall, deciding)
    yield from table_notes(groups, overall, deciding, settings.reference)
    yield from ratio_notes(intervals)
    yield from group_notes(names, groups, overall, settings.min_group_size)
    yield from interval_notes(intervals)
    yield from draw_notes(settings)
    if overall.sum() >= MAX_ROWS:
        yield f"{MAX_ROWS:,} rows or more: gaps under permuted group labels are not drawn"


def answer_notes(
    names: tuple[str, ...], groups: Counts, overall: Counts, deciding: Deciding
) -> Iterator[str]:
    """Warn about missing predictions: whose, and what follows."""
    missing = int(overall[..., 2].sum())
    if not missing:
        return
    counts = groups[..., 2].sum(axis=-1)
    whose = ", ".join(
        f"{name} {count} of {size}"
        for name, count, size in zip(names, counts, groups.sum(axis=(-2, -1)), strict=True)
        if count
    )
    yield (
        f"{missing} of {overall.sum()} rows have no usable prediction"
        f"{f' ({whose})' if whose else ''}: wrong for accuracy, left out of rates"
    )
    if deciding.groups.any() and not deciding.comparable.any():
        largest = max(unanswered_rate(groups)[deciding.groups].max(), unanswered_rate(overall))
        yield (
            f"predictions are missing for {largest:.1%} of a group or of all rows, more than "
            f"{MAX_UNANSWERED:.0%}: DPD, EOD, equal opportunity and the ratios are undefined"
        )


def table_notes(
    groups: Counts, overall: Counts, deciding: Deciding, reference: str
) -> Iterator[str]:
    """Warn about the data set as a whole."""
    usable = deciding.groups
    if not overall[:, :2].any():
        yield "no row has a usable prediction: every rate is undefined"
    elif is_degenerate(overall):
        yield "predictions are (nearly) constant: small gaps say nothing about fairness"
    for label, name, rate in ((1, "positive", "TPR"), (0, "negative", "FPR")):
        if not overall[label].any():
            yield f"there are no {name} labels: {rate} and balanced accuracy are undefined"
        elif overall[:, :2].any() and not overall[label, :2].any():
            yield (
                f"no row with a {name} label has a usable prediction: {rate} and balanced accuracy "
                "are undefined"
            )
    if usable.sum() < 2:
        yield (
            f"{usable.sum()} usable group(s), two are needed: DPD, EOD, equal opportunity and the "
            "ratios are undefined"
        )
        if not usable.any():
            yield "no usable group: worst-group accuracy is undefined"
        return
    if not deciding.comparable.any():
        return  # said already
    defined = np.isfinite(deviations(EOD_RATES, groups, overall, usable, reference))
    tpr, fpr = (bool(line.any()) for line in defined)
    if not tpr and not fpr:
        yield "EOD is undefined: neither TPR nor FPR can be compared between two usable groups"
    elif not tpr:
        yield "EOD rests on FPR alone: TPR cannot be compared between two usable groups"
    elif not fpr:
        yield "EOD rests on TPR alone: FPR cannot be compared between two usable groups"


def ratio_notes(intervals: Mapping[str, Interval]) -> Iterator[str]:
    """Warn about ratios that are undefined although groups can be compared."""
    for name, of, what in (
        ("dp_ratio", "dpd", "no row of any group is predicted positive"),
        ("eo_ratio", "eod", "TPR and FPR are 0 in every group that has them"),
    ):
        if intervals[name].value is None and intervals[of].value is not None:
            yield f"{name} is undefined: {what}"


def group_notes(
    names: tuple[str, ...], groups: Counts, overall: Counts, min_group_size: int
) -> Iterator[str]:
    """Warn about single groups: rates that are undefined, and groups that are too small."""
    for name, counts in zip(names, groups, strict=True):
        n = int(counts.sum())
        if n == 0:
            yield f"group {name!r} has no rows: its rates are undefined, left out of every gap"
            continue
        if n < min_group_size:
            yield (
                f"group {name!r} has {n} rows, min_group_size is {min_group_size}: "
                "reported, decides no maximum"
            )
        if not counts[:, :2].any():
            yield f"group {name!r} has no usable prediction: its rates are undefined"
        else:
            yield from _missing_class(f"group {name!r}", counts, "left out of EOD")
        rest = overall - counts
        if not rest.any():
            yield f"group {name!r} holds every row: its one-vs-rest gaps are undefined"
        elif overall[1].any() and overall[0].any() and rest[:, :2].any():
            effect = f"left out of the one-vs-rest EOD of {name!r}"
            yield from _missing_class(f"the rest of group {name!r}", rest, effect)


def interval_notes(intervals: Mapping[str, Interval]) -> Iterator[str]:
    """Warn about intervals that are missing, thinned out or without width."""
    for name, interval in intervals.items():
        if interval.value is None:
            continue
        if interval.low is None:
            yield (
                f"{name} is undefined in {interval.dropped:.1%} of the bootstrap draws, more "
                f"than {MAX_UNDEFINED:.0%}: no interval"
            )
        elif interval.dropped:
            yield f"{name} is undefined in {interval.dropped:.1%} of the bootstrap draws: dropped"
        if interval.low is not None and interval.low == interval.high:
            yield f"{name} is the same in every bootstrap draw: its interval has no width"


def draw_notes(settings: MetricSettings) -> Iterator[str]:
    """Warn where the bootstrap has not one draw in each tail."""
    needed = ceil(2 / (1 - settings.confidence) - 1e-6)
    if settings.draws < needed:
        yield (
            f"{settings.draws} bootstrap draws are too few for a confidence of "
            f"{settings.confidence}: use "
            f"{needed:,} or more"
        )


def _missing_class(who: str, counts: Counts, effect: str) -> Iterator[str]:
    for label, name, rate in ((1, "positives", "TPR"), (0, "negatives", "FPR")):
        if not counts[label, :2].any():
            without = " with a usable prediction" if counts[label].any() else ""
            yield f"{who} has no {name}{without}: {rate} undefined, {effect}"
