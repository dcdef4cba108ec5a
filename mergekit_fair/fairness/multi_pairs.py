"""Two predictors of classes or labels on the same rows: differences b − a of mean and worst gaps.

    a view                  as two binary predictors (`pair`)
    accuracy                share of rows with every view right, likewise
    worst DPD, worst EOD    test inversion, as of one gap: the largest over all views' rates
    macro DPD, macro EOD    the mean of the views' differences; limits are the means of their limits

A mean of limits covers at least as often as the limits do, whatever errors have in common, as long
as these are normal or of another elliptical law, where quantiles of a sum are at most the sum of
quantiles. Its p-value is that of Student's t with 20 degrees of freedom, as far from 0 as the limit
says. Draws of a view are its own, as if views did not err together: in a maximum of errors that is
the larger case. How often these intervals are right: `benchmarks/class_intervals.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.fairness.clusters import students
from mergekit_fair.fairness.counts import Patterns, groups_of
from mergekit_fair.fairness.intervals import Number
from mergekit_fair.fairness.inversion import Test
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.fairness.measure_warnings import (
    draw_warnings,
    interval_warnings,
    nameless_warnings,
    weightless_warnings,
)
from mergekit_fair.fairness.metric_kinds import Gap
from mergekit_fair.fairness.metrics import COMPARED, HEADLINE_GAPS
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.fairness.pair import (
    Difference,
    Numbers,
    PairedCells,
    difference_of,
    inverted_numbers,
    turned,
)
from mergekit_fair.fairness.settings import MetricSettings, SettingOptions
from mergekit_fair.fairness.views import MultiCodes

_FREEDOM = 20.0  # as far tails of draws, see `inversion.upper_tail`


@dataclass(frozen=True)
class MultiDifferences:
    """Of two predictors, b − a.

    Attributes:
        metrics: name of `MULTI_METRICS` → difference.
        views: view → metric that is compared → difference.
    """

    metrics: dict[str, Difference]
    views: dict[str, dict[str, Difference]]


def multi_differences(
    patterns: Patterns,
    names: Sequence[str],
    labels: NDArray[np.int8],
    a: NDArray[np.int8],
    b: NDArray[np.int8],
    settings: MetricSettings,
    of_views: Sequence[str] = COMPARED,
    metrics: Sequence[str] = tuple(MULTI_METRICS),
) -> MultiDifferences:
    """b minus a.

    Args:
        patterns: groups and weights of the m rows.
        names: of the V views.
        labels: (m, V), 0 or 1.
        a, b: (m, V), 0, 1 or UNANSWERED.
        settings: how they are measured.
        of_views: the metrics that are compared of every view, the gaps among them.
        metrics: of `MULTI_METRICS`, those that are compared; with fewer, views show only what
            these need.

    >>> from mergekit_fair.fairness.groups import Groups
    >>> groups = Groups.of(["x", "y"] * 60, 120)
    >>> labels = np.eye(3, dtype=np.int8)[[0, 1, 2] * 40]
    >>> a, b = (np.eye(3, dtype=np.int8)[answers * 40] for answers in ([0, 1, 1], [0, 1, 2]))
    >>> found = multi_differences(
    ...     Patterns.of(groups, 120), ("cat", "dog", "owl"), labels, a, b, MetricSettings()
    ... )
    >>> round(found.metrics["acc"].value, 3), found.metrics["macro_dpd"].value
    (0.333, 0.0)
    """
    by_view = [
        PairedCells.of(patterns, labels[:, view], a[:, view], b[:, view])
        for view in range(len(names))
    ]
    asked = [MULTI_METRICS[name] for name in metrics]
    gaps = {str(metric.gap) for metric in asked if metric.over == "macro"}
    is_all = gaps == set(HEADLINE_GAPS)
    views = {
        name: cells.differences(settings, of_views if is_all else sorted(gaps))
        for name, cells in zip(names, by_view, strict=True)
    }
    worst = _Worst.of(
        patterns,
        names,
        labels,
        (a, b),
        [cells.sign for cells in by_view],
        settings,
        [gap for gap in HEADLINE_GAPS if any(metric.gap == gap for metric in asked)],
    )
    found = {}
    for metric in asked:
        if metric.gap is None:
            right = [_right(labels, answers) for answers in (a, b)]
            every = PairedCells.of(patterns, np.ones(len(labels), dtype=np.int8), *right)
            found[metric.name] = every.differences(settings, ["acc"])["acc"]
        elif metric.over == "worst":
            found[metric.name] = worst.difference(metric.gap)
        elif worst.is_same(metric.gap):
            of_gap = [each[metric.gap] for each in views.values()]
            found[metric.name] = mean_difference(of_gap, settings.confidence)
        else:
            found[metric.name] = Difference()
    return MultiDifferences(found, views)


@dataclass(frozen=True)
class MultiComparison:
    """Differences b − a of two predictors of classes or labels, each in [−1, 1].

    Attributes:
        n: number of rows.
        reference, confidence: as in a `Measurement`.
        metrics: name of `MULTI_METRICS` → `Difference`.
        views: class or label → metric that is compared → `Difference`.
        warnings: why a difference is undefined, and predictions that are no class.
    """

    n: int
    reference: str
    confidence: float
    metrics: dict[str, Difference]
    views: dict[str, dict[str, Difference]]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Return `{metric: {"value", "low", "high", "p_value"}}`; None means undefined."""
        return {name: difference.to_dict() for name, difference in self.metrics.items()}


def compare_classes(
    y_true: ArrayLike,
    y_pred_a: ArrayLike,
    y_pred_b: ArrayLike,
    groups: Any,
    *,
    classes: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    clusters: Any = None,
    **settings: Unpack[SettingOptions],
) -> MultiComparison:
    """Compare two multi-class predictors on the same rows, b minus a.

    Args:
        y_true, y_pred_a, y_pred_b: shape (n,), classes, as in `measure_classes`.
        groups, classes, weights, clusters, settings: as in `measure_classes`.

    Raises:
        MeasurementError: as `measure_classes`.

    >>> animals, groups = ["cat", "dog", "bird"] * 40, ["a", "b"] * 60
    >>> found = compare_classes(animals, ["cat", "dog", "dog"] * 40, animals, groups)
    >>> round(found.metrics["acc"].value, 3), found.metrics["macro_eod"].value
    (0.333, 0.0)
    """
    checked = MetricSettings(**settings)
    a, b = (MultiCodes.of_classes(y_true, each, classes) for each in (y_pred_a, y_pred_b))
    return _compared(a, b, groups, checked, weights, clusters)


def compare_labels(
    y_true: Mapping[str, ArrayLike],
    y_pred_a: Mapping[str, ArrayLike],
    y_pred_b: Mapping[str, ArrayLike],
    groups: Any,
    *,
    weights: ArrayLike | None = None,
    clusters: Any = None,
    **settings: Unpack[SettingOptions],
) -> MultiComparison:
    """Compare two multi-label predictors on the same rows, b minus a.

    Args:
        y_true, y_pred_a, y_pred_b: label → shape (n,), as in `measure_labels`.
        groups, weights, clusters, settings: as in `measure_labels`.

    Raises:
        MeasurementError: as `measure_labels`.

    >>> y_true = {"toxic": [0, 0, 1, 1] * 30, "threat": [0, 0, 0, 1] * 30}
    >>> before = {"toxic": [0, 1, 1, 1] * 30, "threat": [0, 0, 0, 0] * 30}
    >>> found = compare_labels(y_true, before, y_true, ["a", "b"] * 60)
    >>> found.metrics["acc"].value, found.views["threat"]["dpd"].value
    (0.5, 0.5)
    """
    checked = MetricSettings(**settings)
    a, b = (MultiCodes.of_labels(y_true, each) for each in (y_pred_a, y_pred_b))
    return _compared(a, b, groups, checked, weights, clusters)


def _compared(
    a: MultiCodes,
    b: MultiCodes,
    groups: Any,
    settings: MetricSettings,
    weights: ArrayLike | None,
    clusters: Any,
) -> MultiComparison:
    members = groups_of(groups, len(a.labels)).by_name()
    patterns = Patterns.of(members, len(a.labels), weights, clusters)
    labels, one, two = (each[patterns.rows] for each in (a.labels, a.predicted, b.predicted))
    found = multi_differences(patterns, a.names, labels, one, two, settings)
    warnings = (
        *dict.fromkeys((*a.warnings, *b.warnings)),
        *weightless_warnings(patterns.weightless),
        *nameless_warnings(patterns.names),
        *(
            f"the difference in {name} is undefined"
            for name, difference in found.metrics.items()
            if difference.value is None
        ),
        *interval_warnings(found.metrics),
        *draw_warnings(settings),
    )
    return MultiComparison(
        n=len(labels),
        reference=settings.reference,
        confidence=settings.confidence,
        metrics=found.metrics,
        views=found.views,
        warnings=warnings,
    )


def _right(labels: NDArray[np.int8], answers: NDArray[np.int8]) -> NDArray[np.int8]:
    """(m,), 1 where every view is right; UNANSWERED where one has no answer."""
    right = (labels == answers).all(axis=1).astype(np.int8)
    right[(answers == UNANSWERED).any(axis=1)] = UNANSWERED
    return right


def mean_difference(each: Sequence[Difference], confidence: float) -> Difference:
    """The mean of differences, of those that are defined.

    Args:
        each: of V views.
        confidence: of their intervals.

    >>> mean_difference([Difference(value=-0.2, low=-0.3, high=-0.1, p_value=0.001)] * 2, 0.95).high
    -0.1
    """
    known = [one for one in each if one.value is not None]
    if not known:
        return Difference()
    value = float(np.mean([one.value for one in known]))
    lows, highs = [one.low for one in known], [one.high for one in known]
    if None in lows or None in highs:
        return Difference(value=value, dropped=max(one.dropped for one in known))
    low, high = float(np.mean(lows)), float(np.mean(highs))  # type: ignore[arg-type]
    return Difference(
        value=value, low=low, high=high, p_value=_p_value(value, low, high, confidence)
    )


def _p_value(value: float, low: float, high: float, confidence: float) -> Number:
    """At most 1 − confidence exactly where the limits leave out 0."""
    from scipy.special import stdtr, stdtrit

    reach = value - low if value > 0 else high - value
    if value == 0 or reach <= 0:
        return 1.0
    deviate = float(stdtrit(_FREEDOM, (1 + confidence) / 2)) * abs(value) / reach
    return min(1.0, 2 * float(stdtr(_FREEDOM, -deviate)))


@dataclass(frozen=True, eq=False)
class _Worst:
    """What the largest gap over views is the extreme of, of both models.

    Attributes:
        models: gap → of each view the first's and the second's numbers.
        sign: as in `PairedCells`, for all views.
        clusters: how many are drawn; None: single rows.
    """

    models: Mapping[str, list[tuple[Numbers, Numbers]]]
    sign: int
    clusters: int | None
    settings: MetricSettings

    @classmethod
    def of(
        cls,
        patterns: Patterns,
        names: Sequence[str],
        labels: NDArray[np.int8],
        answers: tuple[NDArray[np.int8], NDArray[np.int8]],
        signs: Sequence[int],
        settings: MetricSettings,
        gaps: Sequence[str],
    ) -> _Worst:
        """Of two models; the views decide together which is the first, so that both orders are
        drawn alike."""
        ordered = sorted(range(len(names)), key=lambda view: names[view])
        sign = next((signs[view] for view in ordered if signs[view]), 0)
        first, second = answers[::-1] if sign < 0 else answers
        cells = {
            view: PairedCells.as_given(patterns, labels[:, view], first[:, view], second[:, view])
            for view in ordered
        }
        sizes = [len(each.clusters) for each in cells.values() if each.clusters is not None]
        clusters = sizes[0] if sizes else None
        settings = settings if clusters is None else settings.of_clusters(clusters)
        models = {
            key: [
                of_view.numbers(metric, replace(settings, seed=_seed(settings.seed, number)))
                for number, of_view in enumerate(cells.values())
            ]
            for key in gaps
            for metric in [HEADLINE_GAPS[key]]
        }
        return cls(models, sign, clusters, settings)

    def is_same(self, gap: str) -> bool:
        """Whether the same views have this gap in both models."""
        return all(bool(one.sizes) == bool(two.sizes) for one, two in self.models[gap])

    def difference(self, gap: str) -> Difference:
        """Of the largest gaps."""
        pairs = [pair for pair in self.models[gap] if pair[0].sizes and pair[1].sizes]
        if not pairs or not self.is_same(gap):
            return Difference()
        metric: Gap = HEADLINE_GAPS[gap]
        first, second = (Numbers.joined(each) for each in zip(*pairs, strict=True))
        low, high = (
            float(metric.extreme(each.sizes, self.settings.reference).of(each.values))
            for each in (first, second)
        )
        test: Test | float = inverted_numbers(metric, (first, second), self.settings)
        if self.clusters is not None and not isinstance(test, float):
            test = (*test[:2], students(test[2], self.clusters))
        return turned(difference_of(high - low, test), self.sign)


def _seed(seed: int, view: int) -> int:
    return int(np.random.SeedSequence([seed, view]).generate_state(1)[0])
