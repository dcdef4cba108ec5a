"""A column's cells, and what each reads as: a text, a number, or nothing."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mergekit_fair.data.blocks import as_text
from mergekit_fair.errors import DataError
from mergekit_fair.schema import suggestion

if TYPE_CHECKING:
    import pandas as pd

# What programs write for nothing, casefolded: pandas' `na_values`, what str() makes of NaT, and \N
# of MySQL, PostgreSQL and Hive.
NOTHING = frozenset(
    [
        "nan",
        "-nan",
        "na",
        "n/a",
        "#na",
        "#n/a",
        "null",
        "none",
        "<na>",
        "nat",
        "1.#ind",
        "-1.#ind",
        "1.#qnan",
        "-1.#qnan",
        "\\n",
        "(null)",
    ]
) | {"", "#n/a n/a"}
# Short enough for a float to tell all of them apart.
_NUMBER = re.compile(r"[+-]?(?=[0-9.]{1,15}$)([0-9]+\.?[0-9]*|\.[0-9]+)")
T = TypeVar("T")
_NESTED = (list, dict, tuple, set, np.ndarray, bytes, bytearray, memoryview)


def reads_as_nothing(text: str) -> bool:
    """Whether a text is what programs write for a missing value: nan, NA, null, None, blanks …

    >>> [text for text in ("NaN", "n/a", "None", " ", "no", "nana") if reads_as_nothing(text)]
    ['NaN', 'n/a', 'None', ' ']
    """
    return text.strip().casefold() in NOTHING


def column(frame: pd.DataFrame, name: str, where: str, *, nested: bool = False) -> pd.Series:
    """The column `name`: texts, numbers, truth values, dates or nothing.

    Args:
        nested: cells may be lists, mappings or bytes, too.

    Raises:
        DataError: no such column (names the nearest one and lists all), two of them that differ, or
            a nested cell.
    """
    import pandas as pd

    known = [str(known) for known in frame.columns]
    if name not in known:
        raise DataError(
            f"no column {name!r}", where=where, allowed=known, fix=suggestion(name, known)
        )
    cells = _only(frame, name, where)
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    if cells.dtype != object or nested:
        return cells
    for row, cell in enumerate(cells.tolist()):
        if isinstance(cell, _NESTED):
            kind = "bytes" if isinstance(cell, (bytes, bytearray, memoryview)) else "a list"
            raise DataError(
                f"row {row} holds {'a mapping' if isinstance(cell, dict) else kind}, and needs "
                "one value",
                where=f"{where}, column {name!r}",
                got=cell,
                fix="lists of groups are read by `groups: {list: …}`",
            )
    return cells


def _only(frame: pd.DataFrame, name: str, where: str) -> pd.Series:
    """The column of that name, or the first of several that are equal."""
    first, *others = (frame.iloc[:, at] for at in np.flatnonzero(frame.columns == name))
    if not all(first.equals(other) for other in others):
        raise DataError(
            f"two columns are called {name!r}, and differ",
            where=where,
            fix="give each a name of its own",
        )
    return first


def missing(cells: pd.Series) -> np.ndarray:
    """Bool (n,): the cells that hold nothing: None, NaN, or a text that reads as nothing."""
    empty: np.ndarray = cells.isna().to_numpy(dtype=bool)
    if _is_numeric(cells):
        return empty
    gone = _each(cells, lambda cell: isinstance(cell, str) and reads_as_nothing(cell), True)
    return empty | np.array(gone, dtype=np.bool_)


def texts(cells: pd.Series) -> list[str]:
    """The cells as text, "" for None and NaN; a text stays what it is, "nan" too."""
    return _each(cells, _cell_text, "")


def distinct(cells: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Int (n,), the number of every cell's text, and the texts, in the order of first rows."""
    import pandas as pd

    codes, values = pd.factorize(np.array(texts(cells), dtype=object))
    return codes, values.tolist()


def _each(cells: pd.Series, read: Callable[[Any], T], nothing: T) -> list[T]:
    """What every cell is read as, `nothing` for None and NaN.

    Of texts and numbers `read` is asked once for each value: a million rows have few.
    """
    import pandas as pd

    if _is_numeric(cells) or isinstance(cells.dtype, pd.StringDtype):
        codes, values = pd.factorize(cells)  # -1 where there is nothing
        found = [*map(read, values.tolist()), nothing]
        return [found[code] for code in codes.tolist()]
    empty = cells.isna().tolist()
    return [
        nothing if gone else read(cell) for cell, gone in zip(cells.tolist(), empty, strict=True)
    ]


def numbers(cells: pd.Series) -> np.ndarray:
    """The cells as float64 (n,); true and false are 1 and 0.

    What is not a finite number is NaN: texts, dates, infinity, and what no float64 can hold.
    """
    import pandas as pd

    is_number = pd.api.types.is_numeric_dtype(cells)
    if cells.dtype == object:
        cells = pd.Series([_scalar(cell) for cell in cells.tolist()], dtype=object)
    elif not is_number and not pd.api.types.is_string_dtype(cells):
        return np.full(len(cells), np.nan)  # dates and durations would become nanoseconds
    values: np.ndarray = pd.to_numeric(cells, errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    values = np.where(np.isfinite(values), values, np.nan)
    if is_number:
        return values
    truth = {"true": 1.0, "false": 0.0}
    items = cells.tolist()
    for row in np.flatnonzero(np.isnan(values)):
        if isinstance(cell := items[row], str):
            values[row] = truth.get(cell.strip().lower(), np.nan)
    return values


def scores(cells: pd.Series, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The cells as float64 (n,), and bool (n,): those that are missing, which are NaN.

    Raises:
        DataError: a cell is neither missing nor a number.
    """
    values, gaps = numbers(cells), missing(cells)
    if (bad := np.flatnonzero(np.isnan(values) & ~gaps)).size:
        raise DataError(
            f"{bad.size} of {len(cells)} values are not numbers: {listed(texts(cells), bad)}",
            where=where,
        )
    return values, gaps


def counted(values: Iterable[str] | Mapping[str, int], most: int = 5) -> str:
    """The most frequent values with their counts: `'a' (3), 'b' (1) and 2 more`."""
    counts = Counter(values).most_common()
    shown = ", ".join(f"{value!r} ({count})" for value, count in counts[:most])
    return f"{shown} and {len(counts) - most} more" if len(counts) > most else shown


def variants(counts: Mapping[str, int]) -> list[list[str]]:
    """Values that differ only in case, blanks, quotes, invisible characters, or as numbers do.

    Returns:
        Of each such set its values, the most frequent one first.

    >>> variants({"male ": 1, "Female": 2, "Male": 3, "1": 5, "1.0": 4})
    [['1', '1.0'], ['Male', 'male ']]
    """
    alike: dict[str, list[str]] = {}
    for value in sorted(counts, key=lambda value: (-counts[value], value)):
        alike.setdefault(bare(value), []).append(value)
    return [names for names in alike.values() if len(names) > 1]


def bare(value: str) -> str:
    """What variants of a value have in common."""
    plain = unicodedata.normalize("NFKC", value).casefold()
    seen = "".join(letter for letter in plain if unicodedata.category(letter) != "Cf")
    words = " ".join(seen.strip("\"' ").split())
    return f"{float(words) + 0:.15g}" if _NUMBER.fullmatch(words) else words


def listed(values: list[str], rows: np.ndarray) -> str:
    """The (up to 5 most frequent) values at `rows` with their counts and the first row."""
    return f"{counted(values[row] for row in rows)}; {at_row(rows)}"


def at_row(rows: np.ndarray) -> str:
    """Where the first of `rows` is, for an error message."""
    return f"first at row {int(rows[0])} (the first data row is 0)"


def _scalar(cell: Any) -> Any:
    """A text or a number as `to_numeric` takes it; None for all else."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, (bool, int, float, Decimal, np.number, np.bool_)):
        try:
            return float(cell)
        except (OverflowError, ValueError, TypeError):
            return None  # an integer of 400 digits, a signalling NaN, a complex number
    return None


def _cell_text(cell: Any) -> str:
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, Decimal):
        return format(cell.normalize() + 0, "f")  # 1.50 and 1.5 are one value, -0 is 0
    return cell if isinstance(cell, str) else str(cell) if _is_nested(cell) else as_text(cell)


def _is_nested(cell: Any) -> bool:
    return isinstance(cell, _NESTED)


def _is_numeric(cells: pd.Series) -> bool:
    return isinstance(cells.dtype, np.dtype) and cells.dtype.kind in "biuf"
