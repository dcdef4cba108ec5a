"""The smooth loss of margins, for gradients with respect to λ.

    L(m) = mean_i ln(1 + exp(−s_i m_i)) + penalty · [h(DPD~ − limit) + h(EOD~ − limit)]

with s = ±1 the label, soft rates r_g = mean over the group's rows of σ(m_i / temperature) (within
y = 1 and y = 0 for EOD), ranges by log-sum-exp of sharpness κ, and the hinge
h(u) = ln(1 + exp(κ u)) / κ. For C rates,

    max − min  ≤  soft range  ≤  max − min + 2 ln(C) / κ,

so the loss errs on the side of a larger gap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.sweep.search.rates import expit
from mergekit_fair.sweep.search.space import Array

Mask = NDArray[np.bool_]


def smooth_loss(
    margins: Array,
    labels: NDArray[np.generic],
    membership: Mask,
    *,
    deciding: Mask,
    dpd_limit: float | None,
    eod_limit: float | None,
    temperature: float = 0.1,
    penalty: float = 10.0,
    sharpness: float = 100.0,
) -> tuple[float, Array]:
    """L(m) and ∂L/∂m; then ∂L/∂λ_g = Σ_i (∂L/∂m_i) (∂m_i/∂λ_g).

    Args:
        margins: (n,), score of class 1 minus its threshold: ŷ = 1 where m > 0. In logits.
        labels: (n,), 0 or 1.
        membership: bool (n, G), which groups a row is in; any number of them.
        deciding: bool (G,), groups that may decide a gap.
        dpd_limit, eod_limit: limits on the gaps, in [0, 1]; None: not limited.
        temperature: > 0, in units of the margin; towards 0 soft rates become the hard ones.
        penalty: ≥ 0, loss per unit of excess gap.
        sharpness: κ > 0, per unit of rate, of maxima and hinges.

    Returns:
        The loss, and its gradient (n,) in float64.

    Raises:
        MeasurementError: shapes that do not fit, no rows, a margin that is not finite, a setting
            out of range, or a limit on a gap that fewer than two deciding groups have rows for.
    """
    margins = np.asarray(margins, dtype=np.float64)
    positive = np.asarray(labels) == 1
    _check(margins, np.asarray(labels), membership, deciding)
    _check_settings(temperature, penalty, sharpness)
    signs = np.where(positive, 1.0, -1.0)
    loss = float(np.logaddexp(0.0, -signs * margins).mean())
    gradient = -signs * expit(-signs * margins) / len(margins)
    soft = expit(margins / temperature)
    slope = soft * (1 - soft) / temperature
    members = membership & deciding
    parts = {
        "dpd": (dpd_limit, [members]),
        "eod": (eod_limit, [members & row[:, np.newaxis] for row in (positive, ~positive)]),
    }
    for name, (limit, masks) in parts.items():
        if limit is None:
            continue
        gap, weights = _soft_gap(soft, masks, sharpness, name)
        excess = sharpness * (gap - limit)
        loss += penalty * float(np.logaddexp(0.0, excess)) / sharpness
        gradient = gradient + penalty * float(expit(np.asarray(excess))) * weights * slope
    return loss, gradient


def _soft_gap(soft: Array, masks: list[Mask], sharpness: float, name: str) -> tuple[float, Array]:
    """The soft maximum over masks of the soft range of rates, and its gradient by σ (n,)."""
    ranges, weights = [], []
    for mask in masks:
        sizes = mask.sum(axis=0)
        usable = sizes > 0
        if usable.sum() < 2:  # undefined, as in the exact gap
            continue
        shares = mask[:, usable] / sizes[usable]
        value, by_rate = _soft_range(soft @ shares, sharpness)
        ranges.append(value)
        weights.append(shares @ by_rate)
    if not ranges:
        raise MeasurementError(
            f"{name} is limited, but fewer than two deciding groups have rows for it",
            where=f"{name}_limit",
        )
    largest, by_range = _soft_maximum(np.array(ranges), sharpness)
    return largest, np.asarray(by_range @ np.stack(weights))


def _soft_range(rates: Array, sharpness: float) -> tuple[float, Array]:
    high, by_high = _soft_maximum(rates, sharpness)
    low, by_low = _soft_maximum(-rates, sharpness)
    return high + low, by_high - by_low


def _soft_maximum(values: Array, sharpness: float) -> tuple[float, Array]:
    """ln(Σ exp(κ v)) / κ and its gradient, the softmax."""
    top = values.max()
    powers = np.exp(sharpness * (values - top))
    return float(top + np.log(powers.sum()) / sharpness), powers / powers.sum()


def _check(margins: Array, labels: NDArray[np.generic], membership: Mask, deciding: Mask) -> None:
    shapes = (margins.shape, labels.shape, membership.shape, deciding.shape)
    fitting = (
        margins.ndim == 1
        and len(margins) > 0
        and labels.shape == margins.shape
        and membership.ndim == 2
        and membership.shape == (len(margins), len(deciding))
        and membership.dtype == deciding.dtype == np.bool_
    )
    if not fitting:
        raise MeasurementError(
            "margins, labels, membership and deciding do not fit",
            got=shapes,
            allowed="(n,), (n,), bool (n, G), bool (G,) with n > 0",
        )
    if not np.isfinite(margins).all():
        raise MeasurementError("a margin is not finite", where="margins")
    if not np.isin(labels, (0, 1)).all():
        raise MeasurementError("a label is neither 0 nor 1", where="labels")


def _check_settings(temperature: float, penalty: float, sharpness: float) -> None:
    for name, value, fine in (
        ("temperature", temperature, temperature > 0),
        ("penalty", penalty, penalty >= 0),
        ("sharpness", sharpness, sharpness > 0),
    ):
        if not (fine and np.isfinite(value)):
            raise MeasurementError("is out of range", where=name, got=value)
