"""Selection rates that metrics are read at: of another model, so that gaps can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.multi_predictions import AnyPredictions, MultiPredictions
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import matching_threshold
from mergekit_fair.fairness.claims import SATURATION
from mergekit_fair.schema import Record


@dataclass(frozen=True)
class Level:
    """What a model's selection rate is matched to.

    Attributes:
        to: whose rate it is.
        rate: that selection rate, in [0, 1].
        saturation: a selection rate further than this from it marks an evaluation `saturated`.
    """

    to: str
    rate: float
    saturation: float = SATURATION


@dataclass(frozen=True)
class MultiLevel:
    """The same of classes or labels.

    Attributes:
        to: whose rates they are.
        rates: class or label → its selection rate, in [0, 1].
        saturation: a rate further than this from its own marks an evaluation `saturated`.
    """

    to: str
    rates: Mapping[str, float]
    saturation: float = SATURATION


AnyLevel = Level | MultiLevel


class LevelRates(Record):
    """What the selection rates of classes or labels are read beside, see `MultiLevel`."""

    to: str
    rates: dict[str, float]


# What brings predictions to a selection rate: a threshold on logit gaps; of classes or labels each
# one's number, see `MultiPredictions.moved`.
Threshold = float | Mapping[str, float]


def level_of_labels(predictions: AnyPredictions) -> AnyLevel:
    """The share of positive labels, or of each class or label."""
    if isinstance(predictions, MultiPredictions):
        return MultiLevel("labels", predictions.base_rates)
    return Level("labels", predictions.base_rate)


def require_level(level: AnyLevel, predictions: AnyPredictions) -> None:
    """Selection rates are of the same kind of task, and of the same classes or labels.

    Raises:
        MeasurementError: they are not.
    """
    names = predictions.names if isinstance(predictions, MultiPredictions) else None
    rates = list(level.rates) if isinstance(level, MultiLevel) else None
    if (names is None) != (rates is None) or set(names or ()) != set(rates or ()):
        raise MeasurementError(
            "the selection rates to look at are of another kind of task",
            where=predictions.task,
            got=rates or "one rate",
            allowed=list(names) if names else "one rate",
            fix="name an evaluation of the same task",
        )


def level_threshold(predictions: Predictions, rate: float) -> float:
    """The threshold on logit gaps, of which there are some, that selects this share of the rows."""
    assert predictions.logit_gaps is not None
    known = ~np.isnan(predictions.logit_gaps)
    weights = None if predictions.weights is None else predictions.weights[known]
    return float(matching_threshold(predictions.logit_gaps[known], rate, weights))
