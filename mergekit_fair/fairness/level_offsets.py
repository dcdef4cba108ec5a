"""Offsets of scores that give wanted selection rates: the threshold of several classes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.rates import Values

_ROUNDS = 100
_ROUNDING = 1e-12


def level_offsets(
    scores: Values, rates: Values, weights: Values | None = None, *, is_exclusive: bool
) -> NDArray[np.float64]:
    """Numbers b (V,) such that scores + b predict each class, or label, as often as is wanted.

    Labels: 1 is predicted where z + b > 0, each by itself. Classes: the arg max of z + b is. There
    one offset after the other is set to what gives its class its share, until all have theirs. That
    is coordinate ascent on the concave dual Σ_c r_c b_c − mean max_c (z_c + b_c) of optimal
    transport from rows to classes (Peyré & Cuturi, arXiv 1803.00567, §5). It may stop too early,
    where only several offsets together help: then rows are moved along the shortest chains from
    classes that have too many to those that have too few. With equal scores, or weights, shares may
    stay apart.

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
        if np.abs(_excess(chosen, rates, each)).max() <= each.max():
            return offsets
    return _moved(scores, chosen, rates, each)


def _excess(chosen: NDArray[np.intp], rates: Values, weights: Values) -> NDArray[np.float64]:
    return np.bincount(chosen, weights, minlength=len(rates)) - rates


def _moved(
    scores: Values, chosen: NDArray[np.intp], rates: Values, weights: Values
) -> NDArray[np.float64]:
    """Offsets of the best assignment with the wanted shares, from one that is best for its own.

    Successive shortest paths: while a row can be moved from the class with the most excess to the
    one with the least so that both come nearer, the cheapest chain of moves is made.
    """
    chosen = chosen.copy()
    for _ in range(len(scores)):
        excess = _excess(chosen, rates, weights)
        source, target = int(excess.argmax()), int(excess.argmin())
        if excess[source] - excess[target] <= weights.max():
            break
        costs, rows = _costs(scores, chosen)
        chain = _chain(costs, source, target)
        for here, there in pairwise(chain):
            chosen[rows[here, there]] = there
    return _potentials(_costs(scores, chosen)[0])


def _costs(
    scores: Values, chosen: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """(V, V): what the cheapest move of a row from one class to another loses, and that row.

    The loss is infinite from a class without rows, and 0 from each to itself.
    """
    size = scores.shape[1]
    costs, rows = np.full((size, size), np.inf), np.zeros((size, size), dtype=np.intp)
    for view in range(size):
        own = np.flatnonzero(chosen == view)
        if len(own):
            losses = scores[own, view][:, None] - scores[own]
            rows[view] = own[losses.argmin(axis=0)]
            costs[view] = losses.min(axis=0)
    np.fill_diagonal(costs, 0.0)
    return costs, rows


def _chain(costs: NDArray[np.float64], source: int, target: int) -> list[int]:
    """The classes on the shortest path (Bellman & Ford)."""
    distance, before = costs[source].copy(), np.full(len(costs), source)
    for _ in range(len(costs)):
        through = distance[:, None] + costs
        nearest = through.argmin(axis=0)
        shorter = through.min(axis=0) < distance - _ROUNDING
        distance = np.where(shorter, through.min(axis=0), distance)
        before = np.where(shorter, nearest, before)
    path = [target]
    while path[-1] != source:
        path.append(int(before[path[-1]]))
    return path[::-1]


def _potentials(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """b with b_there − b_here < costs[here, there] for all pairs, as far from equality as can be.

    Shortest paths from anywhere with every move made cheaper by a margin; the largest margin
    without a cycle of negative length is found by bisection.
    """
    size = len(costs)
    found, _ = _distances(costs)
    low, high = 0.0, float(np.abs(costs[np.isfinite(costs)]).max()) + 1.0
    for _ in range(60):
        margin = (low + high) / 2
        distances, are_finite = _distances(costs - margin * (1 - np.eye(size)))
        if are_finite:
            found, low = distances, margin
        else:
            high = margin
    return found


def _distances(costs: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """(V,) the shortest paths from anywhere, and whether no cycle makes them ever shorter."""
    distances = np.zeros(len(costs))
    for _ in range(len(costs)):
        before, distances = distances, (distances[:, None] + costs).min(axis=0)
    return distances, np.array_equal(before, distances)


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
