"""Rows of one split whose input is in another one too: what is measured was seen before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mergekit_fair.data.blocks import Splits
from mergekit_fair.data.splits import UNUSED
from mergekit_fair.errors import DataError


def check_leaks(
    inputs: Sequence[str], split: np.ndarray, spec: Splits, where: str
) -> tuple[np.ndarray, list[str]]:
    """The splits (with `on_leak: drop`, without the leaking rows) and the warnings.

    A row of validation leaks if its input is in train; a row of report, if in train or validation.

    Raises:
        DataError: `on_leak: error` and a leak, or `drop` leaves a split without rows.
    """
    present = spec.present
    found: dict[str, set[str]] = {name: set() for name in (*present, UNUSED)}
    for item, name in zip(inputs, split.tolist(), strict=True):
        found[name].add(item)
    kept, pairs, shares = split.copy(), [], []
    for later, name in enumerate(present):
        rows = np.flatnonzero(split == name)
        leaking = np.zeros(rows.size, dtype=bool)
        for earlier in present[:later]:
            shared = np.array(
                [inputs[row] in found[earlier] for row in rows.tolist()], dtype=np.bool_
            )
            leaking |= shared
            if shared.any():
                pairs.append(f"{name} rows in {earlier}: {int(shared.sum())}")
        kept[rows[leaking]] = UNUSED
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
        if not (kept == name).any():
            raise DataError(
                f"no row of {name} is left: {text}", where=where, fix="split the data differently"
            )
    return kept, [f"{text}; these rows were dropped"]
