"""Grids of numbers: `0:1:0.1`, lists, single values."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation

from mergekit_fair.errors import ConfigError

# More points than anyone evaluates; a typo such as 0:1:0.0000001 is caught here.
MOST_POINTS = 10_000

_FORMS = "a number, a list of numbers, or START:STOP:STEP with STOP included, such as 0:1:0.1"


def parse_grid(value: object, where: object) -> tuple[float, ...]:
    """The points of a grid, in the order given; START:STOP:STEP is computed in decimals.

    >>> parse_grid("0:0.3:0.1", "λ")
    (0.0, 0.1, 0.2, 0.3)

    Raises:
        ConfigError: no number, NaN or infinite, an empty grid, a point given twice, or more than
            10,000 points.
    """
    if isinstance(value, str) and ":" in value:
        points = _span(value, where)
    elif isinstance(value, (list, tuple)):
        points = [_number(item, where) for item in value]
    else:
        points = [_number(value, where)]
    if not points:
        raise ConfigError("the grid is empty", where=where, got=value, allowed=_FORMS)
    grid = tuple(float(point) for point in points)
    if len(set(grid)) != len(grid):
        raise ConfigError("the grid has a point twice", where=where, got=value)
    return grid


def _span(text: str, where: object) -> list[Decimal]:
    parts = text.split(":")
    if len(parts) != 3:
        raise ConfigError("is not a grid", where=where, got=text, allowed=_FORMS)
    start, stop, step = (_number(part, where) for part in parts)
    if float(step) == 0 or (stop - start) / step < 0:
        raise ConfigError("the step does not lead from START to STOP", where=where, got=text)
    steps = (stop - start) / step
    if steps >= MOST_POINTS:
        raise ConfigError(
            "the grid has too many points", where=where, got=text, allowed=f"up to {MOST_POINTS:,}"
        )
    return [start + index * step for index in range(int(steps) + 1)]


def _number(value: object, where: object) -> Decimal:
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        number = Decimal("nan")
    if isinstance(value, bool) or not number.is_finite() or math.isinf(float(number)):
        raise ConfigError("is not a finite number", where=where, got=value, allowed=_FORMS)
    return number
