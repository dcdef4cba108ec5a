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

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_serializer

from mergekit_fair.fairness.clusters import Spread, widened
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.deciding import Deciding
from mergekit_fair.fairness.eligible_groups import EligibleGroups
from mergekit_fair.fairness.grouped import Grouped
from mergekit_fair.fairness.intervals import (
    Interval,
    around,
    conservative,
    wilson,
)
from mergekit_fair.fairness.joint import JointTable
from mergekit_fair.fairness.measure import estimate_table, measure_table
from mergekit_fair.fairness.measure_warnings import draw_warnings, interval_warnings
from mergekit_fair.fairness.measurement import Measurement, without_unsaid
from mergekit_fair.fairness.metric_kinds import Metric
from mergekit_fair.fairness.metrics import HEADLINE_GAPS, METRICS
from mergekit_fair.fairness.rates import Values, deviations, gap, largest, mean
from mergekit_fair.fairness.settings import MetricSettings, SettingOptions
from mergekit_fair.fairness.smoothing import Smoothed
from mergekit_fair.fairness.views import Kind, MultiCodes, Views
from mergekit_fair.schema import Record


@dataclass(frozen=True)
class MultiMetric:
    """A figure over all views.

    Attributes:
        name: in files, rules and tables.
        title: for a column or an axis.
        description: for a sentence.
        better: which values are.
        gap: `dpd` or `eod`; None of the accuracy.
        over: its mean over the views, or its maximum; None of the accuracy.
    """

    name: str
    title: str
    description: str
    better: Literal["higher", "lower"]
    gap: str | None = None
    over: Literal["macro", "worst"] | None = None


_OVER: tuple[tuple[Literal["macro", "worst"], str], ...] = (
    ("macro", "mean over classes or labels"),
    ("worst", "largest over classes or labels"),
)
MULTI_METRICS: Mapping[str, MultiMetric] = MappingProxyType(
    {
        "acc": MultiMetric("acc", "accuracy", "share of rows with every answer right", "higher"),
        **{
            f"{over}_{name}": MultiMetric(
                f"{over}_{name}",
                f"{over} {metric.title}",
                f"{words} of the {metric.description}",
                "lower",
                name,
                over,
            )
            for name, metric in HEADLINE_GAPS.items()
            for over, words in _OVER
        },
    }
)
"""Name → figure: accuracy, and mean and maximum of DPD and EOD over classes or labels."""
EVERY_METRIC: Mapping[str, Metric | MultiMetric] = MappingProxyType({**MULTI_METRICS, **METRICS})
"""The same, and `METRICS`, of tasks that are answered by no or yes."""


class MultiMeasurement(Record):
    """Metrics over several binary views (classes or labels) of the same rows.

    Attributes:
        kind: whether views are classes, of which a row has one, or labels.
        n: number of rows.
        weighted, clusters, reference, confidence: as in `Measurement`.
        unanswered: rows without a usable prediction in some view.
        degenerate: predictions are (nearly) constant in every view.
        acc: share of rows with every view right: the correct class, or all labels correct.
        macro, worst: `dpd` and `eod`: their mean and their maximum over the views. A view
            whose gap is undefined is left out.
        worst_view: for `dpd` and `eod`, the view with the largest gap.
        views: view → its `Measurement`.
        warnings: what is undefined or left out over the views; each view has its own.
    """

    kind: Kind
    n: int
    weighted: bool = False
    clusters: int | None = None
    unanswered: int
    reference: str
    confidence: float
    degenerate: bool
    acc: Interval
    macro: dict[str, Interval]
    worst: dict[str, Interval]
    worst_view: dict[str, str | None]
    views: dict[str, Measurement]
    warnings: Annotated[tuple[str, ...], Field(strict=False)]

    @model_serializer(mode="wrap")
    def _stated(self, serialize: Any) -> dict[str, Any]:
        return without_unsaid(serialize(self))

    @property
    def metrics(self) -> dict[str, Interval]:
        """Every figure of `MULTI_METRICS` by its name."""
        gaps = {"macro": self.macro, "worst": self.worst}
        return {
            name: self.acc if metric.over is None else gaps[metric.over][str(metric.gap)]
            for name, metric in MULTI_METRICS.items()
        }

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Its own, then those of the views, with their names where not all of them say it."""
        of = {name: view.warnings for name, view in self.views.items()}
        found = list(self.warnings)
        for text in dict.fromkeys(text for said in of.values() for text in said):
            names = [name for name, said in of.items() if text in said]
            found.append(text if len(names) == len(of) else f"{', '.join(names)}: {text}")
        return tuple(dict.fromkeys(found))

    @property
    def deciding(self) -> dict[str, Deciding]:
        """`worst_dpd` and `worst_eod` → the groups that make the gap, where there is one."""
        return {
            f"worst_{gap}": self.views[view].deciding[gap]
            for gap, view in self.worst_view.items()
            if view in self.views and gap in self.views[view].deciding
        }


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
    codes = MultiCodes.of_classes(y_true, y_pred, classes)
    return measure_views(codes.counted(groups, weights, clusters), checked, codes.warnings)


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
    codes = MultiCodes.of_labels(y_true, y_pred)
    return measure_views(codes.counted(groups, weights, clusters), checked)


def measure_views(
    views: Views, settings: MetricSettings, warnings: Sequence[str] = ()
) -> MultiMeasurement:
    """Measure every view, and sum up.

    Args:
        views: the rows.
        settings: as in `measure`.
        warnings: to put in front.

    Raises:
        MeasurementError: an unknown group is excluded.
    """
    confidence, joint = settings.confidence, views.joint
    measurements = {
        name: measure_table(joint.table(view), settings) for name, view in views.by_name.items()
    }
    gaps = _gaps(views, settings)
    macro = {key: _macro(gaps, key, confidence) for key in HEADLINE_GAPS}
    worst = {key: _worst(gaps, key, confidence) for key in HEADLINE_GAPS}
    return MultiMeasurement(
        kind=views.kind,
        n=joint.n,
        weighted=joint.patterns.weights is not None,
        clusters=None if joint.clusters is None else len(joint.clusters),
        unanswered=int(joint.counts[views.is_silent].sum()),
        reference=settings.reference,
        confidence=float(confidence),
        degenerate=all(each.degenerate for each in measurements.values()),
        acc=_share(joint, views.correct, confidence),
        macro=macro,
        worst=worst,
        worst_view={key: _worst_view(gaps, key) for key in HEADLINE_GAPS},
        views=measurements,
        warnings=(*warnings, *_view_warnings(gaps, macro, worst), *draw_warnings(settings)),
    )


def view_intervals(views: Views, settings: MetricSettings) -> dict[str, Interval]:
    """`MULTI_METRICS` with their intervals, as `measure_views` has them, and nothing else.

    Args:
        views: the rows.
        settings: as in `measure`.
    """
    gaps, over = _gaps(views, settings), {"macro": _macro, "worst": _worst}
    return {
        name: _share(views.joint, views.correct, settings.confidence)
        if metric.over is None
        else over[metric.over](gaps, str(metric.gap), settings.confidence)
        for name, metric in MULTI_METRICS.items()
    }


def _gaps(views: Views, settings: MetricSettings) -> dict[str, _View]:
    """View → its gaps, with draws that all views share."""
    joint, by_name, found = views.joint, views.by_name, {}
    replicates = joint.resampled(list(by_name.values()), settings.draws, settings.seed)
    for (name, view), drawn in zip(by_name.items(), replicates, strict=True):
        table = joint.table(view)
        rng = np.random.default_rng([settings.seed, sorted(by_name).index(name)])
        eligible = EligibleGroups.of(table, settings)
        found[name] = _View.of(table, drawn, eligible, settings, rng)
    return found


def estimate_views(views: Views, settings: MetricSettings) -> dict[str, float]:
    """Point values of `MULTI_METRICS`, without intervals.

    Args:
        views: the rows.
        settings: reference, min_group_size and exclude.

    Returns:
        Name → value in [0, 1], NaN where undefined; a view whose gap is undefined is left out of
        mean and maximum.

    >>> codes = MultiCodes.of_classes(["a", "b", "c"] * 4, ["a", "b", "b"] * 4)
    >>> views = codes.counted(["x", "y"] * 6)
    >>> estimate_views(views, MetricSettings())["worst_eod"]
    0.0
    """
    joint = views.joint
    weights = joint.counts * joint.weights
    values = [estimate_table(joint.table(view), settings) for view in views.by_name.values()]
    found = {"acc": float(weights[views.correct].sum() / weights.sum())}
    for name, metric in MULTI_METRICS.items():
        if metric.gap is not None:
            gaps = [value[metric.gap] for value in values if not np.isnan(value[metric.gap])]
            over = np.mean if metric.over == "macro" else np.max
            found[name] = float(over(gaps)) if gaps else float("nan")
    return found


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
