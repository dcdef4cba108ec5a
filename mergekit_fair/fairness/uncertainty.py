"""How sure a gap is, beside its interval: bias, other intervals, and what chance alone gives.

Permuting the group labels of rows keeps sizes of groups and predictions, and makes every group
alike. For DPD the labels move over all rows; for EOD over the rows of each label y, since groups
may differ in their share of positives and still have equal odds. What such permutations do to
the counts is a multivariate hypergeometric draw: cost independent of the number of rows. A row's
weight moves with its groups: right where weights were given to people before anybody predicted.

Of clusters whose rows all are in the same groups, the groups of whole clusters move, among
clusters of about as many rows: larger ones of another group would make a group less noisy than it
is. Where a cluster has rows of several groups nothing says what may change places: nothing is
drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.grouped import Counts, Grouped
from mergekit_fair.fairness.intervals import (
    Ends,
    Interval,
    Samples,
    around,
    basic,
    bias_corrected,
    gap_band,
    rate_limits,
)
from mergekit_fair.fairness.measurement import PermutedGap, Uncertainty
from mergekit_fair.fairness.metric_kinds import Gap
from mergekit_fair.fairness.rates import Values, gap, selection_rate

MAX_ROWS = 10**9  # numpy draws from no larger hypergeometric distribution
_AT_ONCE = 2**20  # dealt counts in memory at once
_MOVES = 2**27  # clusters that change places, in all draws
_LEAST_DRAWS = 200


def gap_uncertainty(metric: Gap, samples: Samples, interval: Interval) -> Uncertainty:
    """How sure the gap of a table is.

    Args:
        metric: the gap.
        samples: the table and what is drawn from it.
        interval: the gap's own, from `metric.interval(samples)`.
    """
    settings = samples.settings
    value = float("nan") if interval.value is None else interval.value
    drawn = gap(metric.deviations(samples, samples.drawn), settings.reference)
    defined = drawn[np.isfinite(drawn)]
    known = interval.low is not None
    chance = _by_chance(metric, samples, value)
    distinguishable = (
        None
        if chance is None or interval.low is None
        else interval.low > 0 and chance.p_value <= 1 - settings.confidence
    )
    return Uncertainty(
        bias=float(defined.mean() - value) if known else None,
        standard_error=float(defined.std()) if known else None,
        basic=_limits(value, drawn, basic, samples.confidence) if known else None,
        bias_corrected=(
            _limits(value, drawn, bias_corrected, samples.confidence) if known else None
        ),
        band=None if interval.value is None else _band(metric, samples),
        null=chance,
        distinguishable_from_0=distinguishable,
    )


def permuted_gap(value: float, drawn: NDArray[np.float64], confidence: float) -> PermutedGap | None:
    """From the measured gap and those of permutations (draws,); None if undefined."""
    defined = drawn[np.isfinite(drawn)]
    if np.isnan(value) or not defined.size:
        return None
    as_large = int((defined >= value - 1e-12).sum())
    return PermutedGap(
        high=float(np.quantile(defined, confidence)),
        p_value=(1 + as_large) / (1 + defined.size),
    )


def permuted(table: CountTable, draws: int, seed: int, *, within_labels: bool) -> Grouped:
    """Counts after permuting the group labels of rows.

    Args:
        table: of fewer than MAX_ROWS rows.
        draws: number of permutations.
        seed: of `numpy.random.default_rng`.
        within_labels: permute among rows of equal y only. Otherwise the labels y are dropped:
            all rows of the result stand under y = 0, which the selection rate does not read.

    Returns:
        As `Samples.counts`, (draws, ...).
    """
    rng = np.random.default_rng(seed)
    n_groups = table.patterns.shape[1]
    lines = _lines(table)
    summed = np.zeros((2, 3, lines.shape[1], draws))
    dealt = (
        [(label, table.cells[:, label]) for label in (0, 1)]
        if within_labels
        else [(0, table.cells.sum(axis=1))]
    )
    for label, cells in dealt:
        for first, block in _dealt(cells, draws, rng):
            of_block = lines[first : first + len(block)].T
            summed[label] += np.stack([of_block @ block[:, answer] for answer in range(3)])
    by_cell = summed.transpose(3, 2, 0, 1)
    rest = None if table.weights is None else by_cell[:, 1 + n_groups :]
    return Grouped(by_cell[:, 1 : 1 + n_groups], by_cell[:, 0], rest)


def permuted_clusters(
    table: CountTable, draws: int, seed: int, *, within_labels: bool
) -> Grouped | None:
    """As `permuted`, of whole clusters; None where one of them has rows of several groups.

    Groups move among clusters that have from 2ᵏ to 2ᵏ⁺¹ rows (of that label). Of very many clusters
    there are fewer draws, at least 200.
    """
    clusters, members = table.clusters, cluster_members(table)
    if clusters is None or members is None:
        return None
    draws = min(draws, max(_LEAST_DRAWS, _MOVES // len(clusters)))
    rng = np.random.default_rng(seed)
    groups, inverse = np.unique(table.patterns[members], axis=0, return_inverse=True)
    mine = np.repeat(inverse.reshape(-1), clusters.times)
    lines = np.concatenate([np.ones((1, len(groups)), dtype=bool), groups.T, ~groups.T])
    weights = np.ones(len(table.patterns)) if table.weights is None else table.weights
    cells = np.arange(table.cells.size)
    rows, held = (
        np.repeat(clusters.sums(line, cells % 6), clusters.times, axis=0).reshape(-1, 2, 3)
        for line in (np.ones(cells.size), weights[cells // 6])
    )
    summed = np.zeros((2, 3, len(lines), draws))
    for label in (0, 1) if within_labels else (0,):
        mass = held[:, label] if within_labels else held.sum(axis=1)
        size = (rows[:, label] if within_labels else rows.sum(axis=1)).sum(axis=1)
        for octave in np.unique(np.frexp(size[size > 0])[1]):
            alike = np.flatnonzero((size > 0) & (np.frexp(size)[1] == octave))
            dealt = _moved(mine[alike], mass[alike], len(groups), draws, rng)
            summed[label] += np.einsum("lg,dga->ald", lines, dealt)
    by_cell = summed.transpose(3, 2, 0, 1)
    n_groups = groups.shape[1]
    rest = None if table.weights is None else by_cell[:, 1 + n_groups :]
    return Grouped(by_cell[:, 1 : 1 + n_groups], by_cell[:, 0], rest)


def cluster_members(table: CountTable) -> NDArray[np.intp] | None:
    """A pattern of each distinct content (D,) whose groups are those of all its rows; or None."""
    if table.clusters is None:
        return None
    held = table.clusters.held
    patterns = held.indices // 6
    first = patterns[held.indptr[:-1]]
    apart = table.patterns[patterns] != table.patterns[np.repeat(first, np.diff(held.indptr))]
    return None if apart.any() else first


def _moved(
    mine: NDArray[np.intp], mass: Values, groups: int, draws: int, rng: np.random.Generator
) -> Values:
    """Sums (draws, groups, 3) of what clusters (K, 3) hold, after permuting whose they are."""
    found = np.empty((draws, groups, 3))
    at_once = max(1, _AT_ONCE // len(mine))
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        places = rng.permuted(np.tile(mine, (count, 1)), axis=1)
        places += groups * np.arange(count)[:, np.newaxis]
        for answer in range(3):
            sums = np.bincount(places.reshape(-1), np.tile(mass[:, answer], count), count * groups)
            found[start : start + count, :, answer] = sums.reshape(count, groups)
    return found


def _lines(table: CountTable) -> Values:
    """(P, L), what a row of each pattern adds to all rows, to the groups, and to their rests."""
    everybody = np.ones((len(table.patterns), 1))
    if table.weights is None:
        return np.hstack([everybody, table.patterns])
    lines = np.hstack([everybody, table.patterns, ~table.patterns])
    return np.asarray(lines * table.weights[:, np.newaxis])


def _by_chance(metric: Gap, samples: Samples, value: float) -> PermutedGap | None:
    table, settings = samples.table, samples.settings
    if np.isnan(value) or table.n >= MAX_ROWS:
        return None
    # A rate of all rows does not read y, and its groups are alike when labels move over all rows.
    within_labels = metric.rates != (selection_rate,)
    move = permuted if table.clusters is None else permuted_clusters
    counts = move(table, settings.draws, settings.seed, within_labels=within_labels)
    if counts is None:
        return None
    drawn = gap(metric.deviations(samples, counts), settings.reference)
    return permuted_gap(value, drawn, settings.confidence)


def _band(metric: Gap, samples: Samples) -> Ends | None:
    """Limits from the simultaneous Wilson band, which knows one reference only."""
    if samples.settings.reference != "between_groups":
        return None
    return gap_band(rate_limits(metric.rates, samples))


def _limits(
    value: float, drawn: Values, ends: Callable[..., Ends], confidence: float
) -> Ends | None:
    interval = around(value, (drawn,), ends, confidence)
    return None if interval.low is None or interval.high is None else (interval.low, interval.high)


def _dealt(
    table: Counts, draws: int, rng: np.random.Generator
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Deal the predictions of a (P, 3) table to its patterns at random.

    Yields:
        The first pattern of a block of b, and what the block is dealt: (b, 3, draws).
    """
    sizes = table.sum(axis=1).tolist()
    left = np.tile(table.sum(axis=0), (draws, 1))
    at_once = max(1, _AT_ONCE // (3 * draws))
    for first in range(0, len(sizes), at_once):
        block = np.empty((min(at_once, len(sizes) - first), 3, draws))
        for row, size in enumerate(sizes[first : first + len(block)]):
            if first + row < len(sizes) - 1:
                positive = rng.hypergeometric(left[:, 1], left[:, 0] + left[:, 2], size)
                missing = rng.hypergeometric(left[:, 2], left[:, 0], size - positive)
                counts = np.stack([size - positive - missing, positive, missing])
            else:
                counts = left.T.copy()
            block[row] = counts
            left -= counts.T
        yield first, block
