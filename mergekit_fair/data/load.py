"""A description becomes rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mergekit_fair.data.groups import read_groups
from mergekit_fair.data.inputs import read_inputs
from mergekit_fair.data.labels import read_labels
from mergekit_fair.data.leaks import check_leaks
from mergekit_fair.data.rows import Rows
from mergekit_fair.data.sources import read_table
from mergekit_fair.data.spec import DataSpec
from mergekit_fair.data.splits import UNUSED, assign_splits
from mergekit_fair.errors import DataError


def load_rows(spec: DataSpec) -> Rows:
    """Read a data set. The rows keep the order of the source; rows of no split are left out.

    Deterministic: the same source and description give the same rows.

    Raises:
        DataError: the source cannot be read or does not fit its description.
    """
    where = f"data set {spec.name!r}"
    frame = read_table(spec.source)
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
        ids=np.arange(len(frame), dtype=np.int64),
        warnings=(*groups.warnings, *leaks),
    ).take(split != UNUSED)
    return _with_warnings(rows, where)


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
