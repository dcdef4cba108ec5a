"""Classes: every class against the others (one-vs-rest), then macro = mean and worst = max."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.joint import Column, JointTable
from mergekit_fair.fairness.labels import UNANSWERED, is_nan, unmasked
from mergekit_fair.fairness.one_vs_rest import MultiMeasurement, measure_views
from mergekit_fair.fairness.settings import MetricSettings, SettingOptions


def measure_classes(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: Any,
    *,
    classes: Sequence[Hashable] | None = None,
    **settings: Unpack[SettingOptions],
) -> MultiMeasurement:
    """Measure a multi-class predictor, every class against the others.

    Args:
        y_true: shape (n,), labels: integers or texts, no floats.
        y_pred: shape (n,), predictions; None or NaN where there is none. Whole floats are taken
            for integers, which they become beside a NaN.
        groups: as in :func:`measure`.
        classes: all classes; default: those that occur in y_true, sorted. A prediction that is
            none of them counts as no usable prediction, with a warning.
        settings: reference, confidence, min_group_size, exclude, seed, draws of :func:`measure`.

    Raises:
        MeasurementError: fewer than two classes, an unknown label, or as :func:`measure`.
    """
    checked = MetricSettings(**settings)
    truth, predicted = _values(y_true, "y_true"), _values(y_pred, "y_pred")
    if len(truth) != len(predicted):
        raise MeasurementError(
            "differs in length from y_true", where="y_pred", got=len(predicted), allowed=len(truth)
        )
    names = _sorted(set(truth)) if classes is None else list(classes)
    place = _places(names)
    if unknown := [label for label in truth if label not in place]:
        raise MeasurementError(
            "is no class", where="y_true", got=unknown[0], allowed=names, fix="complete `classes`"
        )
    columns = [
        np.array([place[label] for label in truth]),
        np.array([place.get(label, len(names)) for label in predicted]),
    ]
    label, answer = (joint := JointTable.tally(columns, groups)).columns.T

    def view(index: int) -> tuple[Column, Column]:
        missing = answer == len(names)
        return (label == index).astype(int), np.where(missing, UNANSWERED, answer == index)

    views = {str(name): view(index) for name, index in place.items()}
    warnings = list(_unknown_predictions(predicted, place))
    return measure_views(joint, views, label == answer, checked, warnings)


def _places(names: list[Any]) -> dict[Any, int]:
    """Class → its number.

    Raises:
        MeasurementError: fewer than two, or two that are written the same.
    """
    if len(names) < 2 or len({str(name) for name in names}) < len(names):
        raise MeasurementError(
            "needs two or more classes with distinct names", where="classes", got=names
        )
    return {name: index for index, name in enumerate(names)}


def _sorted(classes: set[Any]) -> list[Any]:
    try:
        return sorted(classes)
    except TypeError:  # integers and texts
        return sorted(classes, key=str)


def _unknown_predictions(predicted: list[Any], place: dict[Any, int]) -> Iterator[str]:
    unknown = Counter(str(value) for value in predicted if value not in place and value is not None)
    if unknown:
        examples = ", ".join(repr(name) for name, _ in unknown.most_common(3))
        yield (
            f"{unknown.total()} predictions are no class ({examples}): counted as no usable "
            "prediction; name them in `classes` if they are"
        )


def _values(values: ArrayLike, where: str) -> list[Any]:
    """Classes as a list; a missing prediction becomes None."""
    array = np.asarray(unmasked(values), dtype=object)
    if array.ndim != 1 or not array.size:
        raise MeasurementError(
            "needs one class per row", where=where, got=f"shape {array.shape}", allowed="(n,)"
        )
    return [_value(value, row, where) for row, value in enumerate(array.tolist())]


def _value(value: Any, row: int, where: str) -> Any:
    if value is None or is_nan(value):
        if where == "y_true":
            raise MeasurementError(f"missing class in row {row}", where=where, fix="drop the row")
        return None
    if isinstance(value, float | np.floating):
        # A column of integers becomes one of floats as soon as a prediction is missing.
        if where == "y_pred" and float(value).is_integer():
            return int(value)
        raise MeasurementError(
            f"scores are not classes (row {row})",
            where=where,
            got=float(value),
            fix="take the arg max of every row first",
        )
    try:
        hash(value)
    except TypeError as error:
        raise MeasurementError(
            f"is no class (row {row})", where=where, got=value, allowed="an integer or a text"
        ) from error
    return value
