"""Counts: the sufficient statistics of every fairness metric.

Rows with the same group membership, label and prediction are interchangeable, so a data set of
any size becomes a table of (membership pattern, y, ŷ) cells. Metrics and bootstrap read the
table only; their cost does not depend on the number of rows. ŷ has three values: 0, 1 and "no
usable prediction" (`UNANSWERED`, index 2). Where rows have weights, rows of different weights are
never the same: a pattern is then the groups of a row and its weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.clusters import Clusters, Codes, Spread, cluster_codes
from mergekit_fair.fairness.grouped import Counts, Grouped, Sums, group_counts, total
from mergekit_fair.fairness.groups import Groups, read_only
from mergekit_fair.fairness.labels import (
    UNANSWERED,
    binary_labels,
    binary_predictions,
    same_length,
)
from mergekit_fair.fairness.weights import Weighted, Weights

Column = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class CountTable:
    """How many rows share a membership pattern, a label and a prediction.

    Attributes:
        groups: the G group names.
        patterns: bool, shape (P, G), read-only: the distinct membership patterns that occur. Where
            rows have weights, a pattern stands once for every weight that it occurs with.
        cells: int64, shape (P, 2, 3), read-only: rows by [pattern, y, ŷ]; (P, 2, 2) is taken
            as "no prediction is missing".
        weights: float64 (P,), what every row of a pattern counts for, > 0; None: all alike.
        weightless: rows that were left out because their weight is 0.
        clusters: what is resampled, its C = 6 P kinds of rows are the cells; None: single rows.

    Raises:
        MeasurementError: no rows, other shapes, or cells that are not counts.
    """

    groups: tuple[str, ...]
    patterns: NDArray[np.bool_]
    cells: Counts
    weights: Weights | None = None
    weightless: int = 0
    clusters: Clusters | None = None

    def __post_init__(self) -> None:
        _check_patterns(self.patterns, self.groups)
        cells = _checked_cells(np.asarray(self.cells), len(self.patterns))
        object.__setattr__(self, "patterns", read_only(self.patterns))
        object.__setattr__(self, "cells", read_only(cells))

    @classmethod
    def tally(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        groups: Any,
        weights: ArrayLike | None = None,
        clusters: Any = None,
    ) -> CountTable:
        """Count rows.

        Args:
            y_true: shape (n,), labels, integers or booleans 0 and 1.
            y_pred: shape (n,), predictions, likewise; None or NaN where there is none.
            groups: a `Groups`, or anything that `Groups.of` reads.
            weights: shape (n,), what each row counts for: finite, >= 0; None: all alike.
            clusters: shape (n,), what each row belongs to, as `cluster_codes` reads it.

        Raises:
            MeasurementError: labels, groups, weights or clusters that no metric is defined on.

        >>> table = CountTable.tally([0, 0, 1, 1], [0, 1, 1, None], ["a", "b", "a", "a"])
        >>> table.groups, table.cells.tolist()
        (('a', 'b'), [[[0, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 1]]])
        """
        codes = binary_labels(y_true, "y_true"), binary_predictions(y_pred, "y_pred")
        return cls.of_codes(*codes, groups, weights, clusters)

    @classmethod
    def of_codes(
        cls,
        truth: Column,
        predicted: Column,
        groups: Any,
        weights: ArrayLike | None = None,
        clusters: Any = None,
    ) -> CountTable:
        """Count rows whose labels and predictions are codes already: no copy, no loop over rows.

        Args:
            truth: shape (n,), integers 0 and 1.
            predicted: shape (n,), integers 0, 1 and `UNANSWERED`.
            groups, weights, clusters: as in `tally`.

        Raises:
            MeasurementError: another code, or as `tally`.
        """
        labels = checked_codes(truth, (0, 1), "y_true")
        answers = checked_codes(predicted, (0, 1, UNANSWERED), "y_pred")
        same_length(labels, answers, "y_pred")
        patterns = Patterns.of(groups, len(labels), weights, clusters)
        code = (patterns.of_row * 2 + labels[patterns.rows]) * 3 + answers[patterns.rows]
        size = len(patterns.membership)
        cells = np.bincount(code, minlength=size * 6).reshape(size, 2, 3).astype(np.int64)
        return patterns.table(cells, patterns.clustered(code, size * 6))

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.cells.sum())

    @property
    def rows(self) -> Grouped:
        """Numbers of rows by group and over all, whatever they count for."""
        return Grouped(group_counts(self.cells, self.patterns), total(self.cells))

    @property
    def counts(self) -> Grouped:
        """What rates are shares of: the weights of rows by group and over all, else their number.

        A sum of whole weights is exact, so that a row of weight 3 counts as three rows do.
        """
        return self._summed(self.weights)

    @property
    def squares(self) -> Grouped | None:
        """The same of squared weights, for effective numbers of rows; None without weights."""
        return None if self.weights is None else self._summed(self.weights**2)

    @property
    def spread(self) -> Spread | None:
        """How the sums of clusters vary, of all rows and of each group; None without clusters."""
        if self.clusters is None:
            return None
        weights = np.ones(len(self.patterns)) if self.weights is None else self.weights
        lines = (line * weights for line in (np.ones_like(weights), *self.patterns.T))
        every = np.arange(self.cells.size)
        return Spread.of(self.clusters, (line[every // 6] for line in lines), every % 6)

    def _summed(self, weights: Weights | None) -> Grouped:
        if weights is None:
            return self.rows
        counts, sums = Sums.of_cells(self.cells, self.patterns, weights)
        return sums.of(counts)


@dataclass(frozen=True, eq=False)
class Patterns:
    """The distinct kinds of rows before labels and predictions are looked at.

    Attributes:
        names: the G group names.
        membership: bool (P, G), the groups of each pattern.
        weights: float64 (P,), its weight; None: all alike.
        rows: what picks the m rows that count from arrays of n.
        of_row: (m,), the pattern of each.
        weightless: n − m.
        codes: (m,), the cluster of each; None: every row is its own.
    """

    names: tuple[str, ...]
    membership: NDArray[np.bool_]
    weights: Weights | None
    rows: NDArray[np.intp] | slice
    of_row: NDArray[np.intp]
    weightless: int
    codes: Codes | None = None

    @classmethod
    def of(
        cls, groups: Any, n: int, weights: ArrayLike | None = None, clusters: Any = None
    ) -> Patterns:
        """Of n rows: what `Groups.of` reads, and weights or None, and clusters or None.

        Patterns are ordered by group name and then weight, whatever the order of rows and groups.

        Raises:
            MeasurementError: other rows, or weights or clusters that no row can have.
        """
        members, weighted = groups_of(groups, n), Weighted.of(weights, n)
        rows, codes = weighted.rows, cluster_codes(clusters, n)
        if weighted.weightless:
            members = Groups(members.names, members.membership[rows])
        membership, of_row = distinct_patterns(members)
        found = None
        if weighted.weights is not None:
            values, code = np.unique(weighted.weights, return_inverse=True)
            _, first, inverse = np.unique(
                of_row * len(values) + code.reshape(-1), return_index=True, return_inverse=True
            )
            membership, found = membership[of_row[first]], weighted.weights[first]
            of_row = inverse.reshape(-1)
        if codes is not None and weighted.weightless:
            codes = cluster_codes(codes[rows], len(of_row))
        return cls(members.names, membership, found, rows, of_row, weighted.weightless, codes)

    def clustered(self, kind: NDArray[np.integer[Any]], kinds: int) -> Clusters | None:
        """The clusters of these rows, of which (m,) says what each is; None without any."""
        return None if self.codes is None else Clusters.of(self.codes, kind, kinds)

    def table(self, cells: Counts, clusters: Clusters | None = None) -> CountTable:
        """The table of these rows by [pattern, y, ŷ]."""
        weights = self.weights, self.weightless
        return CountTable(self.names, self.membership, cells, *weights, clusters)


def groups_of(groups: Any, n: int) -> Groups:
    """Return `groups` as `Groups` of n rows, reading them only if they are not yet.

    Raises:
        MeasurementError: they are of another number of rows, or as `Groups.of`.
    """
    if not isinstance(groups, Groups):
        return Groups.of(groups, n)
    if len(groups.membership) != n:
        raise MeasurementError(
            "are of other rows",
            where="groups",
            got=f"{len(groups.membership)} rows",
            allowed=f"{n} rows",
            fix="pass the groups of the same rows as y_true, in the same order",
        )
    return groups


def distinct_patterns(groups: Groups) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Return the distinct membership patterns (P, G) and the pattern of each row (n,).

    Patterns are ordered by group name, whatever the order of the columns: the order of the cells
    decides which random numbers they get, and that must not depend on how groups were passed.
    """
    by_name = np.argsort(np.asarray(groups.names, dtype=str), kind="stable")
    packed = np.packbits(groups.membership[:, by_name], axis=1)
    if packed.shape[1] <= 8:
        # As one integer a row, in the same order: ten times as fast as comparing rows of bytes.
        wide = np.zeros((len(packed), 8), dtype=np.uint8)
        wide[:, : packed.shape[1]] = packed
        codes = wide.view(">u8").reshape(-1)
        _, first, of_row = np.unique(codes, return_index=True, return_inverse=True)
    else:
        _, first, of_row = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return groups.membership[first], of_row.reshape(-1)


def checked_codes(column: Column, allowed: tuple[int, ...], name: str) -> NDArray[np.int8]:
    """A column of rows as int8, of which no copy is made if it is int8 already.

    Raises:
        MeasurementError: it holds anything but the integers `allowed`, which are 0, 1, …
    """
    if column.ndim != 1 or column.dtype.kind not in "iu" or not column.size:
        raise MeasurementError(
            "needs one code per row",
            where=name,
            got=f"shape {column.shape}, dtype {column.dtype}",
            allowed="integers of shape (n,)",
        )
    if column.min() < allowed[0] or column.max() > allowed[-1]:
        wrong = column[(column < allowed[0]) | (column > allowed[-1])]
        raise MeasurementError("is not a code", where=name, got=int(wrong[0]), allowed=allowed)
    return column.astype(np.int8, copy=False)


def _check_patterns(patterns: NDArray[np.bool_], names: tuple[str, ...]) -> None:
    if patterns.ndim != 2 or patterns.shape[1] != len(names) or patterns.dtype.kind != "b":
        raise MeasurementError(
            "needs one boolean column per group",
            where="patterns",
            got=f"shape {patterns.shape}, dtype {patterns.dtype}",
            allowed=f"shape (P, {len(names)}), dtype bool",
        )


def _checked_cells(cells: NDArray[Any], patterns: int) -> NDArray[np.int64]:
    if cells.dtype.kind not in "iu" or cells.shape not in ((patterns, 2, 2), (patterns, 2, 3)):
        raise MeasurementError(
            "must be numbers of rows by [pattern, y, ŷ]",
            where="cells",
            got=f"shape {cells.shape}, dtype {cells.dtype}",
            allowed=f"integers of shape ({patterns}, 2, 3)",
        )
    if (cells < 0).any():
        raise MeasurementError("must not be negative", where="cells", got=int(cells.min()))
    if not cells.any():
        raise MeasurementError("there are no rows", where="cells", fix="check the split")
    unanswered = ((0, 0), (0, 0), (0, 3 - cells.shape[2]))
    return np.pad(cells.astype(np.int64, copy=False), unanswered)
