"""Sums by group: of one table, and of thousands of draws in blocks.

A draw is one multinomial over C kinds of rows, or over clusters of rows; what is kept of it are
the sums by group, label and prediction. Draws are made and summed a block at a time, so that memory
grows with draws × groups and not with draws × kinds. The random numbers do not depend on the size
of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.clusters import Clusters

# Whole rows; floats where predictions are smoothed or rows are weighted.
Counts = NDArray[np.int64] | NDArray[np.float64]

_AT_ONCE = 2**21  # resampled counts in memory at once
# A matrix larger than this is sparse if less than this share of it is filled.
_SMALL, _SPARSE = 2**16, 0.05


@dataclass(frozen=True, eq=False)
class Grouped:
    """Rows, or their weights, by group and over all: of one table or, in front, of many draws.

    Attributes:
        groups: (..., G, 2, 3), by [y, ŷ]; rows in several groups count in each of them.
        overall: (..., 2, 3), over all rows, grouped or not.
        of_rest: (..., G, 2, 3), over the rows outside each group. None where numbers are whole or
            nobody asks: differences of sums of weights leave a residue where there is no row.
    """

    groups: Counts
    overall: Counts
    of_rest: Counts | None = None

    @property
    def rest(self) -> Counts:
        """(..., G, 2, 3), over the rows outside each group."""
        if self.of_rest is not None:
            return self.of_rest
        return np.asarray(self.overall[..., np.newaxis, :, :] - self.groups)


class Sums:
    """Sums of C kinds of rows by group: built once for a table, applied to each of its draws.

    Args:
        patterns: bool (P, G), which groups a row is in.
        weights: (P,), what each row of a pattern counts for; None: all alike.
        pattern: (C,), the pattern of each kind.
        cell: (C,), its 3·y + ŷ.
    """

    def __init__(
        self,
        patterns: NDArray[np.bool_],
        weights: NDArray[np.float64] | None,
        pattern: NDArray[np.intp],
        cell: NDArray[Any],
    ) -> None:
        self._n_groups, self._is_weighted = patterns.shape[1], weights is not None
        self._parts: list[tuple[int, NDArray[np.intp], Any]] = []
        everybody = np.ones((1, len(patterns)), dtype=np.bool_)
        # Lines: all rows, groups, and, of weights, the rests of groups.
        lines = np.concatenate([everybody, patterns.T])
        if weights is not None:
            lines = np.concatenate([lines, ~patterns.T])
        for code in np.unique(cell).tolist():
            kinds = np.flatnonzero(cell == code)
            of_kind = pattern[kinds]
            counted = None if weights is None else weights[of_kind]
            self._parts.append((code, kinds, _matrix(lines[:, of_kind], counted)))

    @classmethod
    def of_cells(
        cls, cells: Counts, patterns: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> tuple[Counts, Sums]:
        """The kinds that occur in cells (P, 2, 3): their numbers of rows (C,), and their sums."""
        kinds = np.flatnonzero(cells)
        return cells.reshape(-1)[kinds], cls(patterns, weights, kinds // 6, kinds % 6)

    def of(self, counts: Counts) -> Grouped:
        """Of one table, counts (C,)."""
        summed = self.empty(1)
        self.write(counts.reshape(-1, 1).astype(np.float64), summed, 0)
        found = self.shaped(summed)
        rest = None if found.of_rest is None else found.of_rest[0]
        return Grouped(found.groups[0], found.overall[0], rest)

    def empty(self, draws: int) -> NDArray[np.float64]:
        """Room for the sums of so many draws: by 3·y + ŷ, then line."""
        return np.zeros((6, 1 + self._n_groups * (1 + self._is_weighted), draws))

    def write(self, drawn: NDArray[np.float64], summed: NDArray[np.float64], start: int) -> None:
        """Put the sums of a block of draws (C, b) into `summed`, from draw `start` on."""
        for code, kinds, matrix in self._parts:
            summed[code, :, start : start + drawn.shape[1]] = matrix @ drawn[kinds]

    def shaped(self, summed: NDArray[np.float64]) -> Grouped:
        """The sums with the axes of `Grouped`: a view."""
        by_cell = summed.reshape(2, 3, *summed.shape[1:]).transpose(3, 2, 0, 1)
        end = 1 + self._n_groups
        rest = by_cell[:, end:] if self._is_weighted else None
        return Grouped(by_cell[:, 1:end], by_cell[:, 0], rest)


def drawn_sums(
    counts: Counts,
    sums: Sequence[Sums],
    draws: int,
    seed: int | np.random.Generator,
    clusters: Clusters | None = None,
) -> list[Grouped]:
    """Bootstrap draws of whole rows or clusters, summed in several ways: a list of (draws, ...).

    Args:
        counts: (C,), how many rows there are of each kind, none 0; floats from `smoothed`.
        sums: all see the same draws.
        draws: number of replicates; each has as many rows as the table, or one cluster fewer.
        seed: of `numpy.random.default_rng`. A generator goes on from where it is.
        clusters: what is drawn, of the same kinds; None: every row by itself.
    """
    rng = np.random.default_rng(seed)
    further = [] if clusters is None else rng.spawn(1)
    n = round(float(counts.sum()))
    at_once = max(1, _AT_ONCE // (len(counts) if clusters is None else clusters.widest))
    summed = [by_group.empty(draws) for by_group in sums]
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        if clusters is None:
            drawn = rng.multinomial(n, counts / n, size=size)
            columns = drawn.T.astype(np.float64, order="C")
        else:
            columns = clusters.drawn([rng, *further], size)
        for by_group, into in zip(sums, summed, strict=True):
            by_group.write(columns, into, start)
    return [by_group.shaped(into) for by_group, into in zip(sums, summed, strict=True)]


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


def _matrix(lines: NDArray[np.bool_], weights: NDArray[np.float64] | None) -> Any:
    """(L, C), what each of C kinds adds to each line; sparse where few do or rows are weighted.

    A sparse product adds kinds one after the other, so that a sum of weights does not depend on
    where its line stands; a sum of whole rows never does.
    """
    is_small = lines.size < _SMALL or lines.mean() > _SPARSE
    if weights is None and is_small:
        return lines.astype(np.float64)
    from scipy.sparse import csr_array  # only few tables need it

    matrix = csr_array(lines)
    added = np.ones(matrix.nnz) if weights is None else weights[matrix.indices]
    return csr_array((added, matrix.indices, matrix.indptr), shape=lines.shape)
