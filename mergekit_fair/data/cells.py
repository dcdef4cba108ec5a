"""What a cell of a table reads as: text, number or nothing; and how a column is found."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.errors import DataError
from mergekit_fair.schema import nearest

if TYPE_CHECKING:
    import pandas as pd


def as_text(value: Any) -> str:
    """The text by which a value of YAML and a cell are compared.

    Nothing is "", and a whole float reads as an integer: 1, 1.0 and "1" are then one value,
    and an integer column that became float because a cell is missing renders as integers.
    """
    if value is None or value != value:  # NaN is the value that differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def column(frame: pd.DataFrame, name: str, where: str) -> pd.Series:
    """The column `name`.

    Raises:
        DataError: no such column; names the nearest one and lists all.
    """
    known = [str(known) for known in frame.columns]
    if name not in known:
        raise DataError(
            f"no column {name!r}", where=where, allowed=known, fix=suggestion(name, known)
        )
    return frame[name]


def suggestion(name: str, known: list[str]) -> str | None:
    """`did you mean 'x'?`, or None when no known name is near."""
    return nearest(name, known).removeprefix("; ") or None


def missing(cells: pd.Series) -> np.ndarray:
    """Bool (n,): the cells that hold nothing (None, NaN or empty text)."""
    empty: np.ndarray = cells.isna().to_numpy(dtype=bool)
    if _is_numeric(cells):
        return empty
    blank = [isinstance(cell, str) and not cell.strip() for cell in cells.tolist()]
    return empty | np.array(blank, dtype=np.bool_)


def texts(cells: pd.Series) -> list[str]:
    """The cells as text, "" for a missing one."""
    empty = cells.isna().tolist()
    return [
        "" if gone else _cell_text(cell) for cell, gone in zip(cells.tolist(), empty, strict=True)
    ]


def numbers(cells: pd.Series) -> np.ndarray:
    """The cells as float64 (n,); true and false are 1 and 0, whatever is no number is NaN."""
    import pandas as pd

    values: np.ndarray = pd.to_numeric(cells, errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    if _is_numeric(cells):
        return values
    values = values.copy()
    truth = {"true": 1.0, "false": 0.0}
    found = cells.tolist()
    for row in np.flatnonzero(np.isnan(values)):
        if isinstance(cell := found[row], str):
            values[row] = truth.get(cell.strip().lower(), np.nan)
    return values


def listed(values: list[str], rows: np.ndarray) -> str:
    """The (up to 5 most frequent) values at `rows` with their counts and the first row."""
    counts = Counter(values[row] for row in rows).most_common()
    shown = ", ".join(f"{value!r} ({count})" for value, count in counts[:5])
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    return f"{shown}{more}; {at_row(rows)}"


def at_row(rows: np.ndarray) -> str:
    """Where the first of `rows` is, for an error message."""
    return f"first at row {int(rows[0])} (the first data row is 0)"


def _cell_text(cell: Any) -> str:
    return cell if isinstance(cell, str) else str(cell) if _is_container(cell) else as_text(cell)


def _is_container(cell: Any) -> bool:
    return isinstance(cell, (list, dict, tuple, np.ndarray))


def _is_numeric(cells: pd.Series) -> bool:
    return isinstance(cells.dtype, np.dtype) and cells.dtype.kind in "biuf"
