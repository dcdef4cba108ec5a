"""What a fair head is compared with: other linear layers on the same features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.evaluation.soft_objective import counting, deciding_groups
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.heads.directions import Direction, cells_of, random_directions
from mergekit_fair.heads.fair_head import FairHead, HeadSettings, fit_on
from mergekit_fair.heads.fitting import folds
from mergekit_fair.heads.last_layer import Array, FeatureRows, LastLayer

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
