"""Pareto fronts and hypervolumes; everything is minimised."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import SweepError

Array = NDArray[np.float64]


def front(points: ArrayLike) -> NDArray[np.bool_]:
    """Mark the non-dominated points.

    p dominates q if p ≤ q in every objective and p < q in one; equal points stay together.

    Args:
        points: (n, k), minimised. A row with NaN or infinity is never on the front.

    Returns:
        bool (n,).
    """
    array = _table(points)
    mask = np.asarray(np.isfinite(array).all(axis=1))
    # Any order is right; small sums first, for those dominate most others.
    for index in np.argsort(np.where(mask, array.sum(axis=1), np.inf), kind="stable"):
        if mask[index]:
            point = array[index]
            behind = (array >= point).all(axis=1) & (array > point).any(axis=1)
            mask[behind] = False
    return mask


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume of {z : p ≤ z ≤ reference for some p}, exact for any k.

    Dimension sweep: slabs between neighbouring values of the last objective, each a volume in
    k − 1 objectives; O(n^(k−1) log n). Source: Zitzler and Thiele 1998; While et al. 2006.

    Args:
        points: (n, k), minimised; n may be 0. Points that are not below the reference in every
            objective, and rows with NaN, add nothing.
        reference: (k,), finite.

    Returns:
        ≥ 0, in the product of the objectives' units; 0 without points.

    Raises:
        SweepError: lengths that differ, or a reference that is not finite.
    """
    corner = np.asarray(reference, dtype=np.float64)
    if corner.ndim != 1 or not len(corner) or not np.isfinite(corner).all():
        raise SweepError("a hypervolume needs a finite reference point", got=reference)
    if np.size(points) == 0:
        return 0.0
    array = _table(points)
    if array.shape[1] != len(corner):
        raise SweepError(
            f"points have {array.shape[1]} objectives, the reference has {len(corner)}"
        )
    inside = array[(array < corner).all(axis=1)]
    return _volume(inside[front(inside)], corner)


def contribution(point: ArrayLike, points: ArrayLike, reference: ArrayLike) -> float:
    """How much a point adds to the hypervolume of ``points``.

    HV(P ∪ {p}) − HV(P) = Π_k (ref_k − p_k) − HV({max(q, p) : q ∈ P}).

    Args:
        point: (k,).
        points: (n, k), n may be 0.
        reference: (k,).
    """
    new, corner = np.asarray(point, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if not (new < corner).all():
        return 0.0
    own = float(np.prod(corner - new))
    if np.size(points) == 0:
        return own
    return max(own - hypervolume(np.maximum(_table(points), new), corner), 0.0)


def _table(points: ArrayLike) -> Array:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2:
        raise SweepError("points must be a table of n rows by k objectives", got=array.shape)
    return array


def _volume(points: Array, corner: Array) -> float:
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points.min())
    ordered = points[np.argsort(points[:, -1], kind="stable")]
    thickness = np.diff(ordered[:, -1], append=corner[-1])
    if points.shape[1] == 2:
        lowest = np.minimum.accumulate(ordered[:, 0])
        return float((thickness * (corner[0] - lowest)).sum())
    return sum(
        float(thick) * _volume(ordered[: index + 1, :-1], corner[:-1])
        for index, thick in enumerate(thickness)
        if thick > 0
    )
