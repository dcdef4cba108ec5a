"""What is drawn from a table: its rows or clusters, and those of a smoothed copy.

Where all of a group's few rows agree, so do all their replicates, though the next row might not.
A smoothed table has about one more row a group and label, half a 1 and half a 0 (Jeffreys' prior).
Of clusters it has more: as many as are worth one independent row, in a cluster of their own that a
draw holds now and then. Without it, clusters that all agree would have replicates that all agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mergekit_fair.fairness.clusters import Clusters, Spread
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.grouped import Counts, Grouped, Sums, drawn_sums, group_counts, total
from mergekit_fair.fairness.rates import Mask, Values

Seed = int | np.random.Generator


def resampled(table: CountTable, draws: int, seed: Seed) -> Grouped:
    """Bootstrap draws of a table's rows or clusters, as in `drawn_sums`."""
    return _resampled(table, table.cells, table.clusters, draws, seed)


def _resampled(
    table: CountTable, cells: Counts, clusters: Clusters | None, draws: int, seed: Seed
) -> Grouped:
    counts, sums = Sums.of_cells(cells, table.patterns, table.weights)
    drawn = None if clusters is None else clusters.of_kinds(np.flatnonzero(cells))
    return drawn_sums(counts, [sums], draws, seed, drawn)[0]


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A table with predictions pulled towards one half, by about one row a group and label.

    Of the answered rows of a (pattern, y) pair, k with ŷ = 1 of m become m·(k + a/2) / (m + a),
    with a = 1 where the groups are a partition (Jeffreys' prior). Where groups overlap, a is the
    share of the pair in the smallest of its groups: the a of a group add up to at least one row,
    to exactly one in the smallest, and to at most one for each group that it overlaps and itself.
    Rows in no group stay as they are. The size of a group of weighted rows is (Σw)² / Σw². With
    clusters a row is d rows, where d is the group's design effect.

    Attributes:
        cells: float64 (P, 2, 3) with the same totals of (pattern, y).
        clusters: what is resampled; None: single rows.
    """

    cells: Values
    clusters: Clusters | None = None

    @classmethod
    def of(cls, table: CountTable, spread: Spread | None = None) -> Smoothed:
        """Of a table, and of how its clusters' sums vary."""
        answered = table.cells[..., :2].sum(axis=-1).astype(np.float64)
        share = of_smallest_group(answered, table.patterns, table.weights)
        each = np.ones_like(share) if spread is None else pattern_effects(table, spread)
        extra = share * each
        scale = np.divide(
            answered, answered + extra, out=np.ones_like(answered), where=answered > 0
        )
        shrunk = table.cells.astype(np.float64)
        shrunk[..., :2] = (shrunk[..., :2] + extra[..., np.newaxis] / 2) * scale[..., np.newaxis]
        if table.clusters is None:
            return cls(shrunk)
        scales, added, chance = np.ones_like(shrunk), np.zeros_like(shrunk), np.zeros_like(shrunk)
        scales[..., :2] = scale[..., np.newaxis]
        added[..., :2] = (each * scale)[..., np.newaxis]
        chance[..., :2] = share[..., np.newaxis] / 2
        flat = (part.reshape(-1) for part in (scales, added, chance))
        return cls(shrunk, table.clusters.with_rows(*flat))

    def summed(self, table: CountTable) -> Grouped:
        """Of `table`, by group and over all."""
        if table.weights is None:
            return Grouped(group_counts(self.cells, table.patterns), total(self.cells))
        counts, sums = Sums.of_cells(self.cells, table.patterns, table.weights)
        return sums.of(counts)

    def resampled(self, table: CountTable, draws: int, seed: Seed) -> Grouped:
        """Bootstrap draws, as in `drawn_sums`."""
        return _resampled(table, self.cells, self.clusters, draws, seed)


def pattern_effects(table: CountTable, spread: Spread) -> Values:
    """(P, 2), the design effect of the smallest group of each pattern, by label."""
    answered = table.cells[..., :2].sum(axis=-1).astype(np.float64)
    sizes = _group_sizes(answered, table.patterns, table.weights)
    return _of_smallest(spread.design_effects(), table.patterns, sizes)


def of_smallest_group(rows: Values, patterns: Mask, weights: Values | None) -> Values:
    """(P, 2), of rows (P, 2) by pattern and label the share in the smallest group of the pattern.

    0 where there are no rows or no group. The size of a group of weighted rows is (Σw)² / Σw².
    """
    return _shares(rows, patterns, _group_sizes(rows, patterns, weights))


def _group_sizes(rows: Values, patterns: Mask, weights: Values | None) -> Values:
    """(G, 2), by label."""
    members = patterns.T.astype(np.float64)
    if weights is None:
        return np.asarray(members @ rows)
    sums, squares = (members @ (rows * w[:, np.newaxis]) for w in (weights, weights**2))
    return np.divide(sums**2, squares, out=np.zeros_like(sums), where=squares > 0)


def _shares(rows: Values, patterns: Mask, sizes: Values) -> Values:
    mine = np.where(patterns[:, :, np.newaxis], sizes, np.inf).min(axis=1, initial=np.inf)
    return np.divide(rows, mine, out=np.zeros_like(rows), where=rows > 0)


def _of_smallest(values: Values, patterns: Mask, sizes: Values) -> Values:
    """(P, 2), of values (G, 2) that of the smallest group of each pattern; 1 without a group."""
    if not len(values):
        return np.ones((len(patterns), 2))
    mine = np.where(patterns[:, :, np.newaxis], sizes, np.inf).argmin(axis=1)
    found = np.take_along_axis(values, mine, axis=0)
    has_group = np.asarray(patterns.any(axis=1))
    return np.where(has_group[:, np.newaxis], found, 1.0)
