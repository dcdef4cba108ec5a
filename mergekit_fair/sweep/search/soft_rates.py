"""Soft rates: what a search reads of a point in the place of its predictions.

A row counts p = σ(z / τ) with z its score and τ a quarter of the standard deviation of all scores:
the mean of its predictions at thresholds near the model's own. Soft rates of two points on the same
rows differ with 2 to 6 times less variance, so that fewer points look good by chance. τ is of the
point's own scores: by another's, a point whose scores were all larger would have a smaller error
though it predicts the same. What is chosen, and every verdict, is of predictions.

Source: METHODS §8; figures of searches with and without: docs/sweeps.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import expit

from mergekit_fair.evaluation.evaluate import Evaluation
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.soft_objective import SOFTNESS
from mergekit_fair.fairness.intervals import Interval, undefined_to_none
from mergekit_fair.fairness.rates import Mask
from mergekit_fair.sweep.limits import Array
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.search.rate_model import COMPOSED, GroupLayout, Lines, composed

# The level is that of predictions, for so is the mark of a saturated point.
_HARD = frozenset({"selection_rate"})


def softened(result: PointResult, rows: Predictions, groups: GroupLayout) -> PointResult:
    """The same point with soft rates of all groups, and the metrics that they compose.

    The selection rate of all rows, and whether it is degenerate, stay those of predictions.

    Args:
        result: measured on these rows, or failed to be.
        rows: the deciding task's, with the point's scores.
        groups: how they lie in the rows.

    Returns:
        The result itself where it has no evaluation, or rows without a finite score.
    """
    evaluation, chances = result.evaluation, soft_predictions(rows)
    if not isinstance(evaluation, Evaluation) or chances is None:
        return result
    found = {
        name: group.model_copy(update=_rates(chances, rows, rows.groups[name]))
        for name, group in evaluation.groups.items()
    }
    blocks = {name: group.to_dict() for name, group in found.items()}
    positive = int(rows.labels.sum())
    of_all = _rates(chances, rows, np.ones(len(rows), dtype=np.bool_))
    every = {"n": float(len(rows)), "n_pos": float(positive), **of_all}
    lines = Lines.of(groups, blocks, every)
    metrics = composed(_table([*blocks.values(), every], lines), lines)
    soft = {
        name: Interval(value=undefined_to_none(float(metrics[name][0])))
        for name in COMPOSED
        if name not in _HARD
    }
    update = {"groups": found, "metrics": {**evaluation.metrics, **soft}}
    return result.model_copy(update={"evaluation": evaluation.model_copy(update=update)})


def soft_predictions(rows: Predictions) -> Array | None:
    """p = σ(z / τ) of every row, (n,) in [0, 1]; None where a score is missing or all are equal.

    >>> rows = Predictions("t", (0, 1), np.array([0, 1]), np.array([0, 1]), {}, (),
    ...                    np.array([-1.0, 1.0]))
    >>> soft_predictions(rows).round(3)
    array([0.018, 0.982])
    """
    gaps = rows.logit_gaps
    if gaps is None or not np.isfinite(gaps).all() or rows.threshold is not None:
        return None
    width = SOFTNESS * float(np.std(gaps))
    return np.asarray(expit(gaps / width)) if width > 0 else None


def _rates(chances: Array, rows: Predictions, inside: Mask) -> dict[str, float | None]:
    """The soft rates of a group, None where undefined."""
    shares = {
        "selection_rate": inside,
        "tpr": inside & (rows.labels == 1),
        "fpr": inside & (rows.labels == 0),
    }
    right = np.where(rows.labels == 1, chances, 1 - chances)
    return {
        **{name: _mean(chances, of) for name, of in shares.items()},
        "acc": _mean(right, inside),
    }


def _mean(values: Array, of: Mask) -> float | None:
    return float(values[of].mean()) if of.any() else None


def _table(blocks: list[Mapping[str, float | None]], lines: Lines) -> Array:
    """Rates (1, L, 3) of the lines, NaN where undefined."""
    names = ("selection_rate", "tpr", "fpr")
    found = [[np.nan if b[name] is None else b[name] for name in names] for b in blocks]
    return np.array([found[: len(lines.names)]], dtype=np.float64)
