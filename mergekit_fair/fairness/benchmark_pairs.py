"""Two models on the same documents of a benchmark: differences with intervals and p-values.

    a score            b − a ± t · √(Σ_k (move_b − move_a)² + unseen), both models without cluster k
    max − min          test inversion, as of DPD (`inversion`)

Documents are the same, so that what one template does to both models cancels. What was not seen:
two documents more, on which the models differ, one in each direction (Agresti & Min 2005), and a
tenth of a cluster. Where models answer alike in all templates, one that was not drawn may still
tell them apart; a whole cluster would make every interval of a dozen templates as wide as if
nothing had been seen (`benchmarks/cluster_intervals.py`, docs/audit.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.benchmark import BenchmarkMetric, BenchmarkRows, ClusterSums
from mergekit_fair.fairness.benchmark_scores import deciding_estimates, group_sums, range_of
from mergekit_fair.fairness.clusters import Codes
from mergekit_fair.fairness.extremes import RateRange
from mergekit_fair.fairness.inversion import ExtremeEstimate, inverted
from mergekit_fair.fairness.jackknife import Estimate
from mergekit_fair.fairness.pair import Difference
from mergekit_fair.fairness.rates import Values
from mergekit_fair.fairness.settings import MetricSettings

_ROUNDING = 1e-12  # of sums: less is no difference


@dataclass(frozen=True)
class BenchmarkDifferences:
    """Of two models, b − a.

    Attributes:
        metrics: name → difference, ranges included.
        groups: group → metric → the same of the documents about it.
        near_0: the ranges that may be 0 in both models, by their own intervals.
    """

    metrics: dict[str, Difference]
    groups: dict[str, dict[str, Difference]]
    near_0: frozenset[str] = frozenset()


def compare_benchmark(
    a: BenchmarkRows, b: BenchmarkRows, settings: MetricSettings
) -> BenchmarkDifferences:
    """b minus a in every score.

    Args:
        a, b: the same documents in the same order.
        settings: as in `measure_benchmark`.

    Raises:
        MeasurementError: other documents, groups or clusters.

    >>> from mergekit_fair.fairness.benchmark import Benchmark, mean_of
    >>> acc = Benchmark("tiny", (mean_of("acc", "accuracy", better="higher"),))
    >>> a, b = (
    ...     BenchmarkRows.of(acc, [{"acc": right} for right in answers * 25], ["x"] * 100)
    ...     for answers in ([1, 0, 1, 0], [1, 1, 1, 0])
    ... )
    >>> found = compare_benchmark(a, b, MetricSettings()).metrics["acc"]
    >>> found.value, found.low > 0, found.p_value < 0.001
    (0.25, True, True)
    """
    _require_same(a, b)
    confidence, metrics = settings.confidence, {}
    near_0: set[str] = set()
    sums, by_group = (a.sums(), b.sums()), (group_sums(a), group_sums(b))
    for metric in a.benchmark.metrics:
        metrics[metric.name] = _difference(metric, *sums, confidence)
    for metric in a.benchmark.ranges:
        first, second = (
            deciding_estimates(metric, rows, of, settings)
            for rows, of in zip((a, b), by_group, strict=True)
        )
        metrics[metric.range_name] = _difference_of_ranges(metric, first, second, settings)
        own = [range_of(metric, each, len(a), settings) for each in (first, second)]
        if not any(each.low for each in own):
            near_0.add(metric.range_name)
    return BenchmarkDifferences(
        metrics,
        {
            name: {
                metric.name: _difference(metric, by_group[0][name], by_group[1][name], confidence)
                for metric in a.benchmark.metrics
                if metric.by_group
            }
            for name in a.groups.names
        },
        frozenset(near_0),
    )


def _require_same(a: BenchmarkRows, b: BenchmarkRows) -> None:
    same = (
        a.benchmark.name == b.benchmark.name
        and a.benchmark.columns == b.benchmark.columns
        and a.keys == b.keys
        and a.groups.names == b.groups.names
        and np.array_equal(a.groups.membership, b.groups.membership)
        and _alike(a.clusters, b.clusters)
        and np.array_equal(a.weights, b.weights)
    )
    if not same:
        raise MeasurementError(
            "two models must have answered the same documents, about the same groups and of the "
            "same clusters",
            where=f"benchmark {a.benchmark.name}",
            fix="evaluate both with the same split, limit and data",
        )


def _alike(a: Codes | None, b: Codes | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _difference(
    metric: BenchmarkMetric, a: ClusterSums, b: ClusterSums, confidence: float
) -> Difference:
    value = b.score(metric) - a.score(metric)
    if np.isnan(value):
        return Difference()
    first, second = a.estimate(metric), b.estimate(metric)
    if first is None or second is None:
        return Difference(value=value)
    from scipy.special import stdtr, stdtrit

    variance = float(((second.moves - first.moves) ** 2).sum()) + a.unseen(metric)
    error = float(np.sqrt(variance)) * metric.width
    freedom = max(min(*first.sizes, *second.sizes) - 1, 1.0)
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    p_value = 1.0
    if abs(value) > _ROUNDING:  # without an error where every cluster moves alike
        p_value = min(1.0, 2 * float(stdtr(freedom, -abs(value) / error if error else -np.inf)))
    largest = metric.limits[1] - metric.limits[0]
    low, high = max(value - reach, -largest), min(value + reach, largest)
    return Difference(value=value, low=low, high=high, p_value=p_value)


def _difference_of_ranges(
    metric: BenchmarkMetric,
    a: dict[str, Estimate],
    b: dict[str, Estimate],
    settings: MetricSettings,
) -> Difference:
    names = [name for name in a if name in b]
    if len(names) < 2:
        return Difference()
    models = [[model[name] for name in names] for model in (a, b)]
    # The figures decide which is the first, so that (a, b) and (b, a) are drawn alike.
    is_turned = [one.value for one in models[0]] > [one.value for one in models[1]]
    each = [one for model in (models[::-1] if is_turned else models) for one in model]
    moves = np.stack([one.moves for one in each])
    covariance = moves @ moves.T + np.diag([one.extra for one in each])
    drawn = np.random.default_rng(settings.seed).standard_normal((len(each), settings.draws))
    errors = np.linalg.cholesky(covariance) @ drawn
    errors -= errors.mean(axis=1, keepdims=True)
    parts = np.s_[: len(names)], np.s_[len(names) :]
    first, second = (_extreme(each[part], errors[part]) for part in parts)
    low, high, p_value = inverted(first, second, settings.confidence)
    value = second.value - first.value
    if is_turned:
        value, low, high = -value, -high, -low
    ends = (end * metric.width for end in (value, low, high))
    return Difference(**dict(zip(("value", "low", "high"), ends, strict=True)), p_value=p_value)


def _extreme(each: list[Estimate], errors: Values) -> ExtremeEstimate:
    values = np.array([one.value for one in each])
    sizes = np.array([min(one.sizes) for one in each])
    rates = (values * sizes + 0.5) / (sizes + 1)
    return ExtremeEstimate(RateRange((len(each),)), values, errors, rates, rates - values)
