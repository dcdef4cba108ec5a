"""Offsets of scores that give wanted selection rates: the threshold of several classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.rates import Values

_ROUNDS = 100


def level_offsets(
    scores: Values, rates: Values, weights: Values | None = None, *, is_exclusive: bool
) -> NDArray[np.float64]:
    """Numbers b (V,) such that scores + b predict each class, or label, as often as is wanted.

    Labels: 1 is predicted where z + b > 0, each by itself. Classes: the arg max of z + b is. There
    one offset after the other is set to what gives its class its share, until all have theirs. That
    is coordinate ascent on the concave dual Σ_c r_c b_c − mean max_c (z_c + b_c) of optimal
    transport from rows to classes (Peyré & Cuturi, arXiv 1803.00567, §5); with equal scores shares
    may stay apart.

    Args:
        scores: (n, V), finite.
        rates: (V,), wanted shares in [0, 1]; of classes they add up to 1.
        weights: (n,), what each row counts for; None: all alike.
        is_exclusive: whether a row has one class, and not any number of labels.

    >>> scores = np.log([[0.6, 0.3, 0.1], [0.6, 0.2, 0.2], [0.7, 0.1, 0.2], [0.4, 0.5, 0.1]])
    >>> shifted = scores + level_offsets(scores, np.array([0.5, 0.25, 0.25]), is_exclusive=True)
    >>> shifted.argmax(axis=1).tolist()
    [0, 2, 0, 1]
    """
    each = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    each = each / each.sum()
    if not is_exclusive:
        return np.array(
            [_offset(-column, rate, each) for column, rate in zip(scores.T, rates, strict=True)]
        )
    offsets = np.zeros(scores.shape[1])
    for _ in range(_ROUNDS):
        for view, rate in enumerate(rates):
            shifted = scores + offsets
            others = np.delete(shifted, view, axis=1).max(axis=1)
            offsets[view] = _offset(others - scores[:, view], rate, each)
        chosen = (scores + offsets).argmax(axis=1)
        shares = np.bincount(chosen, each, minlength=len(rates))
        if np.abs(shares - rates).max() <= each.max():
            break
    return offsets


def _offset(needed: Values, rate: float, weights: Values) -> float:
    """What is above `needed` (n,) in a share of the weight that is as near to `rate` as can be."""
    ordered = np.argsort(needed, kind="stable")
    values = needed[ordered]
    below = np.concatenate([[0.0], np.cumsum(weights[ordered])])
    ends = np.flatnonzero(np.diff(values) > 0) + 1  # between numbers that differ
    cuts = np.concatenate([[0], ends, [len(values)]])
    cut = int(cuts[np.abs(below[cuts] - rate).argmin()])
    if cut == 0:
        return float(values[0]) - 1.0
    if cut == len(values):
        return float(values[-1]) + 1.0
    return float((values[cut - 1] + values[cut]) / 2)
