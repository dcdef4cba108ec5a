"""Level matching: one global threshold that gives a wanted overall selection rate.

Large λ can raise the selection rate until DPD and EOD shrink by saturation. Measuring every
merge at the same rate removes that effect (METHODS §1, "level-matched"). Group labels are never
used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError


def matching_threshold(scores: ArrayLike, rate: float) -> float:
    """Threshold t with share(scores >= t) as near to ``rate`` as possible.

    Equal scores are never split, so the share reached may differ from ``rate``. Of two equally
    near shares the lower one (the higher threshold) is taken.

    Args:
        scores: shape (n,), higher means more positive; set them on validation rows.
        rate: wanted share of positive predictions, in [0, 1].

    Returns:
        A score that occurs, or, where selecting no row is nearest, the next float above the
        highest one.

    Raises:
        MeasurementError: no scores, a score that is not finite, or a rate outside [0, 1].
    """
    values = _checked(scores)
    if not 0.0 <= rate <= 1.0:
        raise MeasurementError("must lie in [0, 1]", where="rate", got=rate)
    distinct, counts = np.unique(values, return_counts=True)
    candidates = np.append(np.nextafter(distinct[-1], np.inf), distinct[::-1])
    selected = np.concatenate(([0], np.cumsum(counts[::-1])))
    # argmin takes the first of equals, and candidates run from the highest threshold down.
    return float(candidates[np.abs(selected - rate * len(values)).argmin()])


def predict_at(scores: ArrayLike, threshold: float) -> NDArray[np.int8]:
    """Predictions 1[score >= threshold]: shape (n,), int8.

    Raises:
        MeasurementError: no scores, a score that is not finite, or a NaN threshold.
    """
    if np.isnan(threshold):
        raise MeasurementError("is NaN", where="threshold", fix="use matching_threshold")
    return (_checked(scores) >= threshold).astype(np.int8)


def _checked(scores: ArrayLike) -> NDArray[np.float64]:
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MeasurementError(
            "must be numbers", where="scores", fix="pass the score of the positive class"
        ) from error
    if values.ndim != 1:
        raise MeasurementError(
            "needs one score per row",
            where="scores",
            got=f"shape {values.shape}",
            allowed="shape (n,)",
            fix="pass the score of the positive class",
        )
    if values.size == 0:
        raise MeasurementError("there are no rows", where="scores", fix="check the split")
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(wrong.argmax())
        raise MeasurementError(
            f"row {row} is not finite",
            where="scores",
            got=float(values[row]),
            allowed="finite numbers",
            fix="look for overflow in the merged weights, or drop the row",
        )
    return values
