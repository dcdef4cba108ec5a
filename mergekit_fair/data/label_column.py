"""The label rule: every row of the table is 1 or 0, and none is guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import COMPARE, REST, Label
from mergekit_fair.data.table import column, listed, missing, numbers, texts
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def read_labels(frame: pd.DataFrame, rule: Label, where: str) -> np.ndarray:
    """The labels, int8 (n,), 1 = positive.

    Raises:
        DataError: unknown column, a value that the rule says nothing about, or one class only.
    """
    cells = column(frame, rule.column, f"{where}, label.column")
    where = f"{where}, label column {rule.column!r}"
    if rule.bound:
        labels = _by_threshold(cells, *rule.bound, where)
    elif rule.positive is not None:
        labels = _by_value(cells, rule, where)
    else:
        labels = _as_given(cells, where)
    if labels.all() or not labels.any():
        raise DataError(
            f"all {len(labels)} rows have the label {int(labels[0])}",
            where=where,
            fix="a classifier and its fairness need both classes: check the label rule",
        )
    return labels.astype(np.int8)


def _by_value(cells: pd.Series, rule: Label, where: str) -> np.ndarray:
    positive, negative = rule.positive or (), rule.negative or ()
    values = texts(cells)
    labels = np.array([value in positive for value in values], dtype=bool)
    if negative == (REST,):
        unknown = missing(cells) & ~labels  # a missing label is not a negative one
    else:
        unknown = ~labels & np.array([value not in negative for value in values], dtype=bool)
    _refuse(unknown, values, "are neither positive nor negative", where, _value_hint(rule))
    return labels


def _by_threshold(cells: pd.Series, name: str, bound: float, where: str) -> np.ndarray:
    scores = numbers(cells)
    hint = f"`{name}: {bound:g}` needs a number in every row: remove or repair these rows"
    _refuse(np.isnan(scores), texts(cells), "are not numbers", where, hint)
    return np.asarray(COMPARE[name](scores, bound))


def _as_given(cells: pd.Series, where: str) -> np.ndarray:
    values = numbers(cells)
    hint = "say what the values mean: `positive:` and `negative:`, or a threshold such as `ge:`"
    _refuse(~np.isin(values, (0, 1)), texts(cells), "are neither 0 nor 1", where, hint)
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
    return f"{hint}; a missing label has to be removed from the source"
