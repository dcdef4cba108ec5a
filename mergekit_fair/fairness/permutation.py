"""The null band: how large DPD and EOD are by chance, when group labels mean nothing.

Permuting the group labels of rows keeps sizes of groups and predictions, and makes every group
alike. For DPD the labels move over all rows; for EOD over the rows of each label y, since groups
may differ in their share of positives and still have equal odds. What such permutations do to
the counts is a multivariate hypergeometric draw: cost independent of the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.counts import Counts

MAX_ROWS = 10**9  # numpy draws from no larger hypergeometric distribution


@dataclass(frozen=True)
class Null:
    """A gap's distribution under permuted group labels.

    Attributes:
        high: the gap that it stays below with the given confidence, in [0, 1].
        p_value: chance of a gap at least as large as the one measured.
    """

    high: float
    p_value: float

    @classmethod
    def of(cls, value: float, drawn: NDArray[np.float64], confidence: float) -> Null | None:
        """From the measured gap and those of permutations (draws,); None if undefined."""
        defined = drawn[np.isfinite(drawn)]
        if np.isnan(value) or not defined.size:
            return None
        as_large = int((defined >= value - 1e-12).sum())
        return cls(float(np.quantile(defined, confidence)), (1 + as_large) / (1 + defined.size))


def permuted(cells: Counts, draws: int, seed: int, *, within_labels: bool) -> Counts:
    """Counts after permuting the group labels of rows.

    Args:
        cells: int64 (P, 2, 3).
            It must count fewer than MAX_ROWS rows.
        draws: number of permutations.
        seed: of ``numpy.random.default_rng``.
        within_labels: permute among rows of equal y only. Otherwise the labels y are dropped:
            all rows of the result stand under y = 0, which the selection rate does not read.

    Returns:
        int64 (draws, P, 2, 3).
    """
    rng = np.random.default_rng(seed)
    found = np.zeros((draws, *cells.shape), dtype=np.int64)
    if within_labels:
        for label in (0, 1):
            found[:, :, label] = _dealt(cells[:, label], draws, rng)
    else:
        found[:, :, 0] = _dealt(cells.sum(axis=1), draws, rng)
    return found


def _dealt(table: Counts, draws: int, rng: np.random.Generator) -> Counts:
    """Deal the predictions of a (P, 3) table to its patterns at random: (draws, P, 3)."""
    sizes = table.sum(axis=1)
    left = np.tile(table.sum(axis=0), (draws, 1))
    dealt = np.zeros((draws, *table.shape), dtype=np.int64)
    for pattern, size in enumerate(sizes[:-1]):
        positive = rng.hypergeometric(left[:, 1], left[:, 0] + left[:, 2], size)
        missing = rng.hypergeometric(left[:, 2], left[:, 0], size - positive)
        dealt[:, pattern] = np.stack([size - positive - missing, positive, missing], axis=1)
        left -= dealt[:, pattern]
    dealt[:, -1] = left
    return dealt
