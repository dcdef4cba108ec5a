"""`one_row_per`: the rows about one thing, one per annotator, become one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import OneRowPer
from mergekit_fair.data.cells import at_row, column, missing, scores, texts, variants
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def merge_units(
    frame: pd.DataFrame,
    unit: OneRowPer,
    used: Collection[str],
    named: Collection[str],
    where: str,
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """One row per value of `unit.column`, in order of first appearance.

    Columns in `unit.mean` hold the mean of the unit's rows, those in `unit.majority` their most
    frequent value, every other column its first row's cell. Cells that hold nothing have no vote;
    a unit that has none is missing there. Units whose vote is a tie are left out.

    Args:
        used: the columns that the description reads; outside `mean` and `majority` they must be
            equal in a unit.
        named: values that are values, whatever they read as ("none").

    Returns:
        The table; int (m,): the row of `frame` that each unit's first row is; and notes.

    Raises:
        DataError: unknown column, a missing key, a mean of values that are not numbers, rows of
            one unit that differ, or no unit without a tie.
    """
    where = f"{where}, one_row_per"
    cells = column(frame, unit.column, f"{where}.column")
    if (gaps := missing(cells)).any():
        raise DataError(
            f"{int(gaps.sum())} of {len(cells)} cells of column {unit.column!r} are missing, "
            f"{at_row(np.flatnonzero(gaps))}",
            where=where,
        )
    _, first, inverse = np.unique(np.array(texts(cells)), return_index=True, return_inverse=True)
    for name in sorted(set(used) - {unit.column, *unit.mean, *unit.majority}):
        values = texts(column(frame, name, where, nested=True))
        _equal_in_units(values, first, inverse, name, where)
    merged = frame.iloc[first].reset_index(drop=True)
    decided, notes = np.ones(len(first), dtype=bool), []
    for name in unit.mean:
        cells = column(frame, name, f"{where}.mean")
        merged[name] = _means(cells, inverse, f"{where}.mean, column {name!r}")
    for name in unit.majority:
        cells = column(frame, name, f"{where}.majority")
        winners, tie = _majorities(cells, first, inverse, named)
        merged[name] = cells.iloc[winners].to_numpy()
        decided &= ~tie
        if tie.any():
            notes.append(
                f"one_row_per: {int(tie.sum())} of {len(first)} units have no most frequent value "
                f"in column {name!r} and are left out"
            )
        notes += [
            f"one_row_per: votes for {' and '.join(map(repr, alike))} in column {name!r} are "
            "counted apart"
            for alike in variants(Counter(texts(cells)))
        ]
    if not decided.any():
        raise DataError("no unit has a most frequent value", where=f"{where}.majority")
    order = np.argsort(first)
    order = order[decided[order]]
    return merged.iloc[order].reset_index(drop=True), first[order], notes


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
                fix="average it with `mean: [...]`, take the most frequent value with "
                "`majority: [...]`, or choose another column to merge by",
            )


def _means(cells: pd.Series, inverse: np.ndarray, where: str) -> np.ndarray:
    """The mean of every unit's numbers, float64 (m,); NaN where it has none."""
    values, gaps = scores(cells, where)
    sums = np.bincount(inverse, weights=np.where(gaps, 0.0, values))
    sizes = np.bincount(inverse, weights=~gaps)
    return np.divide(sums, sizes, out=np.full(len(sums), np.nan), where=sizes > 0)


def _majorities(
    cells: pd.Series, first: np.ndarray, inverse: np.ndarray, named: Collection[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Of every unit a row that holds its most frequent value, int (m,), and whether it is a tie.

    Of a unit without any value its first row, which is no tie.
    """
    values = np.array(texts(cells))
    voting = np.flatnonzero(~missing(cells) | np.isin(values, list(named)))
    winners, tie = first.copy(), np.zeros(len(first), dtype=bool)
    if not voting.size:
        return winners, tie
    names, codes = np.unique(values[voting], return_inverse=True)
    ballots = inverse[voting] * len(names) + codes
    found, example, votes = np.unique(ballots, return_index=True, return_counts=True)
    units = found // len(names)
    most = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(most, units, votes)
    top = votes == most[units]
    tie[:] = np.bincount(units[top], minlength=len(first)) > 1
    winners[units[top]] = voting[example[top]]
    return winners, tie
