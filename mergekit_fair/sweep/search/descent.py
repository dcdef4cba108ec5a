"""Gradient refinement: λ has G numbers, and ∂loss/∂λ_g = ⟨∇_θ loss, Δ_g⟩."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mergekit_fair.errors import MeasurementError
from mergekit_fair.sweep.config import Search
from mergekit_fair.sweep.measurer import Measurer
from mergekit_fair.sweep.plan import Planner, Point
from mergekit_fair.sweep.search import Goal, Space, Step, next_step, smooth_loss

# Forward passes of a gradient, beside the one of the loss: a forward and a backward pass, which
# costs about two.
GRADIENT_COST = 3

# A descent begins at a new start with these shares of the rule's limits in turn: the points on
# its way then lie along the front instead of at one place of it.
_SHARES = (1.0, 0.75, 0.5)


def descend(
    config: Search, space: Space, goal: Goal, planner: Planner, measurer: Measurer, *, seed: int
) -> list[Point]:
    """Projected gradient descents of the smooth loss, from several starts, within the budget.

    The first start is the middle of the box; further ones are quasi-random.
    """
    points: list[Point] = []
    left = config.budget
    limits = _limits(goal)
    for number, start in enumerate(_starts(space, seed)):
        share = _SHARES[number % len(_SHARES)]
        scaled = {name: limit * share for name, limit in limits.items()}
        trace: list[Step] = []
        x: tuple[float, ...] | None = start
        while x is not None and left > GRADIENT_COST:
            left -= 1 + GRADIENT_COST
            point = planner.searched(dict(zip(space.names, x, strict=True)))
            points.append(point)
            trace.append(_step(point, x, space, goal, scaled, measurer))
            if not np.isfinite(trace[0].loss):
                break
            x = next_step(trace, space)
        if left <= GRADIENT_COST or number >= config.budget:
            break
    return list({point.id: point for point in points}.values())


def _starts(space: Space, seed: int) -> Iterator[tuple[float, ...]]:
    middle = (np.asarray(space.low) + np.asarray(space.high)) / 2
    yield space.snapped(middle)
    count = 1
    while True:
        yield space.sobol(count, seed)[-1]
        count += 1


def _limits(goal: Goal) -> dict[str, float]:
    return {
        limit.metric: limit.value
        for limit in goal.limits
        if limit.metric in ("dpd", "eod") and limit.operator[0] == "<"
    }


def _step(
    point: Point,
    x: tuple[float, ...],
    space: Space,
    goal: Goal,
    limits: Mapping[str, float],
    measurer: Measurer,
) -> Step:
    """Loss and gradient at a point, both from the store where they are there."""
    line = measurer.measure([point])[0]
    nothing = Step(x, float("nan"), (float("nan"),) * len(x))
    if "evaluation" not in line:
        return nothing
    answers = measurer.answers(point.id)
    if answers.margins is None or np.isnan(answers.margins).any():
        return nothing
    loss, weights = _loss(answers, goal, limits)
    pulled = measurer.slope(point, space.names, weights)
    return Step(x, loss, pulled)


def _loss(answers: Any, goal: Goal, limits: Mapping[str, float]) -> tuple[float, Any]:
    names = list(answers.groups)
    deciding = goal.deciding if goal.deciding is not None else tuple(names)
    if len(deciding) < 2 and limits:
        raise MeasurementError("needs two groups that decide", where="search", got=list(deciding))
    return smooth_loss(
        answers.margins,
        answers.labels,
        np.stack([answers.groups[name] for name in names], axis=1),
        deciding=np.array([name in deciding for name in names]),
        dpd_limit=limits.get("dpd"),
        eod_limit=limits.get("eod"),
    )
