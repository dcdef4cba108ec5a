"""How version 0.1 dealt rows: by a permutation of the whole table, in every stratum exactly.

Families that it trained do not say which rows they saw. Dealt as then, they are known again; and
tasks of lm-eval's own, whose data never change, are still dealt so.
"""

from __future__ import annotations

import numpy as np

from mergekit_fair.data.blocks import SPLITS, UNUSED, SplitName, Splits


def draw(strata: np.ndarray, shares: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Deal the rows of every stratum into parts, int (n,): the number of each row's part.

    Every part gets floor(share · size) or one row more of a stratum of that size. What rounding
    leaves over goes to the part that is furthest behind over all strata so far (largest
    remainder with carry), so that many strata of one row do not all end in the largest part.

    Args:
        strata: int (n,).
        shares: sum to 1.
    """
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    names, starts, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    parts = np.empty(len(strata), dtype=np.int64)
    behind = np.zeros(len(shares))
    for index in rng.permutation(len(names)):
        start, size = starts[index], sizes[index]
        quotas = np.array(shares) * size
        counts = np.floor(quotas + 1e-9).astype(np.int64)
        remainders = quotas - counts
        behind += remainders
        # A part whose quota is whole has what it is due; it must not get one more.
        priority = np.where(remainders > 1e-9, behind, -np.inf)
        winners = np.argsort(-priority, kind="stable")[: size - counts.sum()]
        counts[winners] += 1
        behind[winners] -= 1
        parts[order[start : start + size]] = np.repeat(np.arange(len(shares)), counts)
    return parts


def dealt(spec: Splits, strata: np.ndarray) -> np.ndarray:
    """The split of every row by `shares`, str (n,)."""
    names = [*spec.present, UNUSED]
    shares = [(spec.shares or {})[name] for name in spec.present]
    shares.append(max(0.0, 1 - sum(shares)))
    parts = draw(strata, tuple(shares), np.random.default_rng(spec.seed))
    split: np.ndarray = np.array(names)[parts]
    return split


def drawn(name: SplitName, limit: int, strata: np.ndarray, seed: int) -> np.ndarray:
    """Bool (n,): the rows of one split that its limit keeps."""
    share = limit / strata.size
    rng = np.random.default_rng([seed, 1 + SPLITS.index(name)])
    return draw(strata, (share, 1 - share), rng) == 0
