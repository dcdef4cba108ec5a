"""What training rows must hold, and what is said of groups with too few: classes, labels, rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.errors import TrainingError
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.eligible_groups import GroupSizes
from mergekit_fair.fairness.measure_warnings import small_group_warnings
from mergekit_fair.fairness.settings import MIN_GROUP_SIZE
from mergekit_fair.files import is_file_name
from mergekit_fair.training.train_config import TrainConfig

if TYPE_CHECKING:
    from mergekit_fair.data import Rows


def small_groups(rows: Rows) -> Iterator[str]:
    """Warn about groups of the evaluated splits that are too small to decide a gap.

    Of classes and labels, each is a question by itself: it or not.
    """
    for split in ("validation", "report"):
        if not (rows.split == split).any():
            continue
        part = rows.of(split)
        members = dict(zip(part.group_names, part.membership.T, strict=True))
        excluded = [name for name in part.group_names if name in part.excluded]
        settings = MetricSettings(min_group_size=MIN_GROUP_SIZE, exclude=excluded)
        for name, having in zip(part.label_names or (None,), part.having.T, strict=True):
            sizes = GroupSizes.of_rows(having.astype(np.int8), members, part.weights, settings)
            where = f"{split} rows" if name is None else f"{split} rows, {name!r}"
            yield from small_group_warnings(sizes, where=where)


def require_trainable(config: TrainConfig, rows: Rows) -> None:
    """Refuse training rows of one class, without a class, or with a label that all or none have.

    Raises:
        TrainingError: names the classes or labels; or settings that several labels do not take.
    """
    smoothing = config.training.arguments.get("label_smoothing_factor")
    if smoothing and rows.label_kind == "labels":
        raise TrainingError(
            "smooths the label of one class a row, and a row has several labels",
            where="training.arguments: label_smoothing_factor",
            got=smoothing,
            fix="leave it out",
        )
    if lacks := _lacks(rows):
        raise TrainingError(
            f"the {len(rows)} training rows {lacks}",
            where=rows.name,
            fix="a model learns no class or label that it sees no row of, or nothing else: take "
            "more training rows, or leave it out of the description",
        )


def subgroups(config: TrainConfig, rows: Rows) -> list[str]:
    """The groups to train a model for: all but the excluded ones, `subgroups.only`, or none.

    Raises:
        TrainingError: names every group that has too few rows, one class only (or the same labels
            in every row), or a name that cannot be a folder.
    """
    block = config.subgroups
    if not block:
        return []
    wanted = block.only or [g for g in rows.group_names if g not in rows.excluded]
    problems = []
    for name in wanted:
        if name not in rows.group_names:
            raise TrainingError(
                "subgroups.only names no group", got=name, allowed=list(rows.group_names)
            )
        of_group = rows.in_group(name)
        if len(of_group) < block.min_rows:
            problems.append(f"{name!r} has {len(of_group)} training rows")
        elif (of_group.labels == of_group.labels[0]).all():
            problems.append(f"{name!r} has only {_answer(of_group)}")
        if not is_file_name(name):
            problems.append(f"{name!r} cannot be a folder name (use groups.rename)")
    if problems:
        raise TrainingError(
            f"no model can be trained for {len(problems)} of {len(wanted)} groups: "
            + "; ".join(problems),
            where=rows.name,
            allowed=f"at least {block.min_rows} rows (subgroups.min_rows), two classes or more",
            fix="add rows, lower min_rows, or leave groups out with groups.exclude or "
            "subgroups.only",
        )
    return list(wanted)


def thin_groups(rows: Rows, groups: Iterable[str]) -> Iterator[str]:
    """Warn about groups whose own model sees no row of a class, or the same of a label only.

    Args:
        rows: the training rows.
        groups: those that get a model.
    """
    for name in groups:
        if lacks := _lacks(rows.in_group(name)):
            yield f"training rows of {name!r} {lacks}: its model forgets what it sees nothing of"


def _lacks(rows: Rows) -> str:
    """`hold no row of 'hate'`, `are all, or none of them, 'toxic'`; empty if nothing lacks."""
    having = rows.having
    counts = having.sum(axis=0)
    none, every = counts == 0, counts == len(rows)
    names = np.array(rows.label_names or ("",), dtype=object)
    if rows.label_kind == "binary":
        return f"all have the label {int(every[0])}" if (none | every).any() else ""
    parts = [
        f"{said} {', '.join(map(repr, names[which]))}"
        for said, which in (("hold no row of", none), ("are all", every))
        if which.any()
    ]
    return " and ".join(parts)


def _answer(rows: Rows) -> str:
    """What all rows have."""
    if rows.label_kind == "labels":
        having = [name for name, has in zip(rows.label_names, rows.labels[0], strict=True) if has]
        return f"rows with the labels {having}"
    return f"class {(rows.label_names or ('0', '1'))[int(rows.labels[0])]}"
