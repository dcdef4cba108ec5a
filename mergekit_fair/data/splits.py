"""Which split a row is in: as a column says, or by seeded shares of every stratum.

A stratum is the rows of one label and one pattern of group membership. A subset is never the
head of a split: it is drawn with the seed from every stratum.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import SPLITS, Splits
from mergekit_fair.data.cells import column, listed, texts
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

UNUSED = ""  # the split of a row that is in none


def assign_splits(
    frame: pd.DataFrame, spec: Splits, labels: np.ndarray, membership: np.ndarray, where: str
) -> np.ndarray:
    """The split of every row, str (n,): train, validation, report, or "" for an unused row.

    Args:
        labels: int8 (n,).
        membership: bool (n, G).

    Raises:
        DataError: unknown column or value, or a split without rows.
    """
    where = f"{where}, splits"
    strata = stratify(labels, membership)
    split = _by_shares(spec, strata) if spec.shares else _by_column(frame, spec, where)
    for name in spec.present:
        if not (split == name).any():
            raise DataError(
                f"the split {name!r} has no rows",
                where=where,
                got=dict(Counter(split[split != UNUSED].tolist())),
                fix="check the column's values and `names`, or give larger `shares`",
            )
    for name, limit in spec.limit.items():
        rows = np.flatnonzero(split == name)
        if rows.size > limit:
            kept = limit / rows.size
            # A stream of its own: the limit of one split does not move the others.
            rng = np.random.default_rng([spec.seed, 1 + SPLITS.index(name)])
            parts = draw(strata[rows], (kept, 1 - kept), rng)
            split[rows[parts != 0]] = UNUSED
    return split


def stratify(labels: np.ndarray, membership: np.ndarray) -> np.ndarray:
    """The stratum of every row, int (n,): equal for rows of equal label and membership."""
    bits = np.packbits(np.column_stack([labels == 1, membership]), axis=1)
    inverse: np.ndarray = np.unique(bits, axis=0, return_inverse=True)[1]
    return inverse.reshape(-1)


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


def _by_shares(spec: Splits, strata: np.ndarray) -> np.ndarray:
    given = spec.shares or {}
    names = [*spec.present, UNUSED]
    shares = [given[name] for name in spec.present]
    shares.append(max(0.0, 1 - sum(shares)))
    parts = draw(strata, tuple(shares), np.random.default_rng(spec.seed))
    split: np.ndarray = np.array(names)[parts]
    return split


def _by_column(frame: pd.DataFrame, spec: Splits, where: str) -> np.ndarray:
    values = texts(column(frame, str(spec.column), f"{where}.column"))
    meaning = dict.fromkeys(spec.ignore or (), UNUSED)
    for name in spec.present:
        meaning |= dict.fromkeys((spec.names or {}).get(name, (name,)), name)
    unknown = [row for row, value in enumerate(values) if value not in meaning]
    if unknown:
        raise DataError(
            f"column {spec.column!r} has unknown values: {listed(values, np.array(unknown))}",
            where=where,
            allowed=[value for value, name in meaning.items() if name != UNUSED],
            fix="map them in `names: {train: ...}`, or leave their rows out with `ignore: [...]`",
        )
    return np.array([meaning[value] for value in values])
