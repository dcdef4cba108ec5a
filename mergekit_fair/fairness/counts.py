"""Counts: the sufficient statistics of every fairness metric, and bootstrap draws of them.

Rows with the same group membership, label and prediction are interchangeable, so a data set of
any size becomes a table of (membership pattern, y, ŷ) cells. Metrics and bootstrap read the
table only; their cost does not depend on the number of rows. ŷ has three values: 0, 1 and "no
usable prediction" (`UNANSWERED`, index 2).

Two or many predictors on the same rows, classes, and several labels a row need the joint
distribution of their columns, because a bootstrap draw must resample whole rows: `JointTable`. A
draw is again one multinomial, over the combinations that occur: few for a few columns, never more
than rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.groups import Groups, read_only
from mergekit_fair.fairness.labels import (
    UNANSWERED,
    binary_labels,
    binary_predictions,
    same_length,
)

# Whole rows; floats where predictions are smoothed.
Counts = NDArray[np.int64] | NDArray[np.float64]
Column = NDArray[np.integer[Any]]
_LARGEST_CODE = 2**40
_AT_ONCE = 2**23  # resampled counts in memory at once


@dataclass(frozen=True, eq=False)
class CountTable:
    """How many rows share a membership pattern, a label and a prediction.

    Attributes:
        groups: the G group names.
        patterns: bool, shape (P, G), read-only: the distinct membership patterns that occur.
        cells: int64, shape (P, 2, 3), read-only: rows by [pattern, y, ŷ]; (P, 2, 2) is taken
            as "no prediction is missing".

    Raises:
        MeasurementError: no rows, other shapes, or cells that are not counts.
    """

    groups: tuple[str, ...]
    patterns: NDArray[np.bool_]
    cells: Counts

    def __post_init__(self) -> None:
        _check_patterns(self.patterns, self.groups)
        cells = _checked_cells(np.asarray(self.cells), len(self.patterns))
        object.__setattr__(self, "patterns", read_only(self.patterns))
        object.__setattr__(self, "cells", read_only(cells))

    @classmethod
    def tally(cls, y_true: ArrayLike, y_pred: ArrayLike, groups: Any) -> CountTable:
        """Count rows.

        Args:
            y_true: shape (n,), labels, integers or booleans 0 and 1.
            y_pred: shape (n,), predictions, likewise; None or NaN where there is none.
            groups: a `Groups`, or anything that `Groups.of` reads.

        Raises:
            MeasurementError: labels or groups that no metric is defined on.

        >>> table = CountTable.tally([0, 0, 1, 1], [0, 1, 1, None], ["a", "b", "a", "a"])
        >>> table.groups, table.cells.tolist()
        (('a', 'b'), [[[0, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 1]]])
        """
        return cls.of_codes(
            binary_labels(y_true, "y_true"), binary_predictions(y_pred, "y_pred"), groups
        )

    @classmethod
    def of_codes(cls, truth: Column, predicted: Column, groups: Any) -> CountTable:
        """Count rows whose labels and predictions are codes already: no copy, no loop over rows.

        Args:
            truth: shape (n,), integers 0 and 1.
            predicted: shape (n,), integers 0, 1 and `UNANSWERED`.
            groups: as in `tally`.

        Raises:
            MeasurementError: another code, or as `tally`.
        """
        labels = checked_codes(truth, (0, 1), "y_true")
        answers = checked_codes(predicted, (0, 1, UNANSWERED), "y_pred")
        same_length(labels, answers, "y_pred")
        members = groups_of(groups, len(labels))
        patterns, of_row = distinct_patterns(members)
        code = (of_row * 2 + labels) * 3 + answers
        cells = np.bincount(code, minlength=len(patterns) * 6).reshape(len(patterns), 2, 3)
        return cls(members.names, patterns, cells.astype(np.int64))

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.cells.sum())


@dataclass(frozen=True, eq=False)
class JointTable:
    """C distinct combinations of a membership pattern and k columns, with their counts.

    Attributes:
        groups: the G group names.
        patterns: bool, shape (P, G).
        pattern: shape (C,), the pattern of each combination.
        columns: int64, shape (C, k), its values.
        counts: int64, shape (C,), how many rows have it.
    """

    groups: tuple[str, ...]
    patterns: NDArray[np.bool_]
    pattern: NDArray[np.intp]
    columns: NDArray[np.int64]
    counts: Counts

    @classmethod
    def tally(cls, columns: Sequence[Column], groups: Any) -> JointTable:
        """Count rows by pattern and columns (k arrays of n integers ≥ 0).

        Combinations are ordered by pattern and values, whatever the order of rows.
        """
        members = groups_of(groups, len(columns[0]))
        patterns, of_row = distinct_patterns(members)
        code = of_row.astype(np.int64)
        for column in columns:
            size = int(column.max()) + 1
            if (int(code.max()) + 1) * size > _LARGEST_CODE:
                code = np.unique(code, return_inverse=True)[1].reshape(-1)
            code = code * size + column
        _, first, counts = np.unique(code, return_index=True, return_counts=True)
        values = np.stack([np.asarray(column)[first] for column in columns], axis=1)
        return cls(
            members.names,
            patterns,
            of_row[first],
            values.astype(np.int64),
            counts.astype(np.int64),
        )

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.counts.sum())

    def cells(self, truth: Column, predicted: Column, counts: Counts | None = None) -> Counts:
        """Collapse to (..., P, 2, 3) counts of one label and one prediction.

        Args:
            truth: shape (C,), 0 or 1: the label of each combination.
            predicted: shape (C,), 0, 1 or UNANSWERED: its prediction.
            counts: shape (..., C), for example bootstrap draws; default: the table's own.
        """
        weights = self.counts if counts is None else counts
        cell = (self.pattern * 2 + truth) * 3 + predicted
        used, column = np.unique(cell, return_inverse=True)
        collect = np.zeros((len(cell), len(used)))
        collect[np.arange(len(cell)), column.reshape(-1)] = 1.0
        size = len(self.patterns) * 6
        flat = np.zeros((*weights.shape[:-1], size), dtype=np.int64)
        # float64 reaches BLAS and is exact below 2**53.
        flat[..., used] = weights.astype(np.float64) @ collect
        return flat.reshape(*weights.shape[:-1], len(self.patterns), 2, 3)

    def resampled(
        self, views: Sequence[tuple[Column, Column]], draws: int, seed: int
    ) -> list[Counts]:
        """Bootstrap draws of whole rows, collapsed to each view: a list of (draws, P, 2, 3).

        Args:
            views: pairs (truth, predicted) as in `cells`; all see the same draws.
            draws: number of replicates.
            seed: as in `replicates`.
        """
        rng = np.random.default_rng(seed)
        at_once = max(1, _AT_ONCE // len(self.counts))
        chunks: list[list[Counts]] = [[] for _ in views]
        for start in range(0, draws, at_once):
            drawn = replicates(self.counts, min(at_once, draws - start), rng)
            for parts, view in zip(chunks, views, strict=True):
                parts.append(self.cells(*view, drawn))
        return list(map(np.concatenate, chunks))


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


def group_counts(cells: Counts, patterns: NDArray[np.bool_]) -> Counts:
    """Sum pattern cells to counts per group.

    Args:
        cells: int64, shape (..., P, 2, 3); leading axes are free, e.g. bootstrap draws.
        patterns: bool, shape (P, G).

    Returns:
        of the same dtype, shape (..., G, 2, 3). Rows in several groups count in each of them.
    """
    flat = cells.reshape(*cells.shape[:-2], -1)
    # float64 reaches BLAS, which integers do not, and is exact for counts below 2**53.
    sums = patterns.T.astype(np.float64) @ flat.astype(np.float64)
    shaped = sums.reshape(*sums.shape[:-1], *cells.shape[-2:])
    return shaped.astype(np.int64) if cells.dtype.kind == "i" else shaped


def total(cells: Counts) -> Counts:
    """Sum pattern cells (..., P, 2, 3) to counts over all rows (..., 2, 3), grouped or not."""
    return np.asarray(cells.sum(axis=-3))


def replicates(cells: Counts, draws: int, seed: int | np.random.Generator) -> Counts:
    """Draw bootstrap replicates of a count table.

    Args:
        cells: int64, or floats from `smoothed`, any shape; one cell per kind of row.
        draws: number of replicates.
        seed: of `numpy.random.default_rng`; the same seed gives the same replicates. A generator
            goes on from where it is.

    Returns:
        int64, shape (draws,) + cells.shape; each replicate sums to `cells.sum()`.
    """
    flat = cells.reshape(-1)
    filled = np.flatnonzero(flat)
    n = round(float(flat.sum()))
    drawn = np.zeros((draws, flat.size), dtype=np.int64)
    drawn[:, filled] = np.random.default_rng(seed).multinomial(n, flat[filled] / n, size=draws)
    return drawn.reshape(draws, *cells.shape)


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
