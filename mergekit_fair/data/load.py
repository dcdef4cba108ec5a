"""A description becomes rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.conditions import kept_rows
from mergekit_fair.data.description import DataSpec
from mergekit_fair.data.group_columns import read_groups
from mergekit_fair.data.label_column import read_labels
from mergekit_fair.data.leaks import check_leaks
from mergekit_fair.data.row_inputs import read_inputs
from mergekit_fair.data.rows import Rows
from mergekit_fair.data.splits import UNUSED, assign_splits
from mergekit_fair.data.table import read_table
from mergekit_fair.data.units import merge_units
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def load_rows(spec: DataSpec) -> Rows:
    """Read a data set. The rows keep the order of the source; rows of no split are left out.

    Deterministic: the same source and description give the same rows.

    Raises:
        DataError: the source cannot be read or does not fit its description.
    """
    where = f"data set {spec.name!r}"
    frame, ids, left_out = _rows_that_count(read_table(spec.source), spec, where)
    if spec.keep or spec.one_row_per:
        where = f"{where} (numbers of rows: among the {len(frame)} that count)"
    inputs = read_inputs(frame, spec, where)
    labels = read_labels(frame, spec.label, where)
    groups = read_groups(frame, spec.groups, where)
    split = assign_splits(frame, spec.splits, labels, groups.matrix, where)
    split, leaks = check_leaks(inputs, split, spec.splits, f"{where}, splits")
    rows = Rows(
        name=spec.name,
        kind="image" if spec.image else "text",
        inputs=tuple(inputs),
        labels=labels,
        group_names=groups.names,
        excluded=groups.excluded,
        membership=groups.matrix,
        split=split,
        ids=ids,
        warnings=(*left_out, *groups.warnings, *leaks),
    ).take(split != UNUSED)
    return _with_warnings(rows, where)


def _rows_that_count(
    frame: pd.DataFrame, spec: DataSpec, where: str
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """The table after `keep` and `one_row_per`, the rows' numbers in the source, and notes."""
    ids, notes = np.arange(len(frame), dtype=np.int64), []
    if spec.keep:
        kept = kept_rows(frame, spec.keep, where)
        if not kept.all():
            gone = int((~kept).sum())
            notes = [f"keep: {gone} of {len(frame)} rows of the source are left out"]
        frame, ids = frame[kept].reset_index(drop=True), ids[kept]
    if spec.one_row_per:
        frame, first = merge_units(frame, spec.one_row_per, spec.columns_read, where)
        ids = ids[first]
    return frame, ids, notes


def _with_warnings(rows: Rows, where: str) -> Rows:
    if not rows.membership.any():
        raise DataError(
            "no row of any split belongs to a group",
            where=where,
            fix="check the groups, and the limits of the splits",
        )
    return replace(rows, warnings=(*rows.warnings, *_thin_spots(rows)))


def _thin_spots(rows: Rows) -> Iterator[str]:
    """What makes rates of a split undefined: a class or a group that it lacks."""
    for record in rows.counts():
        split, group, n = record["split"], record["group"], record["n"]
        if group is None and record["n_pos"] in (0, n):
            label = int(record["n_pos"] > 0)
            yield f"split {split!r}: all {n} rows have the label {label}"
        if group is not None and n == 0:
            yield f"split {split!r}: the group {group!r} has no rows"
