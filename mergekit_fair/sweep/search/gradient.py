"""Refinement of λ by gradients: a projected step that depends on its trace alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mergekit_fair.errors import SweepError
from mergekit_fair.sweep.search.smooth import smooth_loss
from mergekit_fair.sweep.search.space import Array, Coordinates, Space

__all__ = ["Step", "next_step", "smooth_loss"]

# Moves as shares of a range: the first one, and the longest.
_FIRST, _LONGEST = 0.2, 0.5
_SUFFICIENT = 1e-4  # Armijo: share of the promised decrease that accepts a step
_SHORTER = 0.5


@dataclass(frozen=True)
class Step:
    """A point with its loss and ∂loss/∂λ (G,)."""

    x: Coordinates
    loss: float
    gradient: tuple[float, ...]


def next_step(
    trace: Sequence[Step], space: Space, *, tolerance: float = 1e-6
) -> Coordinates | None:
    """The point to look at next, or None when converged.

    Projected gradient descent in units of the ranges, u: the step is u − t ∇, clipped to the box
    and snapped to the space. A point is accepted by Armijo's rule, against the accepted one before
    it; t is then the Barzilai–Borwein length s·s / s·y, and half as long after every refusal.
    Converged: the projected gradient is below ``tolerance``, or a step has become too short to
    leave the accepted point on the space's resolution. The trace is replayed at every call.

    Args:
        trace: steps in the order of asking; the first is the start. A loss or gradient that is
            not finite counts as refused.
        space: the box, and its resolution.
        tolerance: on the largest projected gradient entry, in loss per range.

    Raises:
        SweepError: an empty trace, a start that is not finite, or gradients of another length.
    """
    _check(trace, space)
    width = np.asarray(space.high) - np.asarray(space.low)
    at, length = trace[0], _first_length(trace[0], space)
    for step in trace[1:]:
        if _accepted(at, step):
            length, at = _spectral_length(at, step, width, length), step
        else:
            length *= _SHORTER
    if np.abs(_free_gradient(at, space)).max() <= tolerance:
        return None
    tried = {step.x for step in trace}
    while True:
        move = np.clip(-length * np.asarray(at.gradient) * width, -_LONGEST, _LONGEST)
        point = space.snapped(np.asarray(at.x) + move * width)
        if point == at.x:
            return None
        if point not in tried:
            return point
        length *= _SHORTER


def _first_length(step: Step, space: Space) -> float:
    """t for which the largest move is the first move."""
    return _FIRST / max(float(np.abs(_free_gradient(step, space)).max()), 1e-12)


def _free_gradient(step: Step, space: Space) -> Array:
    """Gradient in units of the ranges, without entries that push out of the box."""
    width = np.asarray(space.high) - np.asarray(space.low)
    gradient = np.asarray(step.gradient) * width
    x = np.asarray(step.x)
    blocked = ((x <= space.low) & (gradient > 0)) | ((x >= space.high) & (gradient < 0))
    return np.where(blocked, 0.0, gradient)


def _accepted(at: Step, step: Step) -> bool:
    if not (np.isfinite(step.loss) and np.isfinite(step.gradient).all()):
        return False
    promised = float(np.dot(at.gradient, np.subtract(at.x, step.x)))
    # Snapping may turn a step uphill; then it must at least not be worse.
    return step.loss < at.loss - _SUFFICIENT * max(promised, 0.0)


def _spectral_length(at: Step, step: Step, width: Array, length: float) -> float:
    moved = np.subtract(step.x, at.x) / width
    turned = np.subtract(step.gradient, at.gradient) * width
    curvature = float(moved @ turned)
    return float(moved @ moved) / curvature if curvature > 1e-12 else 2 * length


def _check(trace: Sequence[Step], space: Space) -> None:
    if not trace:
        raise SweepError("a refinement needs a first step")
    for step in trace:
        if not len(step.x) == len(step.gradient) == space.dimensions:
            raise SweepError(
                f"a step must have {space.dimensions} λs and as many gradients",
                got=(len(step.x), len(step.gradient)),
            )
    first = trace[0]
    if not (np.isfinite(first.loss) and np.isfinite(first.gradient).all()):
        raise SweepError(
            "the start of a refinement has no finite loss and gradient", got=first.loss
        )
