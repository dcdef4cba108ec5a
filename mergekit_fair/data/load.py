"""A description becomes rows: which rows of the table count, their inputs, and all the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import COMPARE, UNUSED, Condition, ImageInput, TextInput
from mergekit_fair.data.cells import (
    at_row,
    bare,
    column,
    counted,
    listed,
    reads_as_nothing,
    scores,
    texts,
)
from mergekit_fair.data.cluster_column import (
    cluster_codes_of,
    clusters_apart,
    read_cluster_keys,
)
from mergekit_fair.data.description import DataSpec
from mergekit_fair.data.group_columns import read_groups
from mergekit_fair.data.images import image_file
from mergekit_fair.data.label_column import read_answers
from mergekit_fair.data.row_keys import row_keys
from mergekit_fair.data.rows import Rows
from mergekit_fair.data.splits import assign_splits, check_leaks
from mergekit_fair.data.table import read_table
from mergekit_fair.data.units import merge_units
from mergekit_fair.data.weight_column import read_weights
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


_COPIES = 0.01  # a smaller share of whole copies moves no interval
# Description → rows that were read by it; None where nobody keeps them.
_KEPT: ContextVar[dict[str, Rows] | None] = ContextVar("rows_kept", default=None)


@contextmanager
def rows_kept(rows: dict[str, Rows]) -> Iterator[None]:
    """While open, `load_rows` reads what is not among `rows`, and puts it there.

    The splits of a data set are then of one reading, and the file is read once for all of them.
    """
    token = _KEPT.set(rows)
    try:
        yield
    finally:
        _KEPT.reset(token)


def load_rows(spec: DataSpec, *, as_01: bool = False) -> Rows:
    """Read a data set. The rows keep the order of the source; rows of no split are left out.

    Deterministic: the same source and description give the same rows.

    Args:
        spec: the description.
        as_01: deal `shares` and `limit` as version 0.1 did, to know the rows of its families.

    Raises:
        DataError: the source cannot be read or does not fit its description.

    Example:
        >>> from pathlib import Path
        >>> from mergekit_fair.data import load_spec
        >>> table = "text,hired,sex,part\\n" + "".join(
        ...     f"text {i},{i % 2},{'fm'[i // 2 % 2]},{'train' if i < 8 else 'report'}\\n"
        ...     for i in range(12)
        ... )
        >>> _ = Path("rows.csv").write_text(table)
        >>> rows = load_rows(load_spec({
        ...     "name": "hiring", "source": "rows.csv", "text": "text",
        ...     "label": {"column": "hired"}, "groups": {"column": "sex"},
        ...     "splits": {"column": "part", "names": {"train": "train", "report": "report"}},
        ... }))
        >>> rows.of("report").inputs
        ('text 8', 'text 9', 'text 10', 'text 11')
        >>> rows.of("report").in_group("f").labels.tolist()
        [0, 1]
    """
    kept = _KEPT.get()
    if kept is None or as_01:
        return _read(spec, as_01=as_01)
    key = spec.model_dump_json()
    if key not in kept:
        kept[key] = _read(spec)
    return kept[key]


def _read(spec: DataSpec, *, as_01: bool = False) -> Rows:
    """As `load_rows`."""
    where = f"data set {spec.name!r}"
    table = read_table(spec.source)
    frame, ids, left_out = _rows_that_count(table, spec, where)
    if spec.keep or spec.one_row_per:
        where = f"{where} (numbers of rows: among the {len(frame)} that count)"
    inputs = _read_inputs(frame, spec, where)
    labels = read_answers(frame, spec, where)
    groups = read_groups(frame, spec.groups, where)
    keys = row_keys(inputs, "image" if spec.image else "text")
    codes, dealt = None, None
    if spec.cluster:
        names, known = read_cluster_keys(frame, spec.cluster, where)
        codes, dealt = cluster_codes_of(names, known, ids), np.where(known, names, keys)
    split = assign_splits(
        frame, spec.splits, keys, labels.values, groups.matrix, where, clusters=dealt, as_01=as_01
    )
    split, leaks = check_leaks(keys, split, spec.splits, f"{where}, splits")
    weights = read_weights(frame, spec.weight, split, where) if spec.weight else None
    rows = Rows(
        name=spec.name,
        kind="image" if spec.image else "text",
        inputs=tuple(inputs),
        labels=labels.values,
        label_names=labels.names,
        group_names=groups.names,
        excluded=groups.excluded,
        membership=groups.matrix,
        split=split,
        ids=ids,
        weights=weights,
        clusters=codes,
        warnings=(
            *table.attrs.get("notes", ()),
            *left_out,
            *_copies(frame),
            *_no_texts(inputs, frame, spec.text),
            *labels.warnings,
            *groups.warnings,
            *leaks,
            *(() if codes is None else clusters_apart(codes, split)),
        ),
        spec=spec,
    ).take(split != UNUSED)
    return _with_warnings(rows, where)


def _rows_that_count(
    frame: pd.DataFrame, spec: DataSpec, where: str
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """The table after `keep` and `one_row_per`, the rows' numbers in the source, and notes."""
    ids, notes = np.arange(len(frame), dtype=np.int64), []
    if spec.keep:
        keep = _kept_rows(frame, spec.keep, where)
        if not keep.all():
            gone = int((~keep).sum())
            notes = [f"keep: {gone} of {len(frame)} rows of the source are left out"]
        notes += _nearly_named(frame, spec.keep)
        frame, ids = frame[keep].reset_index(drop=True), ids[keep]
    if spec.one_row_per:
        named = spec.groups.named.union(*(rule.named for rule in spec.label_rules))
        frame, first, ties = merge_units(frame, spec.one_row_per, spec.columns_read, named, where)
        ids, notes = ids[first], notes + ties
    return frame, ids, notes


def _copies(frame: pd.DataFrame) -> list[str]:
    """A note where rows equal another one in every column, and more do than alike people would."""
    by_value = frame.map(str) if "object" in set(map(str, frame.dtypes)) else frame
    copies = int(by_value.duplicated().sum())
    if copies < _COPIES * len(frame):
        return []
    return [
        f"copies: {copies} of {len(frame)} rows equal an earlier row in every column; where they "
        "are the same case and not another one, intervals are too narrow"
    ]


def _kept_rows(frame: pd.DataFrame, conditions: tuple[Condition, ...], where: str) -> np.ndarray:
    """Bool (n,): the rows that meet every condition. A missing cell meets no threshold.

    Raises:
        DataError: unknown column, a value to compare with a threshold that is not a number, or no
            row is left.
    """
    keep = np.ones(len(frame), dtype=bool)
    for index, condition in enumerate(conditions):
        keep &= _meets(frame, condition, f"{where}, keep.{index}")
        if not keep.any():
            raise DataError(
                "no row is left",
                where=f"{where}, keep.{index} (column {condition.column!r})",
                fix="check the condition against the column's values",
            )
    return keep


def _meets(frame: pd.DataFrame, condition: Condition, where: str) -> np.ndarray:
    cells = column(frame, condition.column, f"{where}.column")
    if condition.bound is None:
        named = condition.is_ if condition.is_ is not None else condition.not_
        inside = np.array([value in (named or ()) for value in texts(cells)], dtype=bool)
        return inside if condition.is_ is not None else ~inside
    name, bound = condition.bound
    values, gaps = scores(cells, f"{where}, column {condition.column!r}")
    return np.asarray(~gaps & COMPARE[name](values, bound))


def _nearly_named(frame: pd.DataFrame, conditions: tuple[Condition, ...]) -> Iterator[str]:
    """Said of values that differ from those named in case, blanks or quotes only."""
    for index, condition in enumerate(conditions):
        named = [value for value in condition.is_ or condition.not_ or () if value]
        if not named:
            continue
        alike = {bare(value) for value in named}
        found = Counter(texts(column(frame, condition.column, "keep")))
        others = {x: n for x, n in found.items() if x not in named and bare(x) in alike}
        if others:
            yield f"keep.{index}: {counted(others)} are other values than {named}"


def _read_inputs(frame: pd.DataFrame, spec: DataSpec, where: str) -> list[str]:
    """The n inputs of a table: rendered texts, or paths of images that exist.

    Raises:
        DataError: unknown column, empty text, missing image.
    """
    if spec.image:
        return _image_paths(frame, spec.image, f"{where}, image")
    assert spec.text  # the spec has exactly one of both
    return _rendered(frame, spec.text, f"{where}, text")


def _rendered(frame: pd.DataFrame, text: TextInput, where: str) -> list[str]:
    if text.column:
        rendered = texts(column(frame, text.column, f"{where}.column"))
    else:
        parts: list[list[str]] = []
        for literal, name in text.pieces():
            parts.append([literal] * len(frame))
            if name:
                cells = texts(column(frame, name, f"{where}.template"))
                parts.append(_in_words(cells, name, (text.values or {}).get(name), where))
        rendered = ["".join(row) for row in zip(*parts, strict=True)]
    if empty := [row for row, value in enumerate(rendered) if not value.strip()]:
        raise DataError(
            f"{len(empty)} of {len(rendered)} texts are empty, {at_row(np.array(empty))}",
            where=where,
            fix="remove these rows from the source, or use another column",
        )
    return rendered


def _no_texts(inputs: list[str], frame: pd.DataFrame, text: TextInput | None) -> Iterator[str]:
    """Said of texts such as "nan", which programs write for a missing one, and of gaps in them."""
    if text is None:
        return
    if words := [item for item in inputs if reads_as_nothing(item)]:
        yield f"text: {counted(words)} are read as texts; `keep` can leave their rows out"
    explained = text.values or {}
    for name in dict.fromkeys(name for _, name in text.pieces() if name):
        gaps = sum(not cell.strip() for cell in texts(column(frame, name, "text")))
        if gaps and name not in explained:
            yield f"text: column {name!r} is empty in {gaps} of {len(frame)} rows"


def _in_words(cells: list[str], name: str, meaning: dict[str, str] | None, where: str) -> list[str]:
    if meaning is None:
        return cells
    if unknown := [row for row, cell in enumerate(cells) if cell not in meaning]:
        raise DataError(
            f"values of column {name!r} are not explained: {listed(cells, np.array(unknown))}",
            where=f"{where}.values",
            allowed=list(meaning),
            fix="add what they mean: a code must not end in the text",
        )
    return [meaning[cell] for cell in cells]


def _image_paths(frame: pd.DataFrame, image: ImageInput, where: str) -> list[str]:
    cells = column(frame, image.column, f"{where}.column", nested=True).tolist()
    paths = [image_file(cell, image.folder) for cell in cells]
    if gone := [row for row, path in enumerate(paths) if path is None]:
        first = cells[gone[0]]
        raise DataError(
            f"{len(gone)} of {len(paths)} image files are missing, {at_row(np.array(gone))}: "
            f"{first.get('path') if isinstance(first, dict) else first!r}",
            where=f"{where}.folder {image.folder}",
            fix="check image.folder and the column of file names",
        )
    return [str(path) for path in paths]


def _with_warnings(rows: Rows, where: str) -> Rows:
    if not rows.membership.any():
        raise DataError(
            "no row of any split belongs to a group",
            where=where,
            fix="check the groups, and the limits of the splits",
        )
    return replace(rows, warnings=(*rows.warnings, *_thin_spots(rows)))


def _thin_spots(rows: Rows) -> Iterator[str]:
    """What makes rates of a split undefined: a class, a label or a group that it lacks."""
    for record in rows.counts():
        where, group, n = f"split {record['split']!r}", record["group"], record["n"]
        if group is not None:
            if n == 0:
                yield f"{where}: the group {group!r} has no rows"
        elif rows.label_kind == "binary":
            if record["n_pos"] in (0, n):
                yield f"{where}: all {n} rows have the label {int(record['n_pos'] > 0)}"
        else:
            for name, having in record["n_of"].items():
                if having in (0, n):
                    yield f"{where}: {'all' if having else 'none'} of {n} rows are {name!r}"
