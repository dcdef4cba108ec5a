"""What the columns of a table look like, and which of them may be text, label and groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.cells import column, missing, texts

if TYPE_CHECKING:
    import pandas as pd

_PROSE = 20  # mean characters of a column that is taken for text
_MOST_GROUPS = 20
_MOST_CLASSES = 2
_SHOWN = 4
# What columns about people are called: the first to offer as groups, and none of an input's.
_ABOUT_PEOPLE = ("sex", "gender", "race", "ethnic", "religion", "group", "identity", "relationship")
# What labels are often called 1 by.
_YES = ("1", "yes", "true", "y", "positive", "toxic", "hate", "good", ">50k")


@dataclass(frozen=True)
class ColumnFacts:
    """One column of a table.

    Attributes:
        name: of the column.
        values: distinct ones that are there → rows, the most frequent first.
        missing: rows without one.
        length: mean characters of a cell.
        is_number: whether every cell that holds something is a number.
    """

    name: str
    values: dict[str, int]
    missing: int
    length: float
    is_number: bool

    @classmethod
    def of(cls, frame: pd.DataFrame, name: str) -> ColumnFacts:
        """Of a column of a table."""
        cells = column(frame, name, "table")
        gone = missing(cells)
        kept = [text for text, is_gone in zip(texts(cells), gone, strict=True) if not is_gone]
        lengths = [len(text) for text in kept] or [0]
        return cls(
            name,
            dict(Counter(kept).most_common()),
            int(gone.sum()),
            float(np.mean(lengths)),
            bool(kept) and all(map(_is_number, kept[:1000])),
        )

    @property
    def shown(self) -> str:
        """Its values in short, for people."""
        first = [value if len(value) <= 24 else f"{value[:23]}…" for value in self.values]
        more = ", …" if len(first) > _SHOWN else ""
        return f"{len(first):,} values: {', '.join(first[:_SHOWN])}{more}"


@dataclass(frozen=True)
class Columns:
    """All columns of a table, in its order."""

    all: tuple[ColumnFacts, ...]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Columns:
        """Of a table as it was read; cells that are lists or mappings are left out.

        Raises:
            DataError: two columns of one name that differ.
        """
        plain = [name for name in dict.fromkeys(frame.columns) if not _is_nested(frame, name)]
        return cls(tuple(ColumnFacts.of(frame, name) for name in plain))

    @property
    def names(self) -> list[str]:
        """In the table's order."""
        return [each.name for each in self.all]

    def __getitem__(self, name: str) -> ColumnFacts:
        return next(each for each in self.all if each.name == name)

    def likely_text(self) -> str | None:
        """The column with the longest cells, if these are prose; None: a table of short ones."""
        longest = max(self.all, key=lambda each: each.length, default=None)
        return longest.name if longest is not None and longest.length >= _PROSE else None

    def likely_label(self) -> str | None:
        """The last column of two values, one that is called label or target before all others."""
        two = [each.name for each in self.all if len(each.values) == _MOST_CLASSES]
        named = [name for name in two if any(w in name.lower() for w in ("label", "target"))]
        found = named or two
        return found[-1] if found else None

    def likely_groups(self, label: str | None) -> list[str]:
        """Columns of a few values, none of them numbers, other than the label; those whose names
        are about people first.
        """
        few = (each for each in self.all if 1 < len(each.values) <= _MOST_GROUPS)
        names = [each.name for each in few if each.name != label and not each.is_number]
        return sorted(names, key=lambda name: not is_about_people(name))

    def likely_split(self) -> str | None:
        """A column that says which rows are for training, validation and the report."""
        for each in self.all:
            if {"train", "validation", "report"} == set(each.values):
                return each.name
        return None

    def template(self, without: list[str]) -> str:
        """`age {age}, job {job}` of all columns but these, and none that is about people."""
        kept = (n for n in self.names if n not in without and not is_about_people(n))
        return ", ".join(f"{name} {{{name}}}" for name in kept)


def is_about_people(name: str) -> bool:
    """Whether a column is called as groups of people are.

    >>> is_about_people("Gender"), is_about_people("occupation")
    (True, False)
    """
    return any(word in name.lower() for word in _ABOUT_PEOPLE)


def likely_positive(values: list[str]) -> str:
    """The value that means 1: one of those that are called so, else the last in order.

    >>> [likely_positive(values) for values in (["no", "yes"], ["<=50K", ">50K"], ["a", "b"])]
    ['yes', '>50K', 'b']
    """
    known = [value for value in values if value.lower() in _YES]
    return known[0] if known else max(values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_nested(frame: pd.DataFrame, name: str) -> bool:
    cells = frame.loc[:, name]
    first = cells.iloc[:, 0] if getattr(cells, "ndim", 1) > 1 else cells
    return any(isinstance(cell, (list, tuple, dict, bytes, np.ndarray)) for cell in first[:100])
