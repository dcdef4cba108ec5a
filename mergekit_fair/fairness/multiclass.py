"""Beyond one binary label: classes, several labels a row, and scores.

    classes   every class against the others (one-vs-rest), then macro = mean, worst = max
    labels    every label by itself, then macro and worst
    scores    max_g mean(s | g) − min_g mean(s | g)

A mean and a maximum of gaps are again gaps (seminorms of the rates), so that their intervals
are the conservative ones of :mod:`mergekit_fair.fairness.intervals`, from joint draws of whole
rows. Source: METHODS §5.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import metrics
from mergekit_fair.fairness.counts import Counts, CountTable, group_counts, total
from mergekit_fair.fairness.gaps import DPD_RATES, EOD_RATES, check_reference, deviations, gap
from mergekit_fair.fairness.intervals import (
    Interval,
    around,
    check_settings,
    conservative,
    replicates,
    smoothed,
    wilson,
)
from mergekit_fair.fairness.joint import JointTable
from mergekit_fair.fairness.labels import (
    UNANSWERED,
    binary_labels,
    binary_predictions,
    is_nan,
    same_length,
)
from mergekit_fair.fairness.measure import measure_table
from mergekit_fair.fairness.measurement import Measurement
from mergekit_fair.fairness.metrics import Values
from mergekit_fair.fairness.statistics import Deciding

_GAPS = {"dpd": DPD_RATES, "eod": EOD_RATES}


@dataclass(frozen=True)
class MultiMeasurement:
    """Metrics over several binary views (classes or labels) of the same rows.

    Attributes:
        n: number of rows.
        acc: share of rows with every view right: the correct class, or all labels correct.
        macro, worst: ``dpd`` and ``eod``: their mean and their maximum over the views. A view
            whose gap is undefined is left out.
        worst_view: for ``dpd`` and ``eod``, the view with the largest gap.
        views: view → its :class:`Measurement`.
        warnings: which views have an undefined gap.
    """

    n: int
    acc: Interval
    macro: dict[str, Interval]
    worst: dict[str, Interval]
    worst_view: dict[str, str | None]
    views: dict[str, Measurement]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; None for undefined."""
        return {
            "n": self.n,
            "acc": self.acc.to_dict(),
            "macro": {name: found.to_dict() for name, found in self.macro.items()},
            "worst": {name: found.to_dict() for name, found in self.worst.items()},
            "worst_view": self.worst_view,
            "views": {name: found.to_dict() for name, found in self.views.items()},
            "warnings": list(self.warnings),
        }


def measure_classes(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: Any,
    *,
    classes: Sequence[Hashable] | None = None,
    **settings: Any,
) -> MultiMeasurement:
    """Measure a multi-class predictor, every class against the others.

    Args:
        y_true: shape (n,), labels: integers or texts, no floats.
        y_pred: shape (n,), predictions; None or NaN where there is none.
        groups: as in :func:`measure`.
        classes: all classes; default: those that occur in y_true, sorted. A prediction that is
            none of them counts as no usable prediction.
        settings: reference, confidence, min_group_size, exclude, seed, draws of :func:`measure`.

    Raises:
        MeasurementError: fewer than two classes, an unknown label, or as :func:`measure`.
    """
    truth, predicted = _values(y_true, "y_true"), _values(y_pred, "y_pred")
    if len(truth) != len(predicted):
        raise MeasurementError(
            "differs in length from y_true", where="y_pred", got=len(predicted), allowed=len(truth)
        )
    names = list(classes) if classes is not None else sorted(set(truth), key=str)
    place = {name: index for index, name in enumerate(names)}
    if len(place) < 2 or len(place) < len(names):
        raise MeasurementError("needs two or more distinct classes", where="classes", got=names)
    if unknown := [label for label in truth if label not in place]:
        raise MeasurementError(
            "is no class", where="y_true", got=unknown[0], allowed=names, fix="complete `classes`"
        )
    columns = [
        np.array([place[label] for label in truth]),
        np.array([place.get(label, len(names)) for label in predicted]),
    ]
    joint = JointTable.tally(columns, groups)
    label, answer = joint.columns.T

    def view(index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        missing = answer == len(names)
        return (label == index).astype(int), np.where(missing, UNANSWERED, answer == index)

    views = {str(name): view(index) for name, index in place.items()}
    return _measured(joint, views, label == answer, **settings)


def measure_labels(
    y_true: Mapping[str, ArrayLike],
    y_pred: Mapping[str, ArrayLike],
    groups: Any,
    **settings: Any,
) -> MultiMeasurement:
    """Measure a multi-label predictor, every label by itself.

    Args:
        y_true: label → shape (n,), 0 and 1.
        y_pred: the same labels → shape (n,), 0 and 1; None or NaN where there is none.
        groups: as in :func:`measure`.
        settings: reference, confidence, min_group_size, exclude, seed, draws of :func:`measure`.

    Raises:
        MeasurementError: no labels, different labels, or as :func:`measure`.
    """
    if not y_true or set(y_true) != set(y_pred):
        raise MeasurementError(
            "needs the labels of y_true", where="y_pred", got=list(y_pred), allowed=list(y_true)
        )
    columns: list[NDArray[np.int8]] = []
    for name in y_true:
        columns += [
            binary_labels(y_true[name], f"y_true[{name!r}]"),
            binary_predictions(y_pred[name], f"y_pred[{name!r}]"),
        ]
        same_length(columns[0], columns[-1], f"y_pred[{name!r}]")
        same_length(columns[0], columns[-2], f"y_true[{name!r}]")
    joint = JointTable.tally(columns, groups)
    views = {
        str(name): (joint.columns[:, 2 * index], joint.columns[:, 2 * index + 1])
        for index, name in enumerate(y_true)
    }
    correct = (joint.columns[:, 0::2] == joint.columns[:, 1::2]).all(axis=1)
    return _measured(joint, views, correct, **settings)


def _measured(
    joint: JointTable,
    views: dict[str, tuple[NDArray[Any], NDArray[Any]]],
    correct: NDArray[np.bool_],
    *,
    reference: str = "between_groups",
    confidence: float = 0.95,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int = 2000,
) -> MultiMeasurement:
    check_reference(reference)
    check_settings(confidence, draws)
    settings = {"min_group_size": min_group_size, "exclude": exclude}
    drawn = replicates(joint.counts, draws, seed)
    measured, found = {}, {}
    for name, (truth, predicted) in views.items():
        table = CountTable(joint.groups, joint.patterns, joint.cells(truth, predicted))
        measured[name] = measure_table(
            table,
            reference=reference,
            confidence=confidence,
            seed=seed,
            draws=draws,
            **settings,  # type: ignore[arg-type]
        )
        deciding = Deciding.of(table, **settings)  # type: ignore[arg-type]
        resampled = joint.cells(truth, predicted, drawn)
        found[name] = _View.of(table, resampled, deciding, reference, seed)
    right = int(joint.counts[correct].sum())
    over = {"macro": metrics.mean, "worst": metrics.largest}
    summary = {
        kind: {key: _over(found, key, reduce, confidence) for key in _GAPS}
        for kind, reduce in over.items()
    }
    warnings = tuple(
        f"the {key} of {name!r} is undefined: left out of macro and worst"
        for key in _GAPS
        for name, view in found.items()
        if np.isnan(view.value[key])
    )
    return MultiMeasurement(
        n=joint.n,
        acc=Interval(right / joint.n, *wilson(right, joint.n, confidence)),
        macro=summary["macro"],
        worst=summary["worst"],
        worst_view={key: _worst(found, key) for key in _GAPS},
        views=measured,
        warnings=warnings,
    )


@dataclass(frozen=True)
class _View:
    """One binary view's gaps: values, replicates (draws,), gaps of the errors (draws,)."""

    value: dict[str, float]
    drawn: dict[str, Values]
    errors: dict[str, Values]

    @classmethod
    def of(
        cls, table: CountTable, drawn: Counts, deciding: Deciding, reference: str, seed: int
    ) -> _View:
        patterns, usable = table.patterns, deciding.comparable
        smooth = smoothed(table.cells, patterns)
        smooth_drawn = replicates(smooth, len(drawn), seed)
        value, sample, errors = {}, {}, {}
        for key, rates in _GAPS.items():
            at = [
                deviations(rates, group_counts(cells, patterns), total(cells), usable, reference)
                for cells in (table.cells, drawn, smooth_drawn, smooth)
            ]
            value[key] = float(gap(at[0], reference))
            sample[key] = gap(at[1], reference)
            errors[key] = gap(at[2] - at[3], reference)
        return cls(value, sample, errors)


def _over(views: dict[str, _View], key: str, reduce: Any, confidence: float) -> Interval:
    """Interval of the mean or the maximum of a gap over the views that have it."""
    kept = [view for view in views.values() if not np.isnan(view.value[key])]
    if not kept:
        return Interval(None)
    value = float(reduce(np.array([view.value[key] for view in kept])))
    drawn = reduce(np.stack([view.drawn[key] for view in kept], axis=-1))
    errors = reduce(np.stack([view.errors[key] for view in kept], axis=-1))
    return around(value, (drawn, errors), conservative, confidence)


def _worst(views: dict[str, _View], key: str) -> str | None:
    defined = {name: v.value[key] for name, v in views.items() if not np.isnan(v.value[key])}
    return max(defined, key=lambda name: defined[name]) if defined else None


def _values(values: ArrayLike, name: str) -> list[Any]:
    """Classes as a list; a missing prediction becomes None."""
    array = np.asarray(values, dtype=object)
    if array.ndim != 1 or not array.size:
        raise MeasurementError(
            "needs one class per row", where=name, got=f"shape {array.shape}", allowed="(n,)"
        )
    found = [None if value is None or is_nan(value) else value for value in array.tolist()]
    for row, value in enumerate(found):
        if isinstance(value, float):
            raise MeasurementError(
                f"scores are not classes (row {row})",
                where=name,
                got=value,
                fix="take the arg max of every row first",
            )
        if value is None and name == "y_true":
            raise MeasurementError(f"missing class in row {row}", where=name, fix="drop the row")
    return found
