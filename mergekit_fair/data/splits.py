"""Which split a row is in: as a column says, or by seeded shares of every stratum; and leaks.

A stratum is the rows of one label and one pattern of group membership. A subset is never the
head of a split: it is drawn with the seed from every stratum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import SPLITS, Splits
from mergekit_fair.data.table import column, listed, texts
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
            share = limit / rows.size
            # A stream of its own: the limit of one split does not move the others.
            rng = np.random.default_rng([spec.seed, 1 + SPLITS.index(name)])
            parts = draw(strata[rows], (share, 1 - share), rng)
            split[rows[parts != 0]] = UNUSED
    return split


def check_leaks(
    inputs: Sequence[str], split: np.ndarray, spec: Splits, where: str
) -> tuple[np.ndarray, list[str]]:
    """The splits (with `on_leak: drop`, without the leaking rows) and the warnings.

    A row of validation leaks if its input is in train, too; a row of report, if it is in train or
    validation: what is measured there was seen before.

    Raises:
        DataError: `on_leak: error` and a leak, or `drop` leaves a split without rows.
    """
    present = spec.present
    inputs_of: dict[str, set[str]] = {name: set() for name in (*present, UNUSED)}
    for item, name in zip(inputs, split.tolist(), strict=True):
        inputs_of[name].add(item)
    cleaned, pairs, shares = split.copy(), [], []
    for later, name in enumerate(present):
        rows = np.flatnonzero(split == name)
        leaking = np.zeros(rows.size, dtype=bool)
        for earlier in present[:later]:
            shared = np.array(
                [inputs[row] in inputs_of[earlier] for row in rows.tolist()], dtype=np.bool_
            )
            leaking |= shared
            if shared.any():
                pairs.append(f"{name} rows in {earlier}: {int(shared.sum())}")
        cleaned[rows[leaking]] = UNUSED
        if leaking.any():
            shares.append(f"{leaking.mean():.1%} of the {name} rows")
    if not pairs:
        return split, []
    text = (
        f"identical inputs in two splits ({', '.join(pairs)}): {' and '.join(shares)} are affected"
    )
    if spec.on_leak == "error":
        raise DataError(text, where=where, fix="write `on_leak: drop` to leave these rows out")
    if spec.on_leak == "warn":
        return split, [f"{text}; `on_leak: drop` leaves them out"]
    for name in present:
        if not (cleaned == name).any():
            raise DataError(
                f"no row of {name} is left: {text}", where=where, fix="split the data differently"
            )
    return cleaned, [f"{text}; these rows were dropped"]


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
    names = [*spec.present, UNUSED]
    shares = [(spec.shares or {})[name] for name in spec.present]
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
