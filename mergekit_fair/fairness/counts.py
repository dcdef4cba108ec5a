"""Counts: the sufficient statistics of every fairness metric.

Rows with the same group membership, label and prediction are interchangeable, so a data set of
any size becomes a table of (membership pattern, y, ŷ) cells. Metrics and bootstrap read the
table only; their cost does not depend on the number of rows. ŷ has three values: 0, 1 and "no
usable prediction" (index 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.groups import Groups, read_only
from mergekit_fair.fairness.labels import binary_labels, binary_predictions, same_length

# Whole rows; floats where predictions are smoothed.
Counts = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CountTable:
    """How many rows share a membership pattern, a label and a prediction.

    Attributes:
        groups: the G group names.
        patterns: bool, shape (P, G), read-only: the distinct membership patterns that occur.
        cells: int64, shape (P, 2, 3), read-only: rows by [pattern, y, ŷ]; (P, 2, 2) is taken
            as "no prediction is missing".

    Raises:
        MeasurementError: no rows, other shapes, or cells that are no counts.
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
            groups: a :class:`Groups`, or anything that :meth:`Groups.of` reads.

        Raises:
            MeasurementError: labels or groups that no metric is defined on.
        """
        truth = binary_labels(y_true, "y_true")
        predicted = binary_predictions(y_pred, "y_pred")
        same_length(truth, predicted, "y_pred")
        members = groups_of(groups, len(truth))
        patterns, of_row = distinct_patterns(members)
        code = (of_row * 2 + truth) * 3 + predicted
        cells = np.bincount(code, minlength=len(patterns) * 6).reshape(len(patterns), 2, 3)
        return cls(members.names, patterns, cells.astype(np.int64))

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.cells.sum())


def groups_of(groups: Any, n: int) -> Groups:
    """Return ``groups`` as :class:`Groups` of n rows, reading them only if they are not yet.

    Raises:
        MeasurementError: they are of another number of rows, or as :meth:`Groups.of`.
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
