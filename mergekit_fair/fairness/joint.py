"""Joint counts: rows that agree in several columns at once.

Two or many predictors on the same rows, classes, and several labels a row all need the joint
distribution of their columns, because a bootstrap draw must resample whole rows. A draw is again
one multinomial, over the combinations that occur: few for a few columns, never more than rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.counts import Counts, distinct_patterns, groups_of
from mergekit_fair.fairness.intervals import replicates

Column = NDArray[np.integer[Any]]
_LARGEST_CODE = 2**40
_AT_ONCE = 2**23  # resampled counts in memory at once


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
        place = (self.pattern * 2 + truth) * 3 + predicted
        used, column = np.unique(place, return_inverse=True)
        collect = np.zeros((len(place), len(used)))
        collect[np.arange(len(place)), column.reshape(-1)] = 1.0
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
            views: pairs (truth, predicted) as in :meth:`cells`; all see the same draws.
            draws: number of replicates.
            seed: as in :func:`replicates`.
        """
        rng = np.random.default_rng(seed)
        at_once = max(1, _AT_ONCE // len(self.counts))
        found: list[list[Counts]] = [[] for _ in views]
        for start in range(0, draws, at_once):
            drawn = replicates(self.counts, min(at_once, draws - start), rng)
            for parts, view in zip(found, views, strict=True):
                parts.append(self.cells(*view, drawn))
        return list(map(np.concatenate, found))
