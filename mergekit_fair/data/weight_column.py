"""What a row counts for: the sampling weights of a survey, a number from 0 up for every row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import SPLITS
from mergekit_fair.data.cells import column, listed, numbers, texts
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def read_weights(frame: pd.DataFrame, name: str, split: np.ndarray, where: str) -> np.ndarray:
    """The weights, float64 (n,), finite and >= 0.

    Args:
        split: str (n,), the split of every row.

    Raises:
        DataError: unknown column, a cell that is missing or no such number, or a split whose
            weights are all 0 or add up to more than a number holds.
    """
    cells = column(frame, name, f"{where}, weight")
    where = f"{where}, weight column {name!r}"
    weights = numbers(cells)
    if (bad := np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))).size:
        raise DataError(
            f"{bad.size} of {len(cells)} values are no weights: {listed(texts(cells), bad)}",
            where=where,
            allowed="finite numbers, 0 or more",
            fix="repair these rows, or leave them out with `keep:`",
        )
    for part in SPLITS:
        inside = weights[split == part]
        with np.errstate(over="ignore"):
            total = float(inside.sum())
        if inside.size and not 0 < total < np.inf:
            raise DataError(
                f"the weights of the split {part!r} add up to {total:g}",
                where=where,
                allowed="a finite number above 0",
            )
    return weights
