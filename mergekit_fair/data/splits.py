"""Which split a row is in: as a column says, or by a hash of the row; and leaks.

A row is dealt by its own key alone: no other row, and no order, decides where it goes, so that
rows which are appended, removed or sorted move none, and rows of equal inputs share a split. Of
rows that belong to a cluster its key is dealt, so that they share one, too. The place u in [0, 1)
is the hash of key and seed; train is u < a, validation follows, and report is u ≥ 1 − c for shares
a, b and c. A larger share keeps what the smaller one had. Labels and groups are in proportion as by
chance: k rows of n are share · n ± √(share (1 − share) n).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data import shares_of_01
from mergekit_fair.data.blocks import REST, SPLITS, UNUSED, Splits
from mergekit_fair.data.cells import at_row, column, listed, missing, texts
from mergekit_fair.data.row_keys import Keys, places, text_keys
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def assign_splits(
    frame: pd.DataFrame,
    spec: Splits,
    keys: Keys,
    labels: np.ndarray,
    membership: np.ndarray,
    where: str,
    *,
    clusters: Keys | None = None,
    as_01: bool = False,
) -> np.ndarray:
    """The split of every row, str (n,): train, validation, report, or "" for an unused row.

    Args:
        keys: uint64 (n,), of the inputs.
        labels: int8 (n,) or (n, L).
        membership: bool (n, G).
        clusters: uint64 (n,), keys that are dealt in the place of inputs; `by` comes first.
        as_01: deal and limit as version 0.1 did.

    Raises:
        DataError: unknown column or value, a row that cannot be dealt, or a split without rows.
    """
    where = f"{where}, splits"
    strata = stratify(labels, membership)
    by_key = keys if clusters is None else clusters
    if spec.by:
        by_key = text_keys(_units(frame, spec.by, where))
    split = np.full(len(frame), UNUSED, dtype="<U10")
    is_dealt = np.full(len(frame), spec.shares is not None)
    if spec.column:
        split, is_dealt = _by_column(frame, spec, where)
    if as_01 and is_dealt.all() and is_dealt.size:
        split = shares_of_01.dealt(spec, strata)
    elif is_dealt.any():
        split[is_dealt] = _by_shares(spec, by_key[is_dealt])
    _require_rows(split, spec, where)
    for name, limit in spec.limit.items():
        rows = np.flatnonzero(split == name)
        if rows.size > limit:
            kept = (
                shares_of_01.drawn(name, limit, strata[rows], spec.seed)
                if as_01
                else _smallest(limit, strata[rows], places(keys[rows], f"limit {spec.seed}"))
            )
            split[rows[~kept]] = UNUSED
    return split


def _units(frame: pd.DataFrame, name: str, where: str) -> list[str]:
    cells = column(frame, name, f"{where}.by")
    if (gaps := np.flatnonzero(missing(cells))).size:
        raise DataError(
            f"{gaps.size} of {len(cells)} cells of column {name!r} are missing, {at_row(gaps)}",
            where=f"{where}.by",
            fix="fill them in, or leave their rows out with `keep`",
        )
    return texts(cells)


def _by_shares(spec: Splits, keys: Keys) -> np.ndarray:
    train, validation, report = ((spec.shares or {}).get(name, 0.0) for name in SPLITS)
    u = places(keys, f"split {spec.seed}")
    split = np.full(keys.size, UNUSED, dtype="<U10")
    split[u < train + validation] = "validation"
    split[u < train] = "train"
    split[u >= 1 - report] = "report"
    return split


def _smallest(limit: int, strata: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bool (n,): `limit` rows, of every stratum its proportion to within one row.

    The rows of a stratum that come first by their places: another row moves at most one of each
    stratum in or out.
    """
    order = np.lexsort((places, strata))
    _, starts, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    # Cumulated, then rounded: the whole is exact, and many small strata are not all rounded down.
    ends = (starts + sizes) * limit // strata.size
    counts = np.diff(ends, prepend=0)
    kept = np.zeros(strata.size, dtype=bool)
    kept[order] = np.arange(strata.size) - np.repeat(starts, sizes) < np.repeat(counts, sizes)
    return kept


def _require_rows(split: np.ndarray, spec: Splits, where: str) -> None:
    for name in spec.present:
        if not (split == name).any():
            raise DataError(
                f"the split {name!r} has no rows",
                where=where,
                got=dict(Counter(split[split != UNUSED].tolist())),
                fix="check the column's values and `names`, or give larger `shares`",
            )


def check_leaks(
    keys: Keys, split: np.ndarray, spec: Splits, where: str
) -> tuple[np.ndarray, list[str]]:
    """The splits (with `on_leak: drop`, without the leaking rows) and the warnings.

    A row of validation leaks if its input is in train, too; a row of report, if it is in train or
    validation: what is measured there was seen before.

    Raises:
        DataError: `on_leak: error` and a leak, or `drop` leaves a split without rows.
    """
    present = spec.present
    cleaned, pairs, shares = split.copy(), [], []
    for later, name in enumerate(present):
        rows = np.flatnonzero(split == name)
        leaking = np.zeros(rows.size, dtype=bool)
        for earlier in present[:later]:
            shared = np.isin(keys[rows], keys[split == earlier])
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
    """The stratum of every row, int (n,): equal for rows of equal label or labels and membership.

    Args:
        labels: int8 (n,), 0/1 or class numbers; or (n, L), 0/1.
        membership: bool (n, G).
    """
    if labels.ndim == 1:  # a column for each class but the first: of two classes, label == 1
        labels = labels[:, None] == np.arange(1, labels.max(initial=0) + 1)
    bits = np.packbits(np.column_stack([labels == 1, membership]), axis=1)
    inverse: np.ndarray = np.unique(bits, axis=0, return_inverse=True)[1]
    return inverse.reshape(-1)


def _by_column(frame: pd.DataFrame, spec: Splits, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The fixed splits, str (n,), and bool (n,): the rows that are dealt."""
    values = texts(column(frame, str(spec.column), f"{where}.column"))
    meaning: dict[str, str | None] = dict.fromkeys(spec.ignore or (), UNUSED)
    named = spec.names or ({} if spec.deal else {name: (name,) for name in SPLITS})
    for name, its in named.items():
        meaning |= dict.fromkeys(its, name)
    meaning |= dict.fromkeys(spec.deal or (), None)
    rest = REST in (spec.deal or ())
    unknown = [row for row, value in enumerate(values) if value not in meaning and not rest]
    if unknown:
        raise DataError(
            f"column {spec.column!r} has unknown values: {listed(values, np.array(unknown))}",
            where=where,
            allowed=[value for value, name in meaning.items() if name != UNUSED],
            fix="map them in `names: {train: ...}`, or leave their rows out with `ignore: [...]`",
        )
    found = [meaning.get(value) for value in values]
    is_dealt = np.array([name is None for name in found], dtype=bool)
    return np.array([name or UNUSED for name in found], dtype="<U10"), is_dealt
