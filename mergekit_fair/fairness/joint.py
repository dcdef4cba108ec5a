"""Joint counts of several columns of the same rows.

Two predictors on the same rows, classes, and several labels a row need the joint distribution of
their columns, because a bootstrap draw must resample whole rows. A draw is one multinomial, over
the combinations that occur: few for a few columns, never more than rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.fairness.clusters import Clusters
from mergekit_fair.fairness.counts import Column, CountTable, Patterns
from mergekit_fair.fairness.grouped import Counts, Grouped, Sums, drawn_sums

View = tuple[Column, Column]  # label and prediction of each of C combinations, both (C,)
_LARGEST_CODE = 2**40


@dataclass(frozen=True, eq=False)
class JointTable:
    """C distinct combinations of a pattern and k columns, with their counts.

    Attributes:
        patterns: the P patterns of the rows.
        pattern: shape (C,), the pattern of each combination.
        columns: int64, shape (C, k), its values.
        counts: int64, shape (C,), how many rows have it.
        clusters: what is resampled, of these C kinds of rows; None: single rows.
    """

    patterns: Patterns
    pattern: NDArray[np.intp]
    columns: NDArray[np.int64]
    counts: Counts
    clusters: Clusters | None = None

    @classmethod
    def tally(
        cls,
        columns: Sequence[Column],
        groups: object,
        weights: ArrayLike | None = None,
        clusters: object = None,
    ) -> JointTable:
        """Count rows by pattern and columns (k arrays of n integers ≥ 0).

        Combinations are ordered by pattern and values, whatever the order of rows.
        """
        patterns = Patterns.of(groups, len(columns[0]), weights, clusters)
        counted = [np.asarray(column)[patterns.rows] for column in columns]
        code = patterns.of_row.astype(np.int64)
        for column in counted:
            size = int(column.max()) + 1
            if (int(code.max()) + 1) * size > _LARGEST_CODE:
                code = np.unique(code, return_inverse=True)[1].reshape(-1)
            code = code * size + column
        _, first, kind, counts = np.unique(
            code, return_index=True, return_inverse=True, return_counts=True
        )
        values = np.stack([column[first] for column in counted], axis=1)
        return cls(
            patterns,
            patterns.of_row[first],
            values.astype(np.int64),
            counts.astype(np.int64),
            patterns.clustered(kind.reshape(-1), len(first)),
        )

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.counts.sum())

    @property
    def weights(self) -> NDArray[np.float64]:
        """(C,), what a row of each combination counts for: 1 where all are alike."""
        weights = self.patterns.weights
        return np.ones(len(self.counts)) if weights is None else weights[self.pattern]

    def table(self, view: View) -> CountTable:
        """The counts of one label and one prediction.

        Args:
            view: labels (C,), 0 or 1, and predictions (C,), 0, 1 or UNANSWERED.
        """
        size = len(self.patterns.membership)
        cells, place = np.zeros(size * 6, dtype=np.int64), self.pattern * 6 + _cell(view)
        np.add.at(cells, place, self.counts)
        merged = None if self.clusters is None else self.clusters.merged(place, cells.size)
        return self.patterns.table(cells.reshape(size, 2, 3), merged)

    def resampled(self, views: Sequence[View], draws: int, seed: int) -> list[Grouped]:
        """Bootstrap draws of whole rows, or clusters of them, summed by group for each view.

        Args:
            views: as in `table`; all see the same draws.
            draws: number of replicates.
            seed: as in `drawn_sums`.
        """
        membership, weights = self.patterns.membership, self.patterns.weights
        sums = [Sums(membership, weights, self.pattern, _cell(view)) for view in views]
        return drawn_sums(self.counts, sums, draws, seed, self.clusters)


def _cell(view: View) -> NDArray[np.int64]:
    truth, predicted = view
    return np.asarray(truth, dtype=np.int64) * 3 + np.asarray(predicted, dtype=np.int64)
