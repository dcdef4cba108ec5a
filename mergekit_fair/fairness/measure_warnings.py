"""Warnings of a measurement: what is undefined or left out, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import ceil

from mergekit_fair.fairness.clusters import FEW, Spread
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.eligible_groups import MAX_UNANSWERED, GroupSizes
from mergekit_fair.fairness.grouped import Counts
from mergekit_fair.fairness.intervals import MAX_UNDEFINED, Interval, Samples
from mergekit_fair.fairness.metric_kinds import Gap
from mergekit_fair.fairness.metrics import HEADLINE_GAPS, METRICS
from mergekit_fair.fairness.rates import EOD_RATES, is_degenerate, unanswered_rate
from mergekit_fair.fairness.settings import MetricSettings
from mergekit_fair.fairness.uncertainty import MAX_ROWS, cluster_members

_GAPS_AND_RATIOS = (
    ", ".join(metric.title for metric in METRICS.values() if isinstance(metric, Gap))
    + " and the ratios"
)
# Texts that str() makes of nothing, casefolded.
_NO_NAMES = frozenset(["", "nan", "na", "n/a", "<na>", "nat", "none", "null"])


def measurement_warnings(samples: Samples, intervals: Mapping[str, Interval]) -> Iterator[str]:
    """All warnings of a measurement: the table's, the groups', the intervals', the settings'."""
    names = samples.table.groups
    yield from weightless_warnings(samples.table.weightless)
    yield from nameless_warnings(names)
    yield from _missing_predictions(samples)
    yield from _table_warnings(samples)
    yield from _undefined_metrics(intervals)
    yield from _group_warnings(samples)
    yield from small_group_warnings(samples.eligible.sizes, samples.reference)
    yield from _against_few(samples)
    yield from interval_warnings(intervals)
    yield from draw_warnings(samples.settings)
    yield from cluster_warnings(samples.table, samples.spread)
    if samples.table.n >= MAX_ROWS:
        yield f"{MAX_ROWS:,} rows or more: gaps under permuted group labels are not drawn"


def _missing_predictions(samples: Samples) -> Iterator[str]:
    """Warn about missing predictions: whose, and what follows."""
    groups, overall, eligible = samples.rows.groups, samples.rows.overall, samples.eligible
    missing = int(overall[..., 2].sum())
    if not missing:
        return
    counts = groups[..., 2].sum(axis=-1)
    whose = ", ".join(
        f"{name} {count} of {size}"
        for name, count, size in zip(
            samples.table.groups, counts, groups.sum(axis=(-2, -1)), strict=True
        )
        if count
    )
    yield (
        f"{missing} of {overall.sum()} rows have no usable prediction"
        f"{f' ({whose})' if whose else ''}: wrong for accuracy, left out of rates"
    )
    if eligible.deciding.any() and not eligible.is_answered:
        shares = unanswered_rate(samples.counts.groups)[eligible.deciding]
        largest = max(shares.max(), unanswered_rate(samples.counts.overall))
        yield (
            f"predictions are missing for {largest:.1%} of a group or of all rows, more than "
            f"{MAX_UNANSWERED:.0%}: {_GAPS_AND_RATIOS} are undefined"
        )


def _table_warnings(samples: Samples) -> Iterator[str]:
    """Warn about the data set as a whole."""
    overall, eligible = samples.rows.overall, samples.eligible
    deciding = eligible.deciding
    if not overall[:, :2].any():
        yield "no row has a usable prediction: every rate is undefined"
    elif is_degenerate(samples.counts.overall):
        yield "predictions are (nearly) constant: small gaps say nothing about fairness"
    for label, name, rate in ((1, "positive", "TPR"), (0, "negative", "FPR")):
        if not overall[label].any():
            yield f"there are no {name} labels: {rate} and balanced accuracy are undefined"
        elif overall[:, :2].any() and not overall[label, :2].any():
            yield (
                f"no row with a {name} label has a usable prediction: {rate} and balanced accuracy "
                "are undefined"
            )
    if deciding.sum() < 2:
        yield (
            f"{deciding.sum()} usable group(s), two are needed: {_GAPS_AND_RATIOS} are undefined"
        )
        if not deciding.any():
            yield "no usable group: worst-group accuracy is undefined"
        return
    if eligible.is_answered:  # else said already
        yield from _incomparable(samples)


def _incomparable(samples: Samples) -> Iterator[str]:
    """Warn about an EOD that is undefined although DPD is not."""
    tpr, fpr = (line.any() for line in samples.eligible.comparable(EOD_RATES, samples.reference))
    if not tpr and not fpr:
        yield "EOD is undefined: neither TPR nor FPR can be compared between two usable groups"
    elif not tpr:
        yield "EOD is undefined: TPR cannot be compared between two usable groups"
    elif not fpr:
        yield "EOD is undefined: FPR cannot be compared between two usable groups"


def _undefined_metrics(intervals: Mapping[str, Interval]) -> Iterator[str]:
    """Warn about metrics that are undefined although rows and groups allow them."""
    for name, interval in intervals.items():
        where = METRICS[name].explained_where
        if where is not None and interval.value is None and intervals[where].value is not None:
            yield f"{name} is undefined: {METRICS[name].undefined}"


def _group_warnings(samples: Samples) -> Iterator[str]:
    """Warn about single groups: rates that are undefined."""
    rows, sizes = samples.rows, samples.eligible.sizes
    overall = rows.overall
    for name, counts, excluded in zip(sizes.names, rows.groups, sizes.excluded, strict=True):
        if not counts.any():
            yield f"group {name!r} has no rows: its rates are undefined, left out of every gap"
            continue
        if not counts[:, :2].any():
            yield f"group {name!r} has no usable prediction: its rates are undefined"
        elif excluded:
            yield from _missing_class(f"group {name!r}", counts, "not in EOD anyway")
        else:
            yield from _unanswered_class(name, counts)
        rest = overall - counts
        if not rest.any():
            yield f"group {name!r} holds every row: its one-vs-rest gaps are undefined"
        elif overall[1].any() and overall[0].any() and rest[:, :2].any():
            effect = f"left out of the one-vs-rest EOD of {name!r}"
            yield from _missing_class(f"the rest of group {name!r}", rest, effect)


def small_group_warnings(
    sizes: GroupSizes, reference: str = "between_groups", where: str = ""
) -> Iterator[str]:
    """Warn, once, about all groups that have too few rows for one of their rates to decide.

    Args:
        sizes: how many rows the groups have.
        reference: the rest of a group is looked at where gaps are those to it.
        where: which rows, such as "validation rows".
    """
    small = [
        f"{name!r} ({said})"
        for name, said in _too_few(sizes, with_rest=reference == "one_vs_rest").items()
    ]
    if not small:
        return
    said = f"too few rows to decide a gap (min_group_size {sizes.least}): {', '.join(small)}"
    lost = [
        metric.title
        for metric in HEADLINE_GAPS.values()
        if not sizes.deciding(metric.rates, reference).any(axis=-1).all()
    ]
    if where and lost:
        said += (
            f"; no two groups are left for {' and '.join(lost)}: lower min_group_size, merge "
            "groups, or take more rows"
        )
    yield f"{where}: {said}" if where else said


def _too_few(sizes: GroupSizes, *, with_rest: bool) -> dict[str, str]:
    """Group → what there is too little of; excluded groups and those without rows are left out."""
    found = {}
    for name, inside, outside, excluded in zip(
        sizes.names, sizes.inside.tolist(), sizes.outside.tolist(), sizes.excluded, strict=True
    ):
        if excluded or not sum(inside):
            continue
        said = _few(inside, sizes.least, "")
        if not said and with_rest:
            said = _few(outside, sizes.least, " outside it")
        if said:
            found[name] = said
    return found


def _few(by_label: list[int], least: int, of: str) -> str:
    """What there are fewer than `least` of: rows, or positive or negative ones; "" if nothing."""
    negative, positive = by_label
    if negative + positive < least:
        none = ", none positive" if not positive else ", none negative" if not negative else ""
        return f"{_rows(negative + positive)}{of}{none}"
    few = [
        f"{_rows(count, name)}{of}: too few for {rate}"
        for count, name, rate in ((positive, "positive", "TPR"), (negative, "negative", "FPR"))
        if count < least
    ]
    return ", ".join(few)


def _rows(count: int, kind: str = "") -> str:
    return f"{count}{f' {kind}' * bool(kind)} row{'s' * (count != 1)}"


def _against_few(samples: Samples) -> Iterator[str]:
    """Warn where the group that all others are compared with is a small one."""
    name, sizes = samples.settings.against, samples.eligible.sizes
    if name not in sizes.names:
        return
    n = int(sizes.inside[sizes.names.index(name)].sum())
    if n < sizes.least:
        yield (
            f"every difference from {name!r} rests on its {_rows(n)}, fewer than min_group_size "
            f"{sizes.least}"
        )


def cluster_warnings(table: CountTable, spread: Spread | None) -> Iterator[str]:
    """Warn about few clusters, of all rows or of a group, and about what is not drawn of them."""
    if spread is None:
        return
    total, *of_groups = spread.present.tolist()
    names = zip(table.groups, of_groups, strict=True)
    few = [f"{name!r} ({count})" for name, count in names if 0 < count < FEW]
    if total < FEW:
        yield f"{total} clusters, fewer than {FEW}: intervals are a rough guide"
    elif few:
        yield f"fewer than {FEW} clusters, intervals are a rough guide: {', '.join(few)}"
    if cluster_members(table) is None:
        yield (
            "some clusters have rows of several groups: nothing says which rows could change "
            "places, and gaps under permuted group labels are not drawn"
        )


def weightless_warnings(rows: int) -> Iterator[str]:
    """Warn about rows that stand for nobody."""
    if rows:
        yield f"{rows} rows have weight 0: left out"


def nameless_warnings(names: Iterable[str]) -> Iterator[str]:
    """Warn about groups that are called as programs write a missing value."""
    for name in names:
        if name.strip().casefold() in _NO_NAMES:
            yield (
                f"group {name!r} is called as a missing value is written: if it is one, "
                "give None or an empty list for its rows"
            )


def interval_warnings(intervals: Mapping[str, Interval]) -> Iterator[str]:
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


def draw_warnings(settings: MetricSettings) -> Iterator[str]:
    """Warn where the bootstrap has not one draw in each tail."""
    needed = ceil(2 / (1 - settings.confidence) - 1e-6)
    if settings.draws < needed:
        yield (
            f"{settings.draws} bootstrap draws are too few for a confidence of "
            f"{settings.confidence}: use "
            f"{needed:,} or more"
        )


def _unanswered_class(name: str, counts: Counts) -> Iterator[str]:
    for label, label_name, rate in ((1, "positives", "TPR"), (0, "negatives", "FPR")):
        if counts[label].any() and not counts[label, :2].any():
            yield (
                f"group {name!r} has no {label_name} with a usable prediction: {rate} undefined, "
                "and EOD with it if the group is large enough to decide"
            )


def _missing_class(who: str, counts: Counts, effect: str) -> Iterator[str]:
    for label, name, rate in ((1, "positives", "TPR"), (0, "negatives", "FPR")):
        if not counts[label, :2].any():
            without = " with a usable prediction" if counts[label].any() else ""
            yield f"{who} has no {name}{without}: {rate} undefined, {effect}"
