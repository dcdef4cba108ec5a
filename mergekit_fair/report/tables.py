"""One table, shown as text in a terminal, as Markdown, and as HTML (by `templates/page.html`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rich.cells import cell_len

from mergekit_fair.escaping import Raw, in_markdown, one_line


@dataclass(frozen=True)
class Cell:
    """A number as text, with its interval or p-value behind it.

    Attributes:
        text: the number, or words.
        note: shown small.
        strong: it is claimed (`fairness.claims`); bold, or marked `!` in text. Nothing else is.
    """

    text: str
    note: str = ""
    strong: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.note}".rstrip() + (" !" if self.strong else "")


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        head: its name.
        cells: one a column, or a single one that spans all.
        tags: what forbids or qualifies a reading of its numbers.
        chosen: it is the selected point.
        minor: it could not be chosen, whatever its numbers.
    """

    head: str
    cells: Sequence[Cell]
    tags: Sequence[str] = ()
    chosen: bool = False
    minor: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under titles.

    Attributes:
        caption: what it shows; a table of a page needs a name.
        corner: title of the column of row names.
        columns: titles of the others.
        sections: title, or nothing, and rows.
        foot: a sentence below.
        numeric: columns hold numbers and are set to the right where a page shows them.
        needed: columns that a narrow terminal shows in any case; None: all.
    """

    caption: str
    corner: str
    columns: Sequence[str]
    sections: Sequence[tuple[str, Sequence[Row]]] = field(default=())
    foot: str = ""
    numeric: bool = True
    needed: int | None = None

    @classmethod
    def plain(cls, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
        """Of texts alone, the first of each row being its name.

        >>> print(as_text(Table.plain(["group", "n"], [["女性", "7"], ["Male", "13"]])))
        group  n
        女性   7
        Male   13
        """
        body = [Row(head, [Cell(text) for text in cells]) for head, *cells in rows]
        return cls("", titles[0], titles[1:], [("", body)])


class IntervalLike(Protocol):
    """A value and its confidence limits; None means undefined."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def value_text(value: float | None, sign: str = "") -> str:
    """Three decimals, or a dash for None."""
    return "–" if value is None else f"{value:{sign}.3f}"


def interval_cell(entry: IntervalLike, sign: str = "", *, strong: bool = False) -> Cell:
    """`0.123 [0.100, 0.150]`."""
    if entry.value is None or entry.low is None or entry.high is None:
        return Cell(value_text(entry.value, sign))
    note = f"[{value_text(entry.low, sign)}, {value_text(entry.high, sign)}]"
    return Cell(value_text(entry.value, sign), note, strong)


def interval_text(entry: IntervalLike, sign: str = "") -> str:
    """The same as text."""
    return str(interval_cell(entry, sign))


def short(name: str, size: int = 40) -> str:
    """The beginning and the end of a name that is too long for a column.

    >>> short("a" * 30 + "b" * 30, 20), short("Female")
    ('aaaaaaaaaaaaaa…bbbbb', 'Female')
    """
    end = size // 4
    return name if len(name) <= size else f"{name[: size - end - 1]}…{name[-end:]}"


def as_text(table: Table, width: int | None = None) -> str:
    """Columns of text, aligned by what a terminal shows; `*` marks the chosen row.

    Args:
        table: its caption is not shown.
        width: columns that are not needed are left out where a line would be longer.
    """
    rows = [["", table.corner, *table.columns, ""]]
    for title, body in table.sections:
        rows += [["", title, *[""] * len(table.columns), ""]] if title else []
        rows += [_texts(row, len(table.columns)) for row in body]
    columns = list(zip(*([one_line(cell) for cell in row] for row in rows), strict=True))
    if width is not None and table.needed is not None:
        first, more, last = columns[: 2 + table.needed], columns[2 + table.needed : -1], columns[-1]
        room = width - _width([*first, last])
        columns = [*first, *_fitting(more, room), last]
    columns = [column for column in columns if any(column)]
    widths = [max(map(cell_len, column)) for column in columns]
    lines = [
        "  ".join(_padded(cell, size) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    return "\n".join([*lines, *([one_line(table.foot)] if table.foot else [])])


def _texts(row: Row, columns: int) -> list[str]:
    start, tags = ["*" if row.chosen else "", row.head], " ".join(row.tags)
    if len(row.cells) != columns:  # one cell that spans all
        return [*start, *[""] * columns, " ".join([tags, *map(str, row.cells)]).strip()]
    return [*start, *map(str, row.cells), tags]


def _width(columns: Sequence[tuple[str, ...]]) -> int:
    shown = [max(map(cell_len, column)) for column in columns]
    return sum(size + 2 for size in shown if size) - 2


def _fitting(columns: Sequence[tuple[str, ...]], room: int) -> list[tuple[str, ...]]:
    """The first columns that there is room for."""
    shown: list[tuple[str, ...]] = []
    for column in columns:
        room -= 2 + max(map(cell_len, column))
        if room < 0:
            break
        shown.append(column)
    return shown


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def as_markdown(table: Table) -> Raw:
    """A pipe table without caption and foot; sections have their titles in its first column."""
    count, right = len(table.columns), "--:" if table.numeric else "---"
    lines = [
        [in_markdown(table.corner), *map(in_markdown, table.columns)],
        ["---", *[right] * count],
    ]
    for title, rows in table.sections:
        if title:
            lines.append([f"**{in_markdown(title)}**", *[""] * count])
        for row in rows:
            name = f"**{in_markdown(row.head)}**" if row.chosen else in_markdown(row.head)
            head = " ".join([name, *(f"*{in_markdown(tag)}*" for tag in row.tags)])
            cells = [_markdown_cell(cell) for cell in row.cells]
            lines.append([head, *cells, *[""] * (count - len(cells))])
    return Raw("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _markdown_cell(cell: Cell) -> str:
    text = f"**{in_markdown(cell.text)}**" if cell.strong else in_markdown(cell.text)
    return f"{text} {in_markdown(cell.note)}".rstrip()
