"""One model on a benchmark: every score with its interval, of all documents and by group.

Intervals are Wilson's of as many documents as would be as sure as the jackknife says, at the
level that Student's t of so many clusters has (`jackknife.Estimate.interval`); those of max − min
over groups are conservative ones, as of any gap (`jackknife.range_interval`). A group decides a
range if it has `min_group_size` documents from at least `MIN_CLUSTERS` clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_serializer

from mergekit_fair.fairness.benchmark import BenchmarkMetric, BenchmarkRows, ClusterSums
from mergekit_fair.fairness.clusters import FEW
from mergekit_fair.fairness.deciding import Deciding, ends
from mergekit_fair.fairness.intervals import Interval
from mergekit_fair.fairness.jackknife import Estimate, range_interval
from mergekit_fair.fairness.measurement import without_unsaid
from mergekit_fair.fairness.settings import MetricSettings
from mergekit_fair.schema import Record

MIN_CLUSTERS = 5


class GroupScores(Record):
    """Of the documents about one group.

    Attributes:
        n, clusters: how many; no clusters where every document is its own.
        metrics: name → score with its interval.
    """

    n: int
    clusters: int | None = None
    metrics: dict[str, Interval]

    @model_serializer(mode="wrap")
    def _stated(self, serialize: Any) -> dict[str, Any]:
        return without_unsaid(serialize(self))


class BenchmarkMeasurement(Record):
    """Scores of one model on a benchmark.

    Attributes:
        benchmark: its name, which says what the scores are.
        n: documents.
        weighted: they count for more than one, or less.
        clusters: what is sampled independently; None: documents are.
        metrics: name → score, those that are max − min over groups included.
        if_rows_were_independent: name → the interval that documents would have as independent
            rows; empty without clusters.
        groups: group → its scores.
        deciding: range → the groups that make it.
        warnings: what is undefined or left out, and why.
    """

    benchmark: str
    n: int
    weighted: bool = False
    clusters: int | None = None
    metrics: dict[str, Interval]
    if_rows_were_independent: dict[str, Interval] = {}
    groups: dict[str, GroupScores] = {}
    deciding: dict[str, Deciding] = {}
    warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_serializer(mode="wrap")
    def _stated(self, serialize: Any) -> dict[str, Any]:
        return without_unsaid(serialize(self))


def measure_benchmark(rows: BenchmarkRows, settings: MetricSettings) -> BenchmarkMeasurement:
    """Every score of a benchmark, with its interval.

    Args:
        rows: the documents, answered.
        settings: confidence, min_group_size, exclude, draws and seed; no reference is used.

    >>> from mergekit_fair.fairness.benchmark import Benchmark, mean_of
    >>> acc = mean_of("acc", "accuracy", better="higher", by_group=True, range_title="range")
    >>> rows = BenchmarkRows.of(
    ...     Benchmark("tiny", (acc,)), [{"acc": 1}, {"acc": 1}, {"acc": 0}, {"acc": 1}] * 20,
    ...     ["a", "a", "b", "b"] * 20,
    ... )
    >>> measured = measure_benchmark(rows, MetricSettings())
    >>> measured.metrics["acc"].value, measured.metrics["acc_range"].value
    (0.75, 0.5)
    >>> measured.deciding["acc_range"].highest
    'a'
    """
    benchmark, confidence = rows.benchmark, settings.confidence
    every, groups = rows.sums(), group_sums(rows)
    metrics = {each.name: interval_of(each, every, confidence) for each in benchmark.metrics}
    deciding = {}
    for metric in benchmark.ranges:
        estimates = deciding_estimates(metric, rows, groups, settings)
        metrics[metric.range_name] = range_of(metric, estimates, len(rows), settings)
        values = np.array([one.value for one in estimates.values()])
        if apart := ends(tuple(estimates), values):
            deciding[metric.range_name] = Deciding(highest=apart[0], lowest=apart[1])
    by_row = rows.sums(by_row=True) if rows.clusters is not None else None
    by_group = [metric for metric in benchmark.metrics if metric.by_group]
    return BenchmarkMeasurement(
        benchmark=benchmark.name,
        n=len(rows),
        weighted=bool(np.ptp(rows.weights)),
        clusters=rows.n_clusters,
        metrics=metrics,
        if_rows_were_independent={}
        if by_row is None
        else {each.name: interval_of(each, by_row, confidence) for each in benchmark.metrics},
        groups={
            name: GroupScores(
                n=int(inside.sum()),
                clusters=None if rows.clusters is None else len(np.unique(rows.clusters[inside])),
                metrics={each.name: interval_of(each, sums, confidence) for each in by_group},
            )
            for (name, sums), inside in zip(groups.items(), rows.groups.membership.T, strict=True)
        },
        deciding=deciding,
        warnings=tuple(_warnings(rows, metrics, settings)),
    )


def group_sums(rows: BenchmarkRows) -> dict[str, ClusterSums]:
    """Group → sums of the documents about it."""
    columns = zip(rows.groups.names, rows.groups.membership.T, strict=True)
    return {name: rows.sums(inside) for name, inside in columns}


def interval_of(metric: BenchmarkMetric, sums: ClusterSums, confidence: float) -> Interval:
    """A score with its interval; without limits where one cluster alone makes it."""
    value = sums.score(metric)
    if np.isnan(value):
        return Interval()
    estimate = sums.estimate(metric)
    if estimate is None:
        return Interval(value=value)
    return _scaled(metric, estimate.interval(confidence), value)


def deciding_estimates(
    metric: BenchmarkMetric,
    rows: BenchmarkRows,
    groups: dict[str, ClusterSums],
    settings: MetricSettings,
) -> dict[str, Estimate]:
    """Group → its score as a share of the bounds, of the groups that decide the range.

    How far it moves is stretched by what Student's t of its effective clusters is beyond the
    normal, so that a group of few clusters makes no other one less sure.
    """
    found = {}
    for (name, sums), size in zip(groups.items(), rows.groups.membership.sum(axis=0), strict=True):
        is_meant = metric.among is None or name in metric.among
        if not is_meant or name in settings.exclude or size < settings.min_group_size:
            continue
        estimate = sums.estimate(metric)
        is_enough = estimate is not None and (
            not sums.is_clustered or min(estimate.sizes) >= MIN_CLUSTERS
        )
        if estimate is not None and is_enough:
            found[name] = _stretched(estimate, settings.confidence)
    return found


def _stretched(estimate: Estimate, confidence: float) -> Estimate:
    if not estimate.is_clustered:
        return estimate
    from scipy.special import ndtri, stdtrit

    half = (1 + confidence) / 2
    factor = float(stdtrit(min(estimate.sizes) - 1, half) / ndtri(half))
    return replace(estimate, moves=estimate.moves * factor)


def range_of(
    metric: BenchmarkMetric, estimates: dict[str, Estimate], n: int, settings: MetricSettings
) -> Interval:
    """max − min of a score over the groups that decide, with its interval.

    Args:
        estimates: of `deciding_estimates`.
        n: documents.
    """
    each = list(estimates.values())
    values = [one.value for one in each]
    found = range_interval(each.__getitem__, values, n, settings)
    if found.value is None:
        return found
    return Interval(
        value=found.value * metric.width,
        low=None if found.low is None else found.low * metric.width,
        high=None if found.high is None else found.high * metric.width,
    )


def _scaled(metric: BenchmarkMetric, share: Interval, value: float) -> Interval:
    """Limits of a share of the bounds as those of the score itself."""
    assert share.low is not None
    assert share.high is not None
    assert share.value is not None
    low, high = metric.limits
    return Interval(
        value=value,
        low=max(low, value + (share.low - share.value) * metric.width),
        high=min(high, value + (share.high - share.value) * metric.width),
    )


def _warnings(
    rows: BenchmarkRows, metrics: dict[str, Interval], settings: MetricSettings
) -> Iterator[str]:
    if rows.n_clusters is not None and rows.n_clusters < FEW:
        yield f"{rows.n_clusters} clusters, fewer than {FEW}: intervals are a rough guide"
    if silent := int(np.isnan(rows.values).all(axis=1).sum()):
        yield f"{silent} of {len(rows)} documents have no answer, and are left out"
    undefined = [
        metric.range_name
        for metric in rows.benchmark.ranges
        if metrics[metric.range_name].value is None
    ]
    if undefined:
        clusters = "" if rows.clusters is None else f" from {MIN_CLUSTERS} clusters"
        yield (
            f"fewer than two groups have {settings.min_group_size} documents{clusters}: undefined "
            f"are {', '.join(undefined)}"
        )
    for metric in rows.benchmark.metrics:
        found = metrics[metric.name]
        if found.value is None:
            yield f"{metric.name}: no document says anything about it"
        elif found.low is None:
            yield f"{metric.name}: one cluster alone decides it, whose spread cannot be seen"
