"""Benchmarks: scores that are formulas of means, and how far each moves without a cluster.

A document says something about some *columns* (was the answer right, was it the stereotyped one)
and nothing about others. A score is a formula of the columns' means:

    BBQ      s_AMB = (1 − mean(right)) · (2 mean(biased | not "unknown") − 1)

So one table of sums by cluster has all that is needed: of all documents, of every group, and of
all but one cluster. The delete-one-cluster jackknife is exact for any such formula,

    variance = (K − 1) / K · Σ_k (score − score without cluster k)²

and needs no resampling. Documents of one template are no independent rows (METHODS §9): BBQ's
58,492 come from 343 templates. Source of the jackknife: Efron & Stein (1981), with clusters as in
Rao & Wu (1988).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.clusters import Codes, cluster_codes
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.fairness.jackknife import Estimate, Unbounded
from mergekit_fair.fairness.rates import Mask, Values
from mergekit_fair.fairness.weights import row_weights

_UNSEEN = 0.1  # of a cluster

Means = Mapping[str, Values]
"""Column → its mean, (...,): NaN where no document says anything about it."""

Better = Literal["higher", "lower", "zero", "half"]


@dataclass(frozen=True)
class BenchmarkMetric:
    """A score of a benchmark.

    Attributes:
        name: in files.
        title: in tables.
        formula: means of columns → the score; element by element, for arrays of any shape.
        reads: the columns whose means it takes.
        better: `zero` for a bias of either sign, `half` for a share that is best at 0.5.
        bounds: what it can be; None: any number, whose interval is Student's t.
        by_group: also of every group.
        range_title: title of max − min over the groups, which is reported as `NAME_range`; None
            if it is not. Bounded scores alone have one.
        among: the groups that this is over; None: all.
    """

    name: str
    title: str
    formula: Callable[[Means], Values]
    reads: tuple[str, ...]
    better: Better
    bounds: tuple[float, float] | None = (0.0, 1.0)
    by_group: bool = False
    range_title: str | None = None
    among: tuple[str, ...] | None = None

    @property
    def range_name(self) -> str:
        """`NAME_range`."""
        return f"{self.name}_range"

    @property
    def limits(self) -> tuple[float, float]:
        """Its bounds, infinite ones without."""
        return (-np.inf, np.inf) if self.bounds is None else self.bounds

    @property
    def width(self) -> float:
        """What its estimates are shares of: its bounds, or 1."""
        return 1.0 if self.bounds is None else self.bounds[1] - self.bounds[0]


def mean_of(column: str, title: str, **options: Any) -> BenchmarkMetric:
    """The plain mean of a column of the same name.

    >>> mean_of("acc", "accuracy", better="higher").formula({"acc": np.array([0.5])})
    array([0.5])
    """
    return BenchmarkMetric(column, title, lambda means: means[column], (column,), **options)


@dataclass(frozen=True)
class Benchmark:
    """What is measured of a kind of document.

    Attributes:
        name: in files.
        metrics: in the order of tables.
        group_title: what its groups are.
        ranges_alone: scores of which max − min over groups is reported, and nothing else; they
            read no other columns.
    """

    name: str
    metrics: tuple[BenchmarkMetric, ...]
    group_title: str = "group"
    ranges_alone: tuple[BenchmarkMetric, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All that its metrics read."""
        return tuple(dict.fromkeys(column for metric in self.metrics for column in metric.reads))

    @property
    def ranges(self) -> tuple[BenchmarkMetric, ...]:
        """The metrics of which max − min over the groups is reported."""
        own = (metric for metric in self.metrics if metric.range_title is not None)
        return (*own, *self.ranges_alone)

    @property
    def better(self) -> dict[str, str]:
        """Every reported name, ranges included, → which figures of it are better."""
        own = {metric.name: str(metric.better) for metric in self.metrics}
        return own | {metric.range_name: "lower" for metric in self.ranges}


@dataclass(frozen=True, eq=False)
class BenchmarkRows:
    """n documents of a benchmark, answered.

    Attributes:
        benchmark: whose columns they have.
        keys: (n,), which documents they are.
        values: float64 (n, C), by column; NaN where a document says nothing about it.
        groups: whom they are about.
        clusters: int64 (n,); None: each is its own.
        weights: (n,), what each counts for.
    """

    benchmark: Benchmark
    keys: tuple[Any, ...]
    values: Values
    groups: Groups
    clusters: Codes | None
    weights: Values

    @classmethod
    def of(
        cls,
        benchmark: Benchmark,
        columns: Sequence[Mapping[str, float | None]],
        groups: Any,
        clusters: Any = None,
        weights: ArrayLike | None = None,
        keys: Sequence[Any] | None = None,
    ) -> BenchmarkRows:
        """Read documents.

        Args:
            benchmark: what they are measured by.
            columns: of every document, column → number; None or absent: it says nothing about it.
            groups, clusters, weights: as in `measure`.
            keys: which they are; None: their numbers.

        Raises:
            MeasurementError: no documents, an unknown column, or a number that is not finite.

        >>> acc = Benchmark("tiny", (mean_of("acc", "accuracy", better="higher"),))
        >>> BenchmarkRows.of(acc, [{"acc": 1}, {}], ["a", "b"]).values.tolist()
        [[1.0], [nan]]
        """
        names = benchmark.columns
        values = np.full((len(columns), len(names)), np.nan)
        place = {name: column for column, name in enumerate(names)}
        for row, said in enumerate(columns):
            for name, value in said.items():
                if name not in place:
                    raise MeasurementError(
                        f"document {row} has an unknown column {name!r}",
                        where=f"benchmark {benchmark.name}",
                        allowed=names,
                    )
                if value is not None:
                    values[row, place[name]] = value
        members = Groups.of(groups, len(columns)).by_name()
        if np.isinf(values).any():
            raise MeasurementError(
                f"document {int(np.isinf(values).any(axis=1).argmax())} has a number that is "
                "infinite",
                where=f"benchmark {benchmark.name}",
            )
        return cls(
            benchmark,
            tuple(range(len(columns)) if keys is None else keys),
            values,
            members,
            cluster_codes(clusters, len(columns)),
            np.ones(len(columns)) if weights is None else row_weights(weights, len(columns)),
        )

    def __len__(self) -> int:
        return len(self.values)

    def only(self, columns: Collection[str]) -> BenchmarkRows:
        """The same documents, and the scores that read these columns alone."""
        metrics, ranges = (
            tuple(metric for metric in listed if set(metric.reads) <= set(columns))
            for listed in (self.benchmark.metrics, self.benchmark.ranges_alone)
        )
        benchmark = replace(self.benchmark, metrics=metrics, ranges_alone=ranges)
        kept = [self.benchmark.columns.index(name) for name in benchmark.columns]
        return replace(self, benchmark=benchmark, values=self.values[:, kept])

    def in_order(self, keys: Sequence[Any]) -> BenchmarkRows:
        """The same documents in another order.

        Raises:
            MeasurementError: those are other documents.
        """
        row_of = {key: row for row, key in enumerate(self.keys)}
        if set(keys) != set(row_of) or len(keys) != len(self):
            raise MeasurementError(
                "not the same documents: another split, limit or version of the data",
                where=f"benchmark {self.benchmark.name}",
                got=f"{len(set(keys) & set(row_of))} in common of {len(self)} and {len(keys)}",
                fix="evaluate both with the same split, limit and data",
            )
        order = np.array([row_of[key] for key in keys])
        codes = None if self.clusters is None else cluster_codes(self.clusters[order], len(order))
        members = Groups(self.groups.names, self.groups.membership[order])
        rows = self.values[order], members, codes, self.weights[order]
        return BenchmarkRows(self.benchmark, tuple(keys), *rows)

    @property
    def n_clusters(self) -> int | None:
        """None where every document is its own."""
        return None if self.clusters is None else int(self.clusters.max()) + 1

    def sums(self, chosen: Mask | None = None, *, by_row: bool = False) -> ClusterSums:
        """Of all documents, or of those that bool (n,) says.

        Args:
            by_row: as if documents were independent.
        """
        codes = self.clusters if not by_row else None
        if codes is None:
            codes = np.arange(len(self), dtype=np.int64)
        weights = self.weights if chosen is None else self.weights * chosen
        known = ~np.isnan(self.values)
        size = int(codes.max()) + 1

        def summed(columns: Values) -> Values:
            by_column = [np.bincount(codes, column, size) for column in columns.T]
            return np.stack(by_column, axis=1).astype(np.float64)

        weight = summed(known * weights[:, np.newaxis])
        total = summed(np.where(known, self.values, 0.0) * weights[:, np.newaxis])
        is_clustered = self.clusters is not None and not by_row
        return ClusterSums(self.benchmark.columns, total, weight, is_clustered)


@dataclass(frozen=True, eq=False)
class ClusterSums:
    """What K clusters hold of C columns.

    Attributes:
        columns: their names.
        totals: float64 (K, C), sums of weighted values.
        weights: (K, C), of the documents that say something.
        is_clustered: they are not single documents.
    """

    columns: tuple[str, ...]
    totals: Values
    weights: Values
    is_clustered: bool

    def score(self, metric: BenchmarkMetric) -> float:
        """NaN where it is undefined."""
        return float(self._of(metric, self.totals.sum(axis=0), self.weights.sum(axis=0)))

    def sizes(self, metric: BenchmarkMetric) -> tuple[float, ...]:
        """Effective clusters (Σ w)² / Σ w² behind each column that a metric reads (Kish 1965)."""
        of = self.weights[:, [self.columns.index(name) for name in metric.reads]]
        squares = (of**2).sum(axis=0)
        return tuple((of.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1.0)).tolist())

    def moves(self, metric: BenchmarkMetric) -> Values:
        """(K,): how far the score moves when a cluster comes back that was left out; their squares
        add up to the variance. NaN where the rest has no score."""
        without = (sums.sum(axis=0) - sums for sums in (self.totals, self.weights))
        apart = self.score(metric) - self._of(metric, *without)
        reads = [self.columns.index(name) for name in metric.reads]
        is_there = self.weights[:, reads].any(axis=1)
        count = max(int(is_there.sum()), 1)
        moved: NDArray[np.float64] = np.where(is_there, apart * np.sqrt((count - 1) / count), 0.0)
        return moved

    def estimate(self, metric: BenchmarkMetric) -> Estimate | None:
        """The score as a share of its bounds, without any the score itself; None where it, or its
        spread, is undefined."""
        value, moves = self.score(metric), self.moves(metric)
        if np.isnan(value) or not np.isfinite(moves).all() or min(self.sizes(metric)) <= 1:
            return None
        if metric.bounds is None:
            return Unbounded(value, np.nan, moves, self.sizes(metric), self.is_clustered)
        share = min(max((value - metric.bounds[0]) / metric.width, 0.0), 1.0)
        return Estimate(share, share, moves / metric.width, self.sizes(metric), self.is_clustered)

    def unseen(self, metric: BenchmarkMetric) -> float:
        """The variance, in shares of the bounds, of what two models may differ in beyond what was
        seen: Σ over columns of 2 / documents² + 0.1 / clusters². 0 of scores without bounds."""
        if metric.bounds is None:
            return 0.0
        reads = [self.columns.index(name) for name in metric.reads]
        documents = float((2 / self.weights.sum(axis=0)[reads] ** 2).sum())
        return documents + sum(_UNSEEN / size**2 for size in self.sizes(metric))

    def _of(self, metric: BenchmarkMetric, totals: Values, weights: Values) -> Values:
        known = weights > 1e-9
        means = np.divide(totals, weights, out=np.full_like(totals, np.nan), where=known)
        by_name = {name: means[..., column] for column, name in enumerate(self.columns)}
        return np.asarray(metric.formula(by_name), dtype=np.float64)
