"""Several rows about one thing (one per annotator) become one row.

Without this the same input would stand in several splits, and in a group and out of it at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import Text
from mergekit_fair.data.cells import at_row, column, missing, numbers, texts
from mergekit_fair.errors import DataError
from mergekit_fair.schema import Strict

if TYPE_CHECKING:
    from collections.abc import Collection

    import pandas as pd


class OneRowPer(Strict):
    """The column that says which rows belong together, and the columns to average over them."""

    column: Text
    mean: tuple[Text, ...] = ()


def merge_units(
    frame: pd.DataFrame, unit: OneRowPer, used: Collection[str], where: str
) -> tuple[pd.DataFrame, np.ndarray]:
    """One row per value of `unit.column`, in order of first appearance.

    Columns in `unit.mean` hold the mean of the unit's rows, every other column its first row's
    cell.

    Args:
        used: the columns that the description reads; outside `mean` they must be equal in a unit.

    Returns:
        The table, and int (m,): the row of `frame` that each unit's first row is.

    Raises:
        DataError: unknown column, a missing key, a mean of what is no number, or rows of one unit
            that differ.
    """
    where = f"{where}, one_row_per"
    cells = column(frame, unit.column, f"{where}.column")
    if (gaps := missing(cells)).any():
        raise DataError(
            f"{int(gaps.sum())} of {len(cells)} cells of column {unit.column!r} are missing, "
            f"{at_row(np.flatnonzero(gaps))}",
            where=where,
        )
    _, first, inverse, sizes = np.unique(
        np.array(texts(cells)), return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    for name in sorted(set(used) - {unit.column, *unit.mean}):
        _equal_in_units(texts(column(frame, name, where)), first, inverse, name, where)
    merged = frame.iloc[first[order]].reset_index(drop=True)
    for name in unit.mean:
        values = numbers(column(frame, name, f"{where}.mean"))
        if (bad := np.flatnonzero(np.isnan(values))).size:
            raise DataError(
                f"{bad.size} of {len(values)} values are not numbers, {at_row(bad)}",
                where=f"{where}.mean, column {name!r}",
            )
        merged[name] = (np.bincount(inverse, weights=values) / sizes)[order]
    return merged, first[order]


def _equal_in_units(
    values: list[str], first: np.ndarray, inverse: np.ndarray, name: str, where: str
) -> None:
    expected = first[inverse].tolist()
    for row, start in enumerate(expected):
        if values[row] != values[start]:
            raise DataError(
                f"column {name!r} differs between rows {start} and {row} of one unit",
                where=where,
                got=[values[start], values[row]],
                fix="average it with `mean: [...]`, or choose another column to merge by",
            )
