"""Pairs of models on the same rows, at their own thresholds and at equal selection rates.

`fairness.claims` has the rules of what may be said; this brings the evidence from predictions. The
threshold that gives a wanted selection rate is set on the compared rows themselves. It is one
for everybody, and reads scores and weights, neither labels nor groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mergekit_fair.evaluation.evaluate import counted, level_threshold
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.claims import SATURATION, Evidence, OwnFigures, are_apart
from mergekit_fair.fairness.compare import Paired
from mergekit_fair.fairness.counts import Column
from mergekit_fair.fairness.intervals import Number
from mergekit_fair.fairness.metrics import COMPARED, MATCHED

_Name = tuple[str, str | None]  # a model, and whose selection rate it is brought to


@dataclass(frozen=True)
class PairedModels:
    """What is known of pairs of models of the same rows.

    Attributes:
        evidence: name of the pair → what a claim about b − a rests on.
        own: model → its selection rate and gaps.
        warnings: why something is undefined, with the pair's name.
        n: rows that count.
        is_weighted: some of them count for more than others.
    """

    evidence: dict[str, Evidence]
    own: dict[str, OwnFigures]
    warnings: list[str]
    n: int
    is_weighted: bool


def paired_models(
    models: Mapping[str, Predictions],
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
