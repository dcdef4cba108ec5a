"""What the full validation split will say of points that are measured on a part of its rows.

Labels, groups and the baselines' margins are known of all N rows; the candidates' answers only of
the m seen ones. An unseen row is taken to be answered like a row of its stratum, by all candidates
at once, so everything stays paired. A stratum holds the rows of the same groups and label whose
score (mean margin of the baselines) falls in the same bin. Each draw, in every stratum:

    donors  = the d seen rows of the stratum and k rows borrowed from all groups, same label and bin
    weights ~ Dirichlet(a, …, a), of the d + k donors            (a = 1: the Bayesian bootstrap)
    unseen rows of the stratum ~ Multinomial(n_unseen, weights)

Borrowing pulls small groups towards "as in the other groups, given the baselines", the more the
fewer of their rows are seen; without it, gaps among many small groups are predicted too large.
With m = N every draw equals the full counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.counts import distinct_patterns
from mergekit_fair.fairness.groups import Groups

Rows = NDArray[np.intp]
Floats = NDArray[np.float64]

# Chosen by benchmarks/race.py: with a = 1, and without borrowing, chances are too sure of
# themselves while few rows are seen.
BORROWED = 4  # k
SHAPE = 0.5  # a
ROWS_PER_BIN = 10  # seen rows of a label and score bin
MOST_BINS = 10
FEW = 4  # seen rows to borrow from


@dataclass(frozen=True, eq=False)
class Course:
    """What is known of all N rows before any candidate is measured.

    Attributes:
        labels: int (N,), 0 or 1.
        groups: of the same rows.
        known: float (K, N), the baselines' margins on them, NaN where unanswered; K may be 0.
    """

    labels: NDArray[np.int8]
    groups: Groups
    known: Floats

    @property
    def n(self) -> int:
        """N."""
        return len(self.labels)

    @cached_property
    def patterns(self) -> NDArray[np.bool_]:
        """(Q, G), the distinct membership patterns."""
        return self._patterns[0]

    @cached_property
    def cell(self) -> Rows:
        """(N,), 2 · pattern + label of every row."""
        return self._patterns[1] * 2 + self.labels.astype(np.intp)

    @cached_property
    def score(self) -> Floats:
        """(N,), mean over baselines of margin / its standard deviation; 0 without baselines.

        Infinite margins (only the answer is known) count as the largest finite one or 1.
        """
        found = np.zeros(self.n)
        for margins in self.known:
            finite = np.abs(margins[np.isfinite(margins)])
            most = finite.max(initial=1.0)
            clipped = np.nan_to_num(margins, nan=0.0, posinf=most, neginf=-most)
            found += clipped / (clipped.std() or 1.0)
        return found

    @cached_property
    def _patterns(self) -> tuple[NDArray[np.bool_], Rows]:
        return distinct_patterns(self.groups)


def score_bins(course: Course, seen: Rows) -> Rows:
    """(N,) codes of rows with the same label and similar score: quantiles of the seen rows'."""
    found = course.labels.astype(np.intp) * MOST_BINS
    for label in (0, 1):
        here = course.labels == label
        known = course.score[seen[here[seen]]]
        bins = min(MOST_BINS, len(known) // ROWS_PER_BIN)
        if bins > 1:
            edges = np.quantile(known, np.arange(1, bins) / bins)
            found[here] += np.searchsorted(edges, course.score[here], side="right")
    return found


@dataclass(frozen=True, eq=False)
class Weights:
    """B draws of who answers for whom.

    Attributes:
        own: float (B, m), how many rows (itself included) a seen row stands for in its own cell.
        strays: cell → two int (B, k): places in `seen` of borrowed rows, and how many rows of the
            cell each of them answers for.
        mean: float (m,), expected number of rows that a seen row stands for.
    """

    own: Floats
    strays: dict[int, tuple[Rows, Rows]]
    mean: Floats


def draw_weights(course: Course, seen: Rows, draws: int, rng: np.random.Generator) -> Weights:
    """Draw, for every unseen row, the seen row that answers for it.

    Args:
        course: of N rows.
        seen: int (m,), distinct numbers of the rows that are measured.
        draws: B.
        rng: of the draws.
    """
    similar = score_bins(course, seen)
    stratum = course.cell * (2 * MOST_BINS) + similar
    unseen = np.setdiff1d(np.arange(course.n), seen)
    own, mean = np.ones((draws, len(seen))), np.ones(len(seen))
    strays: dict[int, list[tuple[Rows, Rows]]] = {}
    for code in np.unique(similar[unseen]):
        pool = _pool(course, similar, seen, code)
        # One bootstrap of the pool a draw, shared by its strata: the pool is a sample, too.
        again = pool[rng.integers(len(pool), size=(draws, len(pool)))]
        mine = unseen[similar[unseen] == code]
        for value in np.unique(stratum[mine]):
            rows = mine[stratum[mine] == value]
            donors = np.flatnonzero(stratum[seen] == value)
            picked = rng.integers(len(pool), size=(draws, BORROWED))
            borrowed = np.take_along_axis(again, picked, axis=1)
            shares = rng.standard_gamma(SHAPE, (draws, len(donors) + BORROWED))
            drawn = rng.multinomial(len(rows), shares / shares.sum(axis=1, keepdims=True))
            own[:, donors] += drawn[:, : len(donors)]
            lent = borrowed, drawn[:, len(donors) :]
            strays.setdefault(int(course.cell[rows[0]]), []).append(lent)
            share = len(rows) / (len(donors) + BORROWED)
            mean[donors] += share
            mean[pool] += share * BORROWED / len(pool)
    merged = {
        cell: (np.hstack([rows for rows, _ in lent]), np.hstack([times for _, times in lent]))
        for cell, lent in strays.items()
    }
    return Weights(own, merged, mean)


def _pool(course: Course, similar: Rows, seen: Rows, code: int) -> Rows:
    """Places in `seen` of rows with similar score; if too few, of the same label; else all."""
    for found in (similar[seen] == code, course.labels[seen] == code // MOST_BINS):
        if found.sum() >= FEW:
            return np.flatnonzero(found)
    return np.arange(len(seen))


def tabulate(course: Course, seen: Rows, weights: Weights, answers: NDArray[np.int8]) -> Floats:
    """Counts of rows by group, label and prediction in every draw.

    Args:
        course: of N rows, G groups.
        seen: int (m,), the measured rows.
        weights: of the same rows, B draws.
        answers: int8 (P, m), predictions 0, 1, or 2 for none.

    Returns:
        float64 (B, P, G + 1, 2, 3); the last group is all rows. Whole numbers.
    """
    draws, points = len(weights.own), len(answers)
    size = course.patterns.shape[1]
    counts = np.zeros((draws, points, size + 1, 2, 3))
    # (m, P · 3): one matrix product a cell counts all points.
    said = (answers.T[:, :, np.newaxis] == np.arange(3)).astype(np.float64)
    said = said.reshape(len(seen), points * 3)
    cells = course.cell[seen]
    for cell in np.unique(course.cell):
        mine = np.flatnonzero(cells == cell)
        found = weights.own[:, mine] @ said[mine]
        if cell in weights.strays:
            found += _spread_out(*weights.strays[cell], said)
        groups = [*np.flatnonzero(course.patterns[cell // 2]), size]
        counts[:, :, groups, cell % 2] += found.reshape(draws, points, 1, 3)
    return counts


def _spread_out(rows: Rows, times: Rows, said: Floats) -> Floats:
    """Sum of `times` · `said[rows]` in every draw: (B, k), (B, k), (m, S) -> (B, S)."""
    used, place = np.unique(rows, return_inverse=True)
    code = np.arange(len(rows))[:, np.newaxis] * len(used) + place.reshape(rows.shape)
    size = len(rows) * len(used)
    counts = np.bincount(code.reshape(-1), times.reshape(-1), minlength=size)
    return np.asarray(counts.reshape(len(rows), len(used)) @ said[used])


def resampled(mean: Floats, total: int, draws: int, seed: int) -> Weights:
    """Bootstrap draws of `total` rows, of which row r is expected `mean[r]` times: (draws, m)."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(total, mean / mean.sum(), size=draws)
    return Weights(drawn.astype(np.float64), {}, mean)
