"""csv and tsv: lines become cells, and no cell swallows a row.

Quotes are those of RFC 4180: a cell that begins with one ends with one, and one inside is doubled.
A file whose quotes are ordinary characters (tweets) is read wrongly so: a cell that begins with a
quote runs on to the next one, over all the rows between, and often looks well formed. What shows
it is that the lines inside would be rows by themselves.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.data.blocks import Source
from mergekit_fair.data.cells import missing, numbers, reads_as_nothing
from mergekit_fair.data.text_file import open_text
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 20_000  # rows that are Python's texts at a time
FEW = 50  # values; a column of more is free text or numbers
_FIX = "write `quotes: none` if quotes are ordinary characters here"


def read_separated(path: Path, source: Source) -> pd.DataFrame:
    """The table; every cell is text, stripped. Its attribute "notes" is what a reader should know.

    Raises:
        DataError: an unbalanced quote, a cell that swallows rows, a row of other length, no header,
            or numbers with a point where `decimal` says otherwise.
    """
    with open_text(path, source.encoding) as stream, _long_cells():
        records = _Records(path, source, stream)
        rows = iter(records)
        header = _header(rows, records)
        table = _table(header, _checked(rows, records, header))
    swallowing = _swallowing(records, table)
    if swallowing and source.quotes is None:
        raise DataError(
            f"cells of {len(swallowing)} rows hold lines that look like rows of their own, first "
            f"row {swallowing[0].row} ({swallowing[0].place})",
            where=path,
            fix=f"{_FIX}, or `quotes: standard` if the lines do belong to the cell",
        )
    if source.decimal not in (None, "."):
        table = table.apply(_with_points, decimal=str(source.decimal), path=path)
    note = f"source: lines that look like rows are part of cells in {len(swallowing)} rows"
    table.attrs["notes"] = [f"{note}, first in {swallowing[0].place}"] if swallowing else []
    return table


@contextmanager
def _long_cells() -> Iterator[None]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


@dataclass(frozen=True)
class _Spanning:
    """A row that spans lines: its number, where it is, and the columns whose cells hold line ends.

    `first` and `last` are the first and the last of these columns.
    """

    row: int
    place: str
    lines: tuple[str, ...]
    first: int
    last: int


@dataclass
class _Records:
    """The records of a file in turn; keeps those that span lines."""

    path: Path
    source: Source
    stream: Iterable[str]
    row: int = field(init=False)
    line: int = 0
    taken: list[str] = field(default_factory=list)
    spanning: list[_Spanning] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row = 0 if self.source.columns else -1  # the header is row -1

    def __iter__(self) -> Iterator[list[str]]:
        reader = csv.reader(self._lines(), **self._dialect())
        while True:
            self.taken.clear()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise self._unbalanced(error) from error
            if cells is None:
                return
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue
            if len(self.taken) > 1:
                self._keep(cells)
            yield cells
            self.row += 1

    @property
    def place(self) -> str:
        """The lines of the record that was read last."""
        first = self.line - len(self.taken) + 1
        return f"line {self.line}" if first == self.line else f"lines {first} to {self.line}"

    @property
    def separator(self) -> str:
        return self.source.separator or ("\t" if self.source.table_format == "tsv" else ",")

    def _dialect(self) -> dict[str, Any]:
        dialect: dict[str, Any] = {"delimiter": self.separator, "strict": True}
        dialect["skipinitialspace"] = self.separator != " "
        if self.source.quotes == "none":
            return dialect | {"quoting": csv.QUOTE_NONE}
        if self.source.quotes not in (None, "standard"):
            dialect["quotechar"] = self.source.quotes
        return dialect

    def _lines(self) -> Iterator[str]:
        for self.line, line in enumerate(self.stream, start=1):  # noqa: B020
            if "\0" in line:
                raise DataError(
                    f"line {self.line} holds a NUL character",
                    where=self.path,
                    fix="name the file's encoding, such as `encoding: utf-16-le`",
                )
            self.taken.append(line)
            yield line

    def _keep(self, cells: list[str]) -> None:
        wide = [at for at, cell in enumerate(cells) if "\n" in cell or "\r" in cell]
        if wide and self.row >= 0:
            lines = tuple(line for line in self.taken if line.strip())
            self.spanning.append(_Spanning(self.row, self.place, lines, wide[0], wide[-1]))

    def _unbalanced(self, error: csv.Error) -> DataError:
        row = "the header" if self.row < 0 else f"row {self.row}"
        more = len(self.taken) - 1
        swallowed = f", and swallows {more} more line{'s' * (more > 1)}" if more else ""
        return DataError(
            f"{row} ({self.place}): a cell begins with a quote that nothing closes as it should"
            f"{swallowed} ({error})",
            where=self.path,
            fix=f"{_FIX}; else quotes inside a quoted cell are doubled, and a separator follows "
            "the closing one",
        )


def _header(rows: Iterator[list[str]], records: _Records) -> list[str]:
    """The columns' names; a nameless one is numbered, as pandas does."""
    names = list(records.source.columns or next(rows, ()))
    if not names:
        raise DataError("the file is empty", where=records.path)
    return [name.strip() or f"Unnamed: {at}" for at, name in enumerate(names)]


def _checked(
    rows: Iterable[list[str]], records: _Records, header: list[str]
) -> Iterator[list[str]]:
    for cells in rows:
        if len(cells) != len(header):
            raise _ragged(records, cells, len(header))
        if cells[0].strip() == header[0] and [cell.strip() for cell in cells] == header:
            raise DataError(
                f"row {records.row} ({records.place}) holds the columns' names",
                where=records.path,
                fix="remove it (were files joined?), or leave `source.columns` out",
            )
        yield cells


def _ragged(records: _Records, cells: list[str], columns: int) -> DataError:
    fix = "check the separator and the quotes"
    if len(cells) == columns + 1 and not cells[-1].strip():
        fix = "remove the separator at the lines' ends, or let the header end with one, too"
    elif len(records.taken) > 1:
        fix = _FIX
    named = "source.columns names" if records.source.columns else "the header has"
    return DataError(
        f"row {records.row} ({records.place}) has {len(cells)} columns, and {named} {columns}",
        where=records.path,
        fix=fix,
    )


def _table(header: list[str], rows: Iterator[list[str]]) -> pd.DataFrame:
    import pandas as pd

    chunks = []
    while chunk := list(itertools.islice(rows, CHUNK)):
        columns = [_cleaned(column) for column in zip(*chunk, strict=True)]
        chunks.append(pd.DataFrame(dict(enumerate(columns)), dtype="str"))
    empty = pd.DataFrame(columns=range(len(header)), dtype="str")
    table = pd.concat(chunks, ignore_index=True) if chunks else empty
    table.columns = header  # not before: two may have one name
    return table


def _cleaned(column: Iterable[str]) -> list[str]:
    """Each value once: most columns have few."""
    clean = {cell: _clean(cell) for cell in set(column)}
    return [clean[cell] for cell in column]


def _clean(cell: str) -> str:
    cell = cell.strip()
    # ="0012" is how spreadsheets write a text that looks like a number.
    return cell[2:-1] if cell.startswith('="') and cell.endswith('"') and len(cell) > 2 else cell


def _with_points(cells: pd.Series, decimal: str, path: Path) -> pd.Series:
    """A column whose cells are all numbers with `decimal`, with a point; any other as it is."""
    import pandas as pd

    values = [cell for cell in cells.unique().tolist() if not reads_as_nothing(cell)]
    mark = re.escape(decimal)
    number = re.compile(rf"[+-]?(\d+({mark}\d*)?|{mark}\d+)([eE][+-]?\d+)?")
    if all(number.fullmatch(value) for value in values):
        return cells.str.replace(decimal, ".", regex=False)
    if not np.isnan(numbers(pd.Series(values, dtype="str"))).any():
        shown = next(value for value in values if not number.fullmatch(value))
        raise DataError(
            f"column {cells.name!r} holds numbers with another mark, such as {shown!r}",
            where=path,
            got=f"decimal: {decimal}",
            fix="take out marks between thousands, or correct `decimal`",
        )
    return cells


@dataclass(frozen=True)
class _Expected:
    """What cells of a column look like: one of few values, or a number; all else is free text."""

    values: frozenset[str] = frozenset()
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, cells: pd.Series) -> _Expected | None:
        values, known = cells.unique(), numbers(cells)[~missing(cells)]
        is_number = bool(known.size) and not np.isnan(known).any()
        if is_number and len(cells) < FEW:
            return cls(low=-math.inf, high=math.inf)
        if 0 < len(values) <= min(FEW, len(cells) / 2):
            return cls(frozenset(values.tolist()))
        if not is_number:
            return None
        low, high = float(known.min()), float(known.max())
        return cls(low=2 * low - high, high=2 * high - low)  # an end may be what is swallowed

    def meets(self, cell: str) -> bool:
        if self.values:
            return cell in self.values
        try:
            return self.low <= float(cell) <= self.high
        except ValueError:
            return False


def _swallowing(records: _Records, table: pd.DataFrame) -> list[_Spanning]:
    """The rows that several rows have become, by how their lines look."""
    if not records.spanning:
        return []
    alone = np.ones(len(table), dtype=bool)
    alone[[spanning.row for spanning in records.spanning]] = False
    expected = [_Expected.of(cells[alone]) for _, cells in table.items()]
    separator = records.separator
    return [x for x in records.spanning if _looks_like_rows(x, expected, separator)]


def _looks_like_rows(spanning: _Spanning, expected: list[_Expected | None], separator: str) -> bool:
    """Whether its lines would be rows, or parts of rows, if quotes were ordinary characters.

    Of a cell of several lines in column c, what stands in a line after c belongs to the cell,
    except in the last line; what stands before c too, except in the first. If the lines are rows,
    these fields hold what their columns hold elsewhere; in a text they hold words or do not exist.
    Two fields of one line that all fit are enough; else every line must have the length of a row,
    and half of the fields must fit.
    """
    lines = [[cell.strip() for cell in line.split(separator)] for line in spanning.lines]
    before, after = spanning.last, len(expected) - 1 - spanning.first
    ends = [
        *((expected[-after:], line[-after:]) for line in lines[:-1] if len(line) > after > 0),
        *((expected[:before], line[:before]) for line in lines[1:] if len(line) > before),
        *((expected, line) for line in lines[1:-1] if len(line) == len(expected)),
    ]
    fits = [
        [column.meets(cell) for column, cell in zip(columns, cells, strict=True) if column]
        for columns, cells in ends
    ]
    if any(len(fit) > 1 and all(fit) for fit in fits):
        return True
    long = min(len(line) for line in lines) >= len(expected)
    exact = all(len(line) == len(expected) for line in lines[1:-1])
    seen = list(itertools.chain(*fits))
    return long and exact and 2 * sum(seen) >= len(seen)
