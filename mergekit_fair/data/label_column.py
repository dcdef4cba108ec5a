"""The label rule: every row is 1 or 0, or of one class, and none is guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import COMPARE, REST
from mergekit_fair.data.cells import bare, column, counted, listed, missing, numbers, texts
from mergekit_fair.data.label_rules import Label, OneLabel
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from mergekit_fair.data.description import DataSpec


@dataclass(frozen=True, eq=False)
class Labels:
    """int8 (n,), 1 = positive, or class numbers, or (n, L); their names; what to know of them."""

    values: np.ndarray
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


# With more values a column is taken for scores.
_LIKELY_CLASSES = 20


def read_answers(frame: pd.DataFrame, spec: DataSpec, where: str) -> Labels:
    """The labels that a description names, by `label` or by each rule of `labels`.

    Raises:
        DataError: as `read_labels`.
    """
    if spec.label:
        return read_labels(frame, spec.label, where)
    rules = spec.labels or {}
    each = [read_labels(frame, rule, where, f"labels.{name}") for name, rule in rules.items()]
    return Labels(
        np.stack([labels.values for labels in each], axis=1),
        spec.label_names,
        tuple(warning for labels in each for warning in labels.warnings),
    )


def read_labels(frame: pd.DataFrame, rule: OneLabel, where: str, key: str = "label") -> Labels:
    """The labels by one rule.

    Args:
        key: of the rule in the description.

    Raises:
        DataError: unknown column, a value that the rule says nothing about, or a class of which
            there is no row.
    """
    cells = column(frame, rule.column, f"{where}, {key}.column")
    where = f"{where}, {key} column {rule.column!r}"
    notes: list[str] = []
    if rule.bound:
        labels = _by_threshold(cells, *rule.bound, where)
    elif rule.values_of:
        labels = _by_value(cells, rule, where, key, notes)
    else:
        labels = _as_given(cells, rule, where)
    _require_every_class(labels, rule, cells, where)
    return Labels(labels.astype(np.int8), rule.class_names, tuple(notes))


def _require_every_class(labels: np.ndarray, rule: OneLabel, cells: pd.Series, where: str) -> None:
    if names := rule.class_names:
        counts = np.bincount(labels, minlength=len(names)).tolist()
        for name, its, count in zip(names, rule.values_of, counts, strict=True):
            if not count:
                raise DataError(
                    f"no row is of the class {name!r}",
                    where=where,
                    got=counted(texts(cells), most=20),
                    allowed=its,
                    fix="correct the values of the class, or leave the class out",
                )
    elif labels.all() or not labels.any():
        raise DataError(
            f"all {len(labels)} rows have the label {int(labels[0])}",
            where=where,
            fix="a classifier and its fairness need both classes: check the label rule",
        )


def _by_value(
    cells: pd.Series, rule: OneLabel, where: str, key: str, notes: list[str]
) -> np.ndarray:
    """Int (n,): the number of the class that each value is of."""
    number = {value: at for at, its in enumerate(rule.values_of) for value in its}
    rest = number.pop(REST, None)
    values = texts(cells)
    labels = np.array([number.get(value, -1) for value in values], dtype=np.int64)
    if rest is not None:
        others = (labels < 0) & ~missing(cells)  # a missing label is of no class
        covered = Counter(values[row] for row in np.flatnonzero(others))
        _refuse_variants(covered, rule, rest, where)
        notes.append(f"{key}: `{_name(rule, rest)}: {REST!r}` covers {counted(covered, most=20)}")
        labels[others] = rest
    problem = "are of no class" if rule.class_names else "are neither positive nor negative"
    _refuse(labels < 0, values, problem, where, _value_hint(rule))
    return labels


def _name(rule: OneLabel, at: int) -> str:
    """What the description calls the class of that number."""
    return (rule.class_names or ("negative", "positive"))[at]


def _refuse_variants(covered: Mapping[str, int], rule: OneLabel, rest: int, where: str) -> None:
    """Refuse "YES " as a negative where "yes" is positive."""
    known = {
        bare(value): (_name(rule, at), value)
        for at, its in enumerate(rule.values_of)
        for value in its
        if at != rest
    }
    for value in covered:
        if bare(value) in known:
            name, alike = known[bare(value)]
            own = _name(rule, rest)
            raise DataError(
                f"{value!r} ({covered[value]} rows) would be {own}, and differs from the "
                f"{name} {alike!r} only in case, blanks, quotes or digits",
                where=where,
                fix=f"name it in `{name}:` or in `{own}:`",
            )


def _by_threshold(cells: pd.Series, name: str, bound: float, where: str) -> np.ndarray:
    scores = numbers(cells)
    hint = f"`{name}: {bound:g}` needs a number in every row: remove or repair these rows"
    _refuse(np.isnan(scores), texts(cells), "are not numbers", where, hint)
    return np.asarray(COMPARE[name](scores, bound))


def _as_given(cells: pd.Series, rule: OneLabel, where: str) -> np.ndarray:
    values = numbers(cells)
    is_bad = ~np.isin(values, (0, 1))
    if not is_bad.any():
        return np.asarray(values == 1)
    written = texts(cells)
    classes = sorted(set(np.array(written)[~missing(cells)].tolist()))
    if 2 < len(classes) <= _LIKELY_CLASSES:
        several = (
            ""
            if not isinstance(rule, Label)
            else (
                "name all of them, in order, in `classes:`, to measure each against the others; or "
            )
        )
        raise DataError(
            f"holds {len(classes)} classes, and says not what they mean",
            where=where,
            got=classes,
            fix=f"{several}name the positive ones in `positive:`; `negative: {REST!r}` is every "
            "other value",
        )
    hint = "say what the values mean: `positive:` and `negative:`, or a threshold such as `ge:`"
    raise _refusal(is_bad, written, "are neither 0 nor 1", where, hint)


def _refuse(bad: np.ndarray, values: list[str], problem: str, where: str, fix: str) -> None:
    if bad.any():
        raise _refusal(bad, values, problem, where, fix)


def _refusal(bad: np.ndarray, values: list[str], problem: str, where: str, fix: str) -> DataError:
    shown = listed(values, np.flatnonzero(bad))
    return DataError(
        f"{int(bad.sum())} of {len(bad)} values {problem}: {shown}", where=where, fix=fix
    )


def _value_hint(rule: OneLabel) -> str:
    places = (
        ("a class of `classes:`", "of one class")
        if rule.class_names
        else ("`positive:` or `negative:`", "of `negative:`")
    )
    hint = f"name them in {places[0]} (the value {REST!r} {places[1]} is every other value)"
    if {"True", "False"} & rule.named:
        hint += "; YAML reads yes, no, on and off as true and false unless they are quoted"
    return (
        f"{hint}; rows without a label are left out by `keep: "
        f'[{{column: {rule.column}, not: ["", nan]}}]`'
    )
