"""Several binary labels a row: every label by itself, then macro and worst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.joint import JointTable
from mergekit_fair.fairness.labels import binary_labels, binary_predictions, same_length
from mergekit_fair.fairness.one_vs_rest import MultiMeasurement, measure_views
from mergekit_fair.fairness.settings import MetricSettings, SettingOptions


def measure_labels(
    y_true: Mapping[str, ArrayLike],
    y_pred: Mapping[str, ArrayLike],
    groups: Any,
    **settings: Unpack[SettingOptions],
) -> MultiMeasurement:
    """Measure a multi-label predictor, every label by itself.

    Args:
        y_true: label → shape (n,), 0 and 1; a data frame with a column per label is one, too.
        y_pred: the same labels → shape (n,), 0 and 1; None or NaN where there is none.
        groups: as in :func:`measure`.
        settings: reference, confidence, min_group_size, exclude, seed, draws of :func:`measure`.

    Raises:
        MeasurementError: no labels, different labels, or as :func:`measure`.
    """
    checked = MetricSettings(**settings)
    names = _names(y_true, "y_true")
    if set(names) != set(_names(y_pred, "y_pred")):
        raise MeasurementError(
            "needs the labels of y_true", where="y_pred", got=list(y_pred), allowed=names
        )
    columns: list[NDArray[np.int8]] = []
    ordered = sorted(names, key=str)  # draws must not depend on the order of a mapping
    for name in ordered:
        columns += [
            binary_labels(y_true[name], f"y_true[{name!r}]"),
            binary_predictions(y_pred[name], f"y_pred[{name!r}]"),
        ]
        same_length(columns[0], columns[-2], f"y_true[{name!r}]")
        same_length(columns[0], columns[-1], f"y_pred[{name!r}]")
    joint = JointTable.tally(columns, groups)
    truth, predicted = joint.columns[:, 0::2], joint.columns[:, 1::2]
    view_of = dict(zip(ordered, zip(truth.T, predicted.T, strict=True), strict=True))
    views = {str(name): view_of[name] for name in names}
    return measure_views(joint, views, (truth == predicted).all(axis=1), checked)


def _names(columns: Mapping[str, ArrayLike], where: str) -> list[Any]:
    """The labels; not `columns.keys()` of an array, nor the truth value of a data frame."""
    names = list(columns) if hasattr(columns, "keys") else []
    if not names or len({str(name) for name in names}) < len(names):
        raise MeasurementError(
            "needs a mapping from label to column, with at least one label and distinct names",
            where=where,
            got=names or type(columns).__name__,
        )
    return names
