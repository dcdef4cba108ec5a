"""Which subgroups a row belongs to: none, one or several."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.data.blocks import COMPARE, CROSSED, GroupColumns, as_text
from mergekit_fair.data.cells import (
    at_row,
    column,
    counted,
    distinct,
    reads_as_nothing,
    scores,
    variants,
)
from mergekit_fair.data.list_text import is_bracketed, read_list
from mergekit_fair.errors import DataError
from mergekit_fair.schema import suggestion

if TYPE_CHECKING:
    import pandas as pd

# More names than this are a column of ids or of numbers, not of groups.
MAX_GROUPS = 200

Members = dict[str, np.ndarray]  # group → its row numbers


@dataclass(frozen=True, eq=False)
class Memberships:
    """Group names, the names without a meaning of their own, and bool (n, G)."""

    names: tuple[str, ...]
    excluded: frozenset[str]
    matrix: np.ndarray
    warnings: tuple[str, ...]


def read_groups(frame: pd.DataFrame, spec: GroupColumns, where: str) -> Memberships:
    """The groups of every row. Names are sorted; those of `columns` keep their order.

    Raises:
        DataError: unknown column or name, empty group, score that is not a number, or no group.
    """
    where = f"{where}, groups"
    raw = _raw(frame, spec, where)
    members = _renamed(raw.members, spec, where)
    names = list(members) if spec.columns else sorted(members)
    if not names:
        raise DataError("no row belongs to any group", where=where, fix="check the column")
    notes = [*_gaps(raw, len(frame)), *_alike(members, spec)]
    if spec.only is not None:
        _known(spec.only, names, f"{where}.only")
        names = [name for name in names if name in spec.only]
    _known(spec.exclude, names, f"{where}.exclude")
    if set(names) == set(spec.exclude):
        raise DataError("every group is excluded", where=where, got=names, fix="keep two or more")
    if len(names) > MAX_GROUPS:
        raise DataError(
            f"{len(names)} different groups, at most {MAX_GROUPS}",
            where=where,
            fix="check that it holds groups, or choose some with `only:`",
        )
    matrix = np.zeros((len(frame), len(names)), dtype=bool)
    for index, name in enumerate(names):
        matrix[members[name], index] = True
    return Memberships(tuple(names), frozenset(spec.exclude), matrix, tuple(notes))


@dataclass(frozen=True, eq=False)
class _Raw:
    """The rows of each raw name, how many rows name nothing, and the words that stood for it."""

    members: Members
    outside: int
    words: Counter[str] = field(default_factory=Counter)


def _raw(frame: pd.DataFrame, spec: GroupColumns, where: str) -> _Raw:
    if spec.columns:
        return _from_columns(frame, spec, where)
    if spec.list_:
        return _from_lists(frame, spec, spec.list_, where)
    codes, names = _categories(frame, spec, f"{where}.column")
    ends = np.bincount(codes, minlength=len(names)).cumsum()
    short = codes.astype(np.min_scalar_type(len(names)))  # few names are sorted by counting
    rows = np.split(np.argsort(short, kind="stable"), ends[:-1])
    nothing = {at for at, name in enumerate(names) if _is_nothing(name, spec)}
    words: Counter[str] = Counter()
    for at in sorted(nothing):
        words.update({names[at]: len(rows[at])} if names[at] else {})
    return _Raw(
        {name: rows[at] for at, name in enumerate(names) if at not in nothing},
        sum(len(rows[at]) for at in nothing),
        words,
    )


def _from_lists(frame: pd.DataFrame, spec: GroupColumns, source: str, where: str) -> _Raw:
    cells = column(frame, source, f"{where}.list", nested=True)
    rows: dict[str, list[int]] = {}
    words: Counter[str] = Counter()
    outside = 0
    for row, items in enumerate(_lists(cells, spec.separator, f"{where}.list {source!r}")):
        nothing = {item for item in items if _is_nothing(item, spec)}
        words.update(filter(None, nothing))
        # An empty list is a statement (no group); an empty category is a gap in the data.
        outside += bool(items) and len(nothing) == len(set(items))
        for name in set(items) - nothing:
            rows.setdefault(name, []).append(row)
    return _Raw({name: np.array(numbers) for name, numbers in rows.items()}, outside, words)


def _is_nothing(name: str, spec: GroupColumns) -> bool:
    """A name that the description says is one, whatever it reads as."""
    return reads_as_nothing(name) and name not in spec.named


def _categories(
    frame: pd.DataFrame, spec: GroupColumns, where: str
) -> tuple[np.ndarray, list[str]]:
    """The number of every row's name, and the names: of several columns their names together, or
    what one lacks."""
    import pandas as pd

    codes, rows = np.zeros(len(frame), dtype=np.int64), [tuple[str, ...]()]
    for name in spec.crossed:
        its, values = distinct(column(frame, name, where))
        for value in values:
            if read_list(value) is not None:
                raise DataError(
                    f"column {name!r} holds lists, such as {value!r}",
                    where=where,
                    fix=f"write `list: {name}` in place of `column`",
                )
        codes, pairs = pd.factorize(codes * len(values) + its)
        whole = [divmod(pair, len(values)) for pair in pairs.tolist()]
        rows = [(*rows[before], values[at]) for before, at in whole]
    if len(spec.crossed) == 1:
        return codes, [name for (name,) in rows]
    parts: dict[str, tuple[str, ...]] = {}
    names = []
    for row in rows:
        name = next((value for value in row if _is_nothing(value, spec)), CROSSED.join(row))
        if parts.setdefault(name, row) != row and not _is_nothing(name, spec):
            raise DataError(
                f"{parts[name]} and {row} would both be called {name!r}",
                where=where,
                fix=f"take {CROSSED!r} out of the values",
            )
        names.append(name)
    return codes, names


def _from_columns(frame: pd.DataFrame, spec: GroupColumns, where: str) -> _Raw:
    name, bound = spec.bound or ("gt", 0.5)
    members = {}
    unscored = np.ones(len(frame), dtype=bool)
    for group, source in (spec.columns or {}).items():
        cells = column(frame, source, f"{where}.columns")
        column_where = f"{where}.columns, column {source!r}"
        values, gaps = scores(cells, column_where)
        if gaps.any() and spec.missing != "outside":
            raise DataError(
                f"{int(gaps.sum())} of {len(cells)} scores are missing, "
                f"{at_row(np.flatnonzero(gaps))}",
                where=column_where,
                fix="remove these rows, or write `missing: outside` to count them as no members",
            )
        unscored &= gaps
        members[group] = np.flatnonzero(~gaps & COMPARE[name](values, bound))
        if not members[group].size:
            raise DataError(
                f"the group {group!r} is empty: no row has a value {name} {bound:g}",
                where=column_where,
                fix="check the column and the threshold, or leave the group out",
            )
    return _Raw(members, int(unscored.sum()))


def _lists(cells: pd.Series, separator: str | None, where: str) -> list[list[str]]:
    """The items of every row as texts; one empty text where the cell holds nothing."""
    values: list[list[str]] = []
    for row, (cell, gone) in enumerate(zip(cells.tolist(), _holds_nothing(cells), strict=True)):
        items = [cell if isinstance(cell, str) else ""] if gone else _items(cell, separator)
        if items is None:
            raise DataError(
                f"row {row} holds no list",
                where=where,
                got=cell,
                fix="give the separator of the text, as in `separator: ','`",
            )
        values.append(items)
    return values


def _holds_nothing(cells: pd.Series) -> list[bool]:
    return [
        reads_as_nothing(cell) and cell != "" if isinstance(cell, str) else bool(gone)
        for cell, gone in zip(cells.tolist(), cells.isna().tolist(), strict=True)
    ]


def _items(cell: Any, separator: str | None) -> list[str] | None:
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    if isinstance(cell, str):
        if (items := read_list(cell)) is not None:
            return _items(items, separator)
        if cell and not separator:
            return None
        if is_bracketed(cell):
            if cell[0].isalpha() or '"' in cell or "'" in cell:
                return None
            cell = cell[1:-1]
        return [item for part in cell.split(separator) if (item := part.strip())]
    if not isinstance(cell, (list, tuple, set)) or any(isinstance(x, (list, dict)) for x in cell):
        return None
    return [as_text(item).strip() for item in cell]


def _gaps(raw: _Raw, n: int) -> Iterator[str]:
    """What to say of rows that name nothing."""
    if raw.outside:
        yield f"groups: {raw.outside} of {n} rows name no group and belong to none"
    if raw.words:
        yield (
            f"groups: read as no name: {counted(raw.words)}; a group that is called so is named in "
            "`only`, `exclude` or `rename`"
        )


def _alike(members: Members, spec: GroupColumns) -> Iterator[str]:
    """What to write where one group may have two names."""
    if spec.columns:
        return
    sizes = {name: len(rows) for name, rows in members.items()}
    for first, *others in variants(sizes):
        rename = ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {first}" for name in others)
        shown = ", ".join(f"{name!r} ({sizes[name]})" for name in (first, *others))
        yield f"groups: {shown} look like one group; to make them one: `rename: {{{rename}}}`"


def _renamed(members: Members, spec: GroupColumns, where: str) -> Members:
    """Raw names → names; two raw names may become one group."""
    _known(tuple(spec.rename), list(members), f"{where}.rename")
    renamed: dict[str, list[np.ndarray]] = {}
    for raw, rows in members.items():
        renamed.setdefault(spec.rename.get(raw, raw), []).append(rows)
    return {
        name: rows[0] if len(rows) == 1 else np.unique(np.concatenate(rows))
        for name, rows in renamed.items()
    }


def _known(wanted: tuple[str, ...], names: list[str], where: str) -> None:
    for name in wanted:
        if name not in names:
            raise DataError(
                f"unknown group {name!r}",
                where=where,
                allowed=names[:MAX_GROUPS],
                fix=suggestion(name, names),
            )
