"""Classes and labels: several binary views of the same rows, each, their mean, the worst.

A class is a view of its own (it against the others), and so is each of several labels.

A mean and a maximum of gaps are again gaps (seminorms of the rates), so that their intervals are
conservative ones as in `mergekit_fair.fairness.intervals`. Replicates are drawn for whole
rows and shared by all views. Smoothed tables belong to one view each and are drawn apart, as if
views did not err together. In a maximum of errors that is the larger case. Everywhere else draws
are paired by rank, as if views erred together as far as they can: in a mean, independent errors
would cancel; and an upper limit of the worst gap need only be one for the view whose gap it is.
Source: METHODS §5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_serializer

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.clusters import Spread, widened
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.eligible_groups import EligibleGroups
from mergekit_fair.fairness.grouped import Grouped
from mergekit_fair.fairness.intervals import (
    Interval,
    around,
    conservative,
    wilson,
)
from mergekit_fair.fairness.joint import JointTable, View
from mergekit_fair.fairness.labels import (
    UNANSWERED,
    binary_labels,
    binary_predictions,
    is_nan,
    same_length,
    unmasked,
)
from mergekit_fair.fairness.measure import measure_table
from mergekit_fair.fairness.measure_warnings import draw_warnings, interval_warnings
from mergekit_fair.fairness.measurement import Measurement, without_unsaid
from mergekit_fair.fairness.metrics import HEADLINE_GAPS
from mergekit_fair.fairness.rates import Values, deviations, gap, largest, mean
from mergekit_fair.fairness.settings import MetricSettings, SettingOptions
from mergekit_fair.fairness.smoothing import Smoothed
from mergekit_fair.schema import Record


class MultiMeasurement(Record):
    """Metrics over several binary views (classes or labels) of the same rows.

    Attributes:
        n: number of rows.
        weighted, clusters: as in `Measurement`.
        acc: share of rows with every view right: the correct class, or all labels correct.
        macro, worst: `dpd` and `eod`: their mean and their maximum over the views. A view
            whose gap is undefined is left out.
        worst_view: for `dpd` and `eod`, the view with the largest gap.
        views: view → its `Measurement`.
        warnings: what is undefined or left out over the views; each view has its own.
    """

    n: int
    weighted: bool = False
    clusters: int | None = None
    acc: Interval
    macro: dict[str, Interval]
    worst: dict[str, Interval]
    worst_view: dict[str, str | None]
    views: dict[str, Measurement]
    warnings: Annotated[tuple[str, ...], Field(strict=False)]

    @model_serializer(mode="wrap")
    def _stated(self, serialize: Any) -> dict[str, Any]:
        return without_unsaid(serialize(self))


def measure_classes(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: Any,
    *,
    classes: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    clusters: Any = None,
    **settings: Unpack[SettingOptions],
) -> MultiMeasurement:
    """Measure a multi-class predictor, every class against the others.

    Args:
        y_true: shape (n,), labels: integers or texts, no floats.
        y_pred: shape (n,), predictions; None or NaN where there is none. Whole floats are taken
            for integers, which they become beside a NaN.
        groups: as in `measure`.
        classes: all classes; default: those that occur in y_true, sorted. A prediction that is
            none of them counts as no usable prediction, with a warning.
        weights, clusters: as in `measure`.
        settings: reference, confidence, min_group_size, exclude, seed, draws of `measure`.

    Raises:
        MeasurementError: fewer than two classes, an unknown label, or as `measure`.

    >>> animals, groups = ["cat", "dog", "bird"] * 40, ["a", "b"] * 60
    >>> result = measure_classes(animals, ["cat", "dog", "dog"] * 40, groups)
    >>> result.acc
    Interval(value=0.6666666666666666, low=0.5783110162063498, high=0.7446825949874156)
    >>> result.worst_view["eod"], result.views["dog"].metrics["fpr"].value
    ('bird', 0.5)
    """
    checked = MetricSettings(**settings)
    truth, predicted = _values(y_true, "y_true"), _values(y_pred, "y_pred")
    if len(truth) != len(predicted):
        raise MeasurementError(
            "differs in length from y_true", where="y_pred", got=len(predicted), allowed=len(truth)
        )
    names = _sorted(set(truth)) if classes is None else list(classes)
    code = _codes(names)
    if unknown := [label for label in truth if label not in code]:
        raise MeasurementError(
            "is not a class",
            where="y_true",
            got=unknown[0],
            allowed=names,
            fix="complete `classes`",
        )
    columns = [
        np.array([code[label] for label in truth]),
        np.array([code.get(label, len(names)) for label in predicted]),
    ]
    label, answer = (joint := JointTable.tally(columns, groups, weights, clusters)).columns.T

    def view(index: int) -> View:
        missing = answer == len(names)
        return (label == index).astype(int), np.where(missing, UNANSWERED, answer == index)

    views = {str(name): view(index) for name, index in code.items()}
    warnings = list(_unknown_predictions(predicted, code))
    return measure_views(joint, views, label == answer, checked, warnings)


def measure_labels(
    y_true: Mapping[str, ArrayLike],
    y_pred: Mapping[str, ArrayLike],
    groups: Any,
    *,
    weights: ArrayLike | None = None,
    clusters: Any = None,
    **settings: Unpack[SettingOptions],
) -> MultiMeasurement:
    """Measure a multi-label predictor, every label by itself.

    Args:
        y_true: label → shape (n,), 0 and 1; a data frame with a column per label is one, too.
        y_pred: the same labels → shape (n,), 0 and 1; None or NaN where there is none.
        groups, weights, clusters: as in `measure`.
        settings: reference, confidence, min_group_size, exclude, seed, draws of `measure`.

    Raises:
        MeasurementError: no labels, different labels, or as `measure`.

    >>> y_true = {"toxic": [0, 0, 1, 1] * 20, "threat": [0, 0, 0, 1] * 20}
    >>> y_pred = {"toxic": [0, 1, 1, 1] * 20, "threat": [0, 0, 0, 0] * 20}
    >>> result = measure_labels(y_true, y_pred, ["a", "b"] * 40)
    >>> result.acc.value, result.worst_view["dpd"], result.worst["dpd"].value
    (0.5, 'toxic', 0.5)
    """
    checked = MetricSettings(**settings)
    names = _label_names(y_true, "y_true")
    if set(names) != set(_label_names(y_pred, "y_pred")):
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
    joint = JointTable.tally(columns, groups, weights, clusters)
    truth, predicted = joint.columns[:, 0::2], joint.columns[:, 1::2]
    view_of = dict(zip(ordered, zip(truth.T, predicted.T, strict=True), strict=True))
    views = {str(name): view_of[name] for name in names}
    return measure_views(joint, views, (truth == predicted).all(axis=1), checked)


def measure_views(
    joint: JointTable,
    views: Mapping[str, View],
    correct: NDArray[np.bool_],
    settings: MetricSettings,
    warnings: Sequence[str] = (),
) -> MultiMeasurement:
    """Measure every view, and sum up.

    Args:
        joint: the rows, C distinct kinds.
        views: name → truth and prediction of each kind, both (C,).
        correct: bool (C,), the kinds of rows that count for the accuracy.
        settings: as in `measure`.
        warnings: to put in front.

    Raises:
        MeasurementError: an unknown group is excluded.
    """
    confidence = settings.confidence
    measurements, gaps = {}, {}
    replicates = joint.resampled(list(views.values()), settings.draws, settings.seed)
    for (name, view), drawn in zip(views.items(), replicates, strict=True):
        table = joint.table(view)
        measurements[name] = measure_table(table, settings)
        eligible = EligibleGroups.of(table, settings)
        rng = np.random.default_rng([settings.seed, sorted(views).index(name)])
        gaps[name] = _View.of(table, drawn, eligible, settings, rng)
    macro = {key: _macro(gaps, key, confidence) for key in HEADLINE_GAPS}
    worst = {key: _worst(gaps, key, confidence) for key in HEADLINE_GAPS}
    return MultiMeasurement(
        n=joint.n,
        weighted=joint.patterns.weights is not None,
        clusters=None if joint.clusters is None else len(joint.clusters),
        acc=_share(joint, correct, confidence),
        macro=macro,
        worst=worst,
        worst_view={key: _worst_view(gaps, key) for key in HEADLINE_GAPS},
        views=measurements,
        warnings=(*warnings, *_view_warnings(gaps, macro, worst), *draw_warnings(settings)),
    )


def _share(joint: JointTable, correct: NDArray[np.bool_], confidence: float) -> Interval:
    """The share of the rows' weight that is of the kinds (C,) `correct`, with Wilson limits."""
    weights = joint.counts * joint.weights
    part, whole = float(weights[correct].sum()), float(weights.sum())
    value = part / whole
    if joint.patterns.weights is not None:
        whole = whole**2 / float((weights * joint.weights).sum())
        part = value * whole
    if joint.clusters is not None:
        is_right, every = np.eye(6)[1], np.ones(6)
        spread = Spread.of(joint.clusters, iter([joint.weights]), correct.astype(np.intp))
        whole = min(whole, float(spread.effective_rows(is_right, every)[0]))
        part, confidence = value * whole, widened(confidence, float(spread.sizes(every)[0]))
    low, high = wilson(part, whole, confidence)
    return Interval(value=value, low=min(low, value), high=max(high, value))


@dataclass(frozen=True, eq=False)
class _View:
    """One view's gaps by name: values, and draws of the three kinds that `conservative` takes."""

    value: dict[str, float]
    drawn: dict[str, Values]
    smooth: dict[str, Values]
    errors: dict[str, Values]

    @classmethod
    def of(
        cls,
        table: CountTable,
        drawn: Grouped,
        eligible: EligibleGroups,
        settings: MetricSettings,
        rng: np.random.Generator,
    ) -> _View:
        reference = settings.reference
        smooth = Smoothed.of(table, table.spread)
        again = smooth.resampled(table, settings.draws, rng)
        tables = table.counts, drawn, again, smooth.summed(table)
        view = cls({}, {}, {}, {})
        for key, metric in HEADLINE_GAPS.items():
            comparable = eligible.comparable(metric.rates, reference)
            value, sample, smooth_sample, centre = (
                deviations(metric.rates, counts, comparable, reference) for counts in tables
            )
            view.value[key] = float(gap(value, reference))
            view.drawn[key] = gap(sample, reference)
            view.smooth[key] = gap(smooth_sample, reference)
            view.errors[key] = gap(smooth_sample - centre, reference)
        return view


def _defined(views: dict[str, _View], key: str) -> dict[str, _View]:
    return {name: view for name, view in views.items() if not np.isnan(view.value[key])}


def _macro(views: dict[str, _View], key: str, confidence: float) -> Interval:
    defined = _defined(views, key).values()
    if not defined:
        return Interval()
    samples = (
        mean(np.stack([view.drawn[key] for view in defined], axis=-1)),
        mean(_ranked([view.smooth[key] for view in defined])),
        mean(_ranked([view.errors[key] for view in defined])),
    )
    value = float(np.mean([view.value[key] for view in defined]))
    return around(value, samples, conservative, confidence)


def _worst(views: dict[str, _View], key: str, confidence: float) -> Interval:
    defined = _defined(views, key).values()
    if not defined:
        return Interval()
    samples = (
        largest(np.stack([view.drawn[key] for view in defined], axis=-1)),
        largest(_ranked([view.smooth[key] for view in defined])),
        largest(np.stack([view.errors[key] for view in defined], axis=-1)),
    )
    value = max(view.value[key] for view in defined)
    return around(value, samples, conservative, confidence)


def _ranked(samples: list[Values]) -> Values:
    """Draws (draws,) of V views as (draws, V), smallest first; undefined ones last."""
    return np.asarray(np.sort(samples, axis=1).T)


def _worst_view(views: dict[str, _View], key: str) -> str | None:
    defined = _defined(views, key)
    return max(defined, key=lambda name: defined[name].value[key], default=None)


def _view_warnings(
    views: dict[str, _View], macro: dict[str, Interval], worst: dict[str, Interval]
) -> Iterator[str]:
    for key in HEADLINE_GAPS:
        for name in views:
            if name not in _defined(views, key):
                yield f"the {key} of {name!r} is undefined: left out of macro and worst"
    yield from interval_warnings(
        {f"{kind} {key}": intervals[key] for kind, intervals in (("macro", macro), ("worst", worst))
         for key in HEADLINE_GAPS}
    )  # fmt: skip


def _codes(names: list[Any]) -> dict[Any, int]:
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


def _unknown_predictions(predicted: list[Any], codes: dict[Any, int]) -> Iterator[str]:
    unknown = Counter(str(value) for value in predicted if value not in codes and value is not None)
    if unknown:
        examples = ", ".join(repr(name) for name, _ in unknown.most_common(3))
        yield (
            f"{unknown.total()} predictions are not a class ({examples}): counted as no usable "
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
            f"is not a class (row {row})", where=where, got=value, allowed="an integer or a text"
        ) from error
    return value


def _label_names(columns: Mapping[str, ArrayLike], where: str) -> list[Any]:
    """The labels; not `columns.keys()` of an array, nor the truth value of a data frame."""
    names = list(columns) if hasattr(columns, "keys") else []
    if not names or len({str(name) for name in names}) < len(names):
        raise MeasurementError(
            "needs a mapping from label to column, with at least one label and distinct names",
            where=where,
            got=names or type(columns).__name__,
        )
    return names
