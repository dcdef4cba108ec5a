"""What a fair head is compared with: other linear layers on the same features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.soft_objective import (
    APART,
    SoftObjective,
    counting,
    deciding_groups,
)
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.heads.directions import (
    Direction,
    cells_of,
    moments,
    random_directions,
)
from mergekit_fair.heads.fair_head import FairHead, HeadSettings, fit_on, moves_of
from mergekit_fair.heads.fitting import at_level, folds
from mergekit_fair.heads.last_layer import Array, FeatureRows, LastLayer

# What anchors every weight of the layer at the target's.
_ANCHOR = 1.0
# Of the balanced refit's L2 penalty, chosen by the worst cell of left-out rows.
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


def random_head(
    fair: FairHead, rows: Mapping[str, FeatureRows], settings: MetricSettings, head: HeadSettings
) -> FairHead:
    """The control: random directions in the place of the probes', fitted in the same way.

    Whatever it gains is what coefficients on as many directions fit, and not the groups' doing.
    """
    *probes, constant = fair.directions
    drawn = random_directions(probes, rows["train"], seed=head.seed + 1)
    return fit_on([*drawn, constant], rows["validation"], settings, head)


def whole_layer(
    fair: FairHead, rows: Mapping[str, FeatureRows], settings: MetricSettings, head: HeadSettings
) -> FairHead:
    """Every weight of the layer by the fair head's own objective, on training and validation rows.

    Hundreds of coefficients over-fit validation rows alone; with training rows and a ridge that
    anchors them at the target's, they come near the probes' few. The level is set on validation
    rows.

    Returns:
        One direction, which is what all features add up to, and the constant one.
    """
    parts = [rows["train"], rows["validation"]]
    constant = fair.directions[-1]
    train = rows["train"]
    center, spread = moments(train.features[counting(train.rows)])
    center, spread = center * bool(constant.bias), np.where(spread > 0, spread, np.inf)
    ridge = np.full(len(spread) + 1, _ANCHOR)
    ridge[-1] = 0.0
    objective = SoftObjective.of(
        head.metric,
        _joined(*(part.rows for part in parts)),
        settings,
        _each_feature([part.features for part in parts], center, spread, constant),
        apart=fair.mu or APART,
        ridge=ridge,
    )
    *steps, level = objective.minimum()
    weight = np.array(steps) / spread
    directions = (Direction("whole layer", weight, -float(center @ weight)), constant)
    moves = moves_of(directions, rows["validation"], settings)
    coefficients = at_level(moves, np.array([1.0, level]))
    return replace(fair, directions=directions, coefficients=coefficients, tried=(), left_out=())


def _each_feature(
    parts: Sequence[NDArray[np.float32]], center: Array, spread: Array, constant: Direction
) -> Array:
    """(H + 1, n): every feature in standard deviations from its centre, and the constant moves."""
    moves = np.empty((len(spread) + 1, sum(map(len, parts))))
    stop = 0
    for part in parts:
        start, stop = stop, stop + len(part)
        moves[:-1, start:stop] = part.T
        moves[-1, start:stop] = constant.of(part)
    moves[:-1] -= center[:, np.newaxis]
    moves[:-1] /= spread[:, np.newaxis]
    return moves


def _joined(first: Predictions, second: Predictions) -> Predictions:
    """The rows of both; a group that one of them lacks has no rows there."""

    def both(name: str) -> NDArray[np.bool_]:
        return np.concatenate(
            [each.groups.get(name, np.zeros(len(each), dtype=bool)) for each in (first, second)]
        )

    def joined(one: NDArray[Any] | None, other: NDArray[Any] | None) -> Any:
        return None if one is None or other is None else np.concatenate([one, other])

    return replace(
        first,
        keys=tuple(range(len(first) + len(second))),
        labels=np.concatenate([first.labels, second.labels]),
        predicted=np.concatenate([first.predicted, second.predicted]),
        groups={name: both(name) for name in {**first.groups, **second.groups}},
        excluded=tuple(sorted({*first.excluded, *second.excluded})),
        logit_gaps=joined(first.logit_gaps, second.logit_gaps),
        weights=joined(first.weights, second.weights),
        clusters=None,
    )


def balanced_head(
    rows: Mapping[str, FeatureRows], settings: MetricSettings, *, layer: LastLayer, seed: int
) -> Direction:
    """Deep feature reweighting: the last layer fitted anew on validation rows in which all groups,
    and both labels of each, count alike.

    Logistic regression with L2; its strength is the one whose worst cell of left-out rows is the
    most accurate. Source: Kirichenko et al., arXiv 2204.02937.

    Args:
        rows: of `validation`.
        settings: which groups decide.
        layer: the target's.
        seed: of the folds.

    Returns:
        What has to be added to the target's logit gap.
    """
    validation = rows["validation"]
    used = counting(validation.rows)
    part = validation.take(used)
    cells = cells_of("eod", deciding_groups("dpd", part.rows, settings))
    masks = [mask for cell in cells if (mask := cell.mask(part.rows)).any()]
    own = np.ones(len(part.rows)) if part.rows.weights is None else part.rows.weights
    weights: Array = np.sum([own * mask / (own @ mask) for mask in masks], axis=0)
    features = part.features.astype(np.float64)
    has_bias = layer.bias is not None
    scale = features.std(axis=0) + 1e-6
    center = features.mean(axis=0) if has_bias else np.zeros_like(scale)
    values = (features - center) / scale

    def fitted(strength: float, chosen: NDArray[np.bool_]) -> tuple[Array, float]:
        from sklearn.linear_model import LogisticRegression

        labels = part.rows.labels[chosen]
        if (labels == labels[0]).all():  # which is all that can be learned
            return np.zeros(layer.width), 2.0 * float(labels[0]) - 1 if has_bias else 0.0
        share = weights[chosen] * (chosen.sum() / weights[chosen].sum())
        probe = LogisticRegression(C=strength, fit_intercept=has_bias, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe.fit(values[chosen], labels, sample_weight=share)
        return probe.coef_[0], float(np.ravel(probe.intercept_)[0]) if has_bias else 0.0

    def worst(strength: float) -> float:
        right = np.zeros(len(part.rows))
        for inside, outside in folds(part.rows, seed):
            weight, bias = fitted(strength, inside)
            predicted = values[outside] @ weight + bias > 0
            right[outside] = predicted == part.rows.labels[outside]
        return min(float(right[mask].mean()) for mask in masks)

    best = max(_STRENGTHS, key=worst)
    weight, bias = fitted(best, np.ones(len(part.rows), dtype=bool))
    weight = weight / scale
    no, yes = layer.classes
    own_weight = layer.weight[yes] - layer.weight[no]
    own_bias = 0.0 if layer.bias is None else float(layer.bias[yes] - layer.bias[no])
    bias = bias - float(weight @ center) if has_bias else 0.0
    return Direction("balanced refit", weight - own_weight, bias - own_bias)
