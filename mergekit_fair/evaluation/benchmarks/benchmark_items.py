"""A benchmark's documents as lm-eval sees them: items of metrics, their aggregations, samples.

lm-eval wants a value of every metric for every document. That of a mean is the number, that of
another score the list of the columns that it reads, null where the document says nothing about one;
that of a range is a list that has the document's groups and its cluster besides. From the samples
of any run the rows are read back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.aggregations import by_size
from mergekit_fair.evaluation.documents import answer_kind
from mergekit_fair.evaluation.predictions import clusters_of, require_one_filter, weights_of
from mergekit_fair.fairness import METRICS
from mergekit_fair.fairness.benchmark import Benchmark, BenchmarkMetric, BenchmarkRows, mean_of
from mergekit_fair.fairness.benchmark_scores import measure_benchmark
from mergekit_fair.fairness.metrics import GROUP_RATES
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.fairness.settings import MIN_GROUP_SIZE, MetricSettings

KEY = "benchmark"
"""Of a document: the name of its benchmark."""

# Modules of this folder. A file of samples names one, and imports nothing else.
_KNOWN = (
    "bbq",
    "bbq_generate",
    "crows_pairs",
    "discrim_eval",
    "stereoset",
    "winobias",
    "winogender_gotcha",
)
MEANS = "means"
_PREFERENCE = "preference_gap"

Columns = Mapping[str, float | None]


def benchmark_named(name: str) -> Benchmark:
    """A benchmark of this folder.

    Raises:
        MeasurementError: there is none of this name.
    """
    if name not in _KNOWN:
        raise MeasurementError(
            "is no benchmark", where="benchmark", got=name, allowed=sorted(_KNOWN)
        )
    module = import_module(f"mergekit_fair.evaluation.benchmarks.{name}")
    found = module.BENCHMARK
    assert isinstance(found, Benchmark)
    return found


def items(
    benchmark: Benchmark, columns: Columns, groups: Sequence[str], cluster: str
) -> dict[str, Any]:
    """What a document gives every metric."""
    read = {m.name: [columns.get(name) for name in m.reads] for m in benchmark.metrics}
    ranges = {
        m.range_name: [*(columns.get(name) for name in m.reads), list(groups), cluster]
        for m in benchmark.ranges
    }
    return {name: each if len(each) > 1 else each[0] for name, each in read.items()} | ranges


def metric_rows(benchmark: Benchmark) -> list[dict[str, Any]]:
    """As in a task's `metric_list`."""
    rows = [
        {"metric": metric.name, "aggregation": score_aggregation(benchmark, metric.name)}
        for metric in benchmark.metrics
    ]
    rows += [
        {"metric": metric.range_name, "aggregation": range_aggregation(benchmark, metric.name)}
        for metric in benchmark.ranges
    ]
    better = benchmark.better
    return [{**row, "higher_is_better": better[str(row["metric"])] == "higher"} for row in rows]


def score_aggregation(benchmark: Benchmark, name: str) -> Callable[[Sequence[Any]], float]:
    """The score of items; NaN where it is undefined."""
    metric = next(each for each in benchmark.metrics if each.name == name)

    def aggregate(items: Sequence[Any]) -> float:
        columns = [dict(zip(metric.reads, _listed(item), strict=True)) for item in items]
        rows = BenchmarkRows.of(benchmark, columns, [None] * len(items))
        return rows.sums(by_row=True).score(metric)

    aggregate.__name__ = aggregate.__qualname__ = name
    return aggregate


def range_aggregation(
    benchmark: Benchmark, name: str, least: int = MIN_GROUP_SIZE
) -> Callable[[Sequence[Any]], float]:
    """max − min of a score over the groups that have `least` documents; NaN without two."""
    metric = next(each for each in benchmark.ranges if each.name == name)
    alone = Benchmark(benchmark.name, (metric,))

    def aggregate(items: Sequence[Sequence[Any]]) -> float:
        columns = [dict(zip(metric.reads, item[:-2], strict=True)) for item in items]
        groups, clusters = ([item[at] for item in items] for at in (-2, -1))
        rows = BenchmarkRows.of(alone, columns, groups, clusters)
        settings = MetricSettings(min_group_size=least, draws=1)
        value = measure_benchmark(rows, settings).metrics[metric.range_name].value
        return math.nan if value is None else value

    aggregate.__name__ = aggregate.__qualname__ = metric.range_name
    return by_size(aggregate, lambda least: range_aggregation(benchmark, name, least))


def metric_names(task: Any) -> set[str]:
    """The names of all figures that a task of lm-eval has, once it is evaluated.

    Args:
        task: built.
    """
    names = set(task.aggregation())
    if "dpd" in names:
        return set(METRICS)
    if "macro_dpd" in names:
        return set(MULTI_METRICS)
    benchmark = getattr(task, "benchmark", None)
    if _PREFERENCE in names:
        benchmark = benchmark_named("crows_pairs")
    return names if benchmark is None else set(benchmark.better)


def metrics_by_group(task: Any) -> set[str]:
    """The same of the figures that every group has; of classes and labels such as `hate.tpr`."""
    names = set(task.aggregation())
    if "dpd" in names:
        return set(GROUP_RATES)
    if "macro_dpd" in names:
        first = task.eval_docs[0]
        return {f"{view}.{rate}" for view in first[answer_kind(first)] for rate in GROUP_RATES}
    benchmark = getattr(task, "benchmark", None)
    if _PREFERENCE in names:
        benchmark = benchmark_named("crows_pairs")
    return set() if benchmark is None else {m.name for m in benchmark.metrics if m.by_group}


def directions(task: Any) -> dict[str, str]:
    """Metric → `higher` or `lower`, of a task of others that says which is better."""
    said = task.higher_is_better()
    return {name: "higher" if up else "lower" for name, up in said.items() if up is not None}


def benchmark_rows(task: str, samples: Sequence[Mapping[str, Any]]) -> BenchmarkRows | None:
    """The rows of a task's samples, whose scores are those of its benchmark.

    Of a task that is about no groups, every metric that is a number in [0, 1] of each document is a
    score, such as `acc`; None if there is none. Where it has several filters, the first one's.

    Args:
        task: its name.
        samples: lm-eval's.

    Raises:
        MeasurementError: several filters of a benchmark, or no known one.
    """
    first = samples[0].get("doc") or {}
    if KEY in first or _PREFERENCE in samples[0]:
        require_one_filter(task, samples)
    else:
        samples = [each for each in samples if each.get("filter") == samples[0].get("filter")]
    groups: list[Any] = [None] * len(samples)
    columns: list[dict[str, Any]]
    if KEY in first:
        benchmark = benchmark_named(str(first[KEY]))
        columns = [
            {
                name: value
                for metric in benchmark.metrics
                for name, value in zip(metric.reads, _item(sample, metric, task), strict=True)
            }
            for sample in samples
        ]
        groups = [sample["doc"]["groups"] for sample in samples]
    elif _PREFERENCE in samples[0]:
        benchmark = benchmark_named("crows_pairs")
        answered = [sample[_PREFERENCE] for sample in samples]
        columns = [{"pct_stereotype": preferred} for preferred, _ in answered]
        groups = [kind for _, kind in answered]
    else:
        listed = samples[0].get("metrics") or ()
        names = [name for name in listed if all(_is_share(s.get(name)) for s in samples)]
        if not names:
            return None
        benchmark = means_benchmark(names)
        columns = [{name: sample[name] for name in names} for sample in samples]
    return BenchmarkRows.of(
        benchmark,
        columns,
        groups,
        clusters_of(samples, task),
        weights_of(samples, task),
        [(sample["doc_id"], sample.get("doc_hash")) for sample in samples],
    )


def means_benchmark(names: Sequence[str]) -> Benchmark:
    """Of a task that is about no groups: its own means.

    >>> means_benchmark(["acc"]).columns
    ('acc',)
    """
    return Benchmark(MEANS, tuple(mean_of(name, name, better="higher") for name in names))


def _listed(item: Any) -> Sequence[Any]:
    return item if isinstance(item, (list, tuple)) else [item]


def _item(sample: Mapping[str, Any], metric: BenchmarkMetric, task: str) -> Sequence[Any]:
    item = _listed(sample.get(metric.name))
    if len(item) != len(metric.reads) or not all(_is_column(value) for value in item):
        raise MeasurementError(
            f"sample {sample.get('doc_id')} does not say its {metric.name}",
            where=task,
            got=sample.get(metric.name),
            allowed=f"a number or null of {', '.join(metric.reads)}",
        )
    return item


def _is_column(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and math.isfinite(value))


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1
