"""Pairs of models on the same rows, at their own thresholds and at equal selection rates.

`fairness.claims` has the rules of what may be said; this brings the evidence from predictions. The
threshold that gives a wanted selection rate is set on the compared rows themselves. It is one
for everybody, and reads scores and weights, neither labels nor groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mergekit_fair.evaluation.evaluate import counted
from mergekit_fair.evaluation.levels import level_threshold
from mergekit_fair.evaluation.multi_predictions import AnyPredictions, MultiPredictions
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.claims import SATURATION, Evidence, OwnFigures, are_apart
from mergekit_fair.fairness.compare import Paired
from mergekit_fair.fairness.counts import Column, Patterns
from mergekit_fair.fairness.intervals import Number
from mergekit_fair.fairness.metrics import COMPARED, HEADLINE, MATCHED
from mergekit_fair.fairness.multi_pairs import MultiDifferences, multi_differences
from mergekit_fair.fairness.one_vs_rest import measure_views
from mergekit_fair.fairness.pair import Difference

_Name = tuple[str, str | None]  # a model, and whose selection rate it is brought to


@dataclass(frozen=True)
class PairedModels:
    """What is known of pairs of models of the same rows.

    Attributes:
        evidence: name of the pair → what a claim about b − a rests on.
        own: model → its selection rates and gaps.
        warnings: why something is undefined, with the pair's name.
        n: rows that count.
        is_weighted: some of them count for more than others.
        views: of classes or labels: pair → class or label → metric → b − a; else empty.
    """

    evidence: dict[str, Evidence]
    own: dict[str, OwnFigures]
    warnings: list[str]
    n: int
    is_weighted: bool
    views: Mapping[str, Mapping[str, Mapping[str, Difference]]] = field(default_factory=dict)


def paired_models(
    models: Mapping[str, AnyPredictions],
    pairs: Mapping[str, tuple[str, str]],
    settings: MetricSettings,
    *,
    saturation: float = SATURATION,
) -> PairedModels:
    """Compare models two by two.

    Args:
        models: name → predictions of the same rows in the same order.
        pairs: name of a pair → names of a and b; b − a is computed.
        settings: how to measure; the groups that the task excludes are added.
        saturation: selection rates further apart than this are not equal.

    Raises:
        MeasurementError: as `compare`.
    """
    first = next(iter(models.values()))
    settings = settings.excluding(first.excluded)
    multi = {name: each for name, each in models.items() if isinstance(each, MultiPredictions)}
    if multi:
        return _of_views(multi, pairs, settings, saturation)
    binary = {name: each for name, each in models.items() if isinstance(each, Predictions)}
    return _of_binary(binary, pairs, settings, saturation)


def _of_binary(
    models: Mapping[str, Predictions],
    pairs: Mapping[str, tuple[str, str]],
    settings: MetricSettings,
    saturation: float,
) -> PairedModels:
    first = next(iter(models.values()))
    own = {name: OwnFigures.of(counted(model), settings) for name, model in models.items()}
    columns = _columns(models, pairs, own, saturation)
    number = {name: str(key) for key, name in enumerate(columns)}
    paired = Paired.of(
        first.labels,
        {number[name]: column for name, column in columns.items()},
        first.members,
        settings,
        first.weights,
        first.clusters,
    )
    evidence, warnings = {}, []
    for name, (a, b) in pairs.items():
        at_own, *levels = (
            paired.difference(number[x], number[y], metrics)
            if x in number and y in number
            else None
            for x, y, metrics in (
                ((a, None), (b, None), COMPARED),
                ((a, None), (b, a), MATCHED),
                ((a, b), (b, None), MATCHED),
            )
        )
        assert at_own is not None
        at_a, at_b = (None if each is None else each.metrics for each in levels)
        evidence[name] = Evidence(own[a], own[b], at_own.metrics, at_a, at_b, saturation)
        warnings += [f"{name}: {text}" for text in at_own.warnings]
    is_weighted = paired.patterns.weights is not None
    return PairedModels(evidence, own, warnings, len(paired.labels), is_weighted)


def _columns(
    models: Mapping[str, Predictions],
    pairs: Mapping[str, tuple[str, str]],
    own: Mapping[str, OwnFigures],
    saturation: float,
) -> dict[_Name, Column]:
    """Predictions of every pair at own thresholds, and at each other's rates where possible."""
    found: dict[_Name, Column] = {}
    for a, b in pairs.values():
        found |= {(name, None): models[name].predicted for name in (a, b)}
        for name, other in ((b, a), (a, b)):
            column = _at_rate(models[name], own[other].selection_rate, saturation)
            found |= {} if column is None else {(name, other): column}
    return found


def _at_rate(model: Predictions, rate: Number, saturation: float) -> Column | None:
    """Predictions at a selection rate, if there are scores that can give it."""
    gaps = model.logit_gaps
    if gaps is None or rate is None:
        return None
    answered = gaps[~np.isnan(gaps)]
    if not answered.size or np.isinf(answered).any():
        return None
    matched = model.predict_at(level_threshold(model, rate))
    is_reached = not are_apart(matched.selection_rate, rate, saturation)
    return matched.predicted if is_reached else None


def _of_views(
    models: Mapping[str, MultiPredictions],
    pairs: Mapping[str, tuple[str, str]],
    settings: MetricSettings,
    saturation: float,
) -> PairedModels:
    """Of classes or labels: every one is brought to the other model's selection rate."""
    first = next(iter(models.values()))
    members = first.members.by_name()
    patterns = Patterns.of(members, len(first), first.weights, first.clusters)
    labels = first.labels[patterns.rows]
    own = {
        name: OwnFigures.of_views(measure_views(model.counted(), settings))
        for name, model in models.items()
    }

    def difference(
        a: MultiPredictions, b: MultiPredictions, names: Sequence[str] = HEADLINE
    ) -> MultiDifferences:
        rows = patterns.rows
        one, two = a.predicted[rows], b.predicted[rows]
        return multi_differences(patterns, first.names, labels, one, two, settings, names)

    evidence, warnings, views = {}, [], {}
    for name, (a, b) in pairs.items():
        at_own = difference(models[a], models[b], COMPARED)
        b_at_a = _at_rates(models[b], models[a], saturation)
        a_at_b = _at_rates(models[a], models[b], saturation)
        at_a = None if b_at_a is None else difference(models[a], b_at_a).metrics
        at_b = None if a_at_b is None else difference(a_at_b, models[b]).metrics
        evidence[name] = Evidence(own[a], own[b], at_own.metrics, at_a, at_b, saturation)
        views[name] = at_own.views
        warnings += [
            f"{name}: the difference in {metric} is undefined"
            for metric, found in at_own.metrics.items()
            if found.value is None
        ]
    is_weighted = patterns.weights is not None
    return PairedModels(evidence, own, warnings, len(labels), is_weighted, views)


def _at_rates(
    model: MultiPredictions, other: MultiPredictions, saturation: float
) -> MultiPredictions | None:
    """A model at another's selection rates, if there are scores that can give them."""
    rates = other.selection_rates
    if any(np.isnan(rate) for rate in rates.values()):
        return None
    found = model.at_level(rates)
    if found is None:
        return None
    reached = found.selection_rates
    is_reached = not any(are_apart(reached[name], rates[name], saturation) for name in rates)
    return found if is_reached else None
