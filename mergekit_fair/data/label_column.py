"""The label rule: every row of the table is 1 or 0, and none is guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import COMPARE, REST, Label
from mergekit_fair.data.cells import bare, column, counted, listed, missing, numbers, texts
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Labels:
    """int8 (n,), 1 = positive; and what to know of them."""

    values: np.ndarray
    warnings: tuple[str, ...] = ()


# With more values a column is taken for scores.
_MOST_CLASSES = 20


def read_labels(frame: pd.DataFrame, rule: Label, where: str) -> Labels:
    """The labels.

    Raises:
        DataError: unknown column, a value that the rule says nothing about, or one class only.
    """
    cells = column(frame, rule.column, f"{where}, label.column")
    where = f"{where}, label column {rule.column!r}"
    notes: list[str] = []
    if rule.bound:
        labels = _by_threshold(cells, *rule.bound, where)
    elif rule.positive is not None:
        labels = _by_value(cells, rule, where, notes)
    else:
        labels = _as_given(cells, where)
    if labels.all() or not labels.any():
        raise DataError(
            f"all {len(labels)} rows have the label {int(labels[0])}",
            where=where,
            fix="a classifier and its fairness need both classes: check the label rule",
        )
    return Labels(labels.astype(np.int8), tuple(notes))


def _by_value(cells: pd.Series, rule: Label, where: str, notes: list[str]) -> np.ndarray:
    positive, negative = rule.positive or (), rule.negative or ()
    values = texts(cells)
    labels = np.array([value in positive for value in values], dtype=bool)
    unknown = ~np.array([value in rule.named for value in values], dtype=bool)
    if REST in negative:
        rest = unknown & ~missing(cells)  # a missing label is not a negative one
        unknown &= ~rest
        covered = Counter(values[row] for row in np.flatnonzero(rest))
        _refuse_variants(covered, positive, where)
        notes.append(f"label: `negative: {REST!r}` covers {counted(covered, most=20)}")
    _refuse(unknown, values, "are neither positive nor negative", where, _value_hint(rule))
    return labels


def _refuse_variants(covered: Mapping[str, int], positive: tuple[str, ...], where: str) -> None:
    """Refuse "YES " as a negative where "yes" is positive."""
    known = {bare(value): value for value in positive}
    for value in covered:
        if bare(value) in known:
            raise DataError(
                f"{value!r} ({covered[value]} rows) would be negative, and differs from the "
                f"positive {known[bare(value)]!r} only in case, blanks, quotes or digits",
                where=where,
                fix="name it in `positive:` or in `negative:`",
            )


def _by_threshold(cells: pd.Series, name: str, bound: float, where: str) -> np.ndarray:
    scores = numbers(cells)
    hint = f"`{name}: {bound:g}` needs a number in every row: remove or repair these rows"
    _refuse(np.isnan(scores), texts(cells), "are not numbers", where, hint)
    return np.asarray(COMPARE[name](scores, bound))


def _as_given(cells: pd.Series, where: str) -> np.ndarray:
    values, written = numbers(cells), texts(cells)
    is_bad = ~np.isin(values, (0, 1))
    classes = sorted(set(np.array(written)[~missing(cells)].tolist()))
    if is_bad.any() and 2 < len(classes) <= _MOST_CLASSES:
        raise DataError(
            f"holds {len(classes)} classes, and two are measured: a positive one and the rest",
            where=where,
            got=classes,
            fix=f"name the positive ones in `positive:`; `negative: {REST!r}` is every other value",
        )
    hint = "say what the values mean: `positive:` and `negative:`, or a threshold such as `ge:`"
    _refuse(is_bad, written, "are neither 0 nor 1", where, hint)
    labels: np.ndarray = values == 1
    return labels


def _refuse(bad: np.ndarray, values: list[str], problem: str, where: str, fix: str) -> None:
    if bad.any():
        shown = listed(values, np.flatnonzero(bad))
        raise DataError(
            f"{int(bad.sum())} of {len(bad)} values {problem}: {shown}", where=where, fix=fix
        )


def _value_hint(rule: Label) -> str:
    hint = f"name them in `positive:` or `negative:` (`negative: {REST!r}` is every other value)"
    if {"True", "False"} & {*(rule.positive or ()), *(rule.negative or ())}:
        hint += "; YAML reads yes, no, on and off as true and false unless they are quoted"
    return (
        f"{hint}; rows without a label are left out by `keep: "
        f'[{{column: {rule.column}, not: ["", nan]}}]`'
    )
