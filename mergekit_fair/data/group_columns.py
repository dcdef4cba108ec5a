"""Which subgroups a row belongs to: none, one or several."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.data.blocks import COMPARE, GroupColumns, as_text
from mergekit_fair.data.table import at_row, column, scores, texts
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
    members, outside = _members(frame, spec, where)
    members = _renamed(members, spec, where)
    names = list(members) if spec.columns else sorted(members)
    if not names:
        raise DataError("no row belongs to any group", where=where, fix="check the column")
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
    note = f"{outside} of {len(frame)} rows name no group and belong to none"
    return Memberships(
        tuple(names), frozenset(spec.exclude), matrix, (f"groups: {note}",) if outside else ()
    )


def _members(frame: pd.DataFrame, spec: GroupColumns, where: str) -> tuple[Members, int]:
    """The rows of each raw name, and how many rows hold nothing."""
    if spec.columns:
        return _from_columns(frame, spec, where)
    if spec.list_:
        cells = column(frame, spec.list_, f"{where}.list")
        values = _lists(cells, spec.separator, f"{where}.list {spec.list_!r}")
    else:
        cells = column(frame, str(spec.column), f"{where}.column")
        values = [[value] for value in texts(cells)]
    rows: dict[str, list[int]] = {}
    outside = 0
    for row, names in enumerate(values):
        named = {name for name in names if name}
        outside += not named
        for name in named:
            rows.setdefault(name, []).append(row)
    # An empty list is a statement (no group); an empty category is a gap in the data.
    return {name: np.array(numbers) for name, numbers in rows.items()}, outside * (not spec.list_)


def _from_columns(frame: pd.DataFrame, spec: GroupColumns, where: str) -> tuple[Members, int]:
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
    return members, int(unscored.sum())


def _lists(cells: pd.Series, separator: str | None, where: str) -> list[list[str]]:
    values: list[list[str]] = []
    for row, cell in enumerate(cells.tolist()):
        if isinstance(cell, (list, tuple, np.ndarray)):
            values.append([as_text(item).strip() for item in cell])
        elif _is_nothing(cell):
            values.append([])
        elif isinstance(cell, str) and separator:
            values.append([item.strip() for item in cell.split(separator)])
        else:
            raise DataError(
                f"row {row} holds no list",
                where=where,
                got=cell,
                fix="give the separator of the text, as in `separator: ','`",
            )
    return values


def _is_nothing(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _renamed(members: Members, spec: GroupColumns, where: str) -> Members:
    """Raw names → names; two raw names may become one group."""
    _known(tuple(spec.rename), list(members), f"{where}.rename")
    renamed: dict[str, list[np.ndarray]] = {}
    for raw, rows in members.items():
        renamed.setdefault(spec.rename.get(raw, raw), []).append(rows)
    return {name: np.unique(np.concatenate(rows)) for name, rows in renamed.items()}


def _known(wanted: tuple[str, ...], names: list[str], where: str) -> None:
    for name in wanted:
        if name not in names:
            raise DataError(
                f"unknown group {name!r}",
                where=where,
                allowed=names[:MAX_GROUPS],
                fix=suggestion(name, names),
            )
