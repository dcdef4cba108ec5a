"""Over which number a sweep's curves are drawn, and which points lie on one line."""

from __future__ import annotations

from collections.abc import Sequence

from mergekit_fair.sweep.record import INJECTED, PointResult
from mergekit_fair.sweep.swept_settings import symbol

# λ is always 1 in a search; a head has one for every target and μ; a candidate has no number.
_WITHOUT_CURVE = ("search", "head", "candidate")
_MOST_NAMED = 6  # lines of one kind that get a name each


def swept_axis(points: Sequence[PointResult]) -> str:
    """The number that curves are drawn over: λ if the grid varies it, else what it varies most.

    >>> swept_axis([])
    'lambda'
    """
    values: dict[str, set[float | str]] = {}
    for point in points:
        for name, value in point.settings.items() if point.kind == "merge" else ():
            values.setdefault(name, set()).add(value)
    varied = {name: len(found) for name, found in values.items() if len(found) > 1}
    if "lambda" in varied or not values:
        return "lambda"
    return max(varied, key=lambda name: varied[name]) if varied else next(iter(values))


def number_on(axis: str, point: PointResult) -> float | None:
    """Where a point lies on an axis; None where it has no such number."""
    if point.kind in _WITHOUT_CURVE:
        return None
    value = point.lambda_ if axis == "lambda" else point.settings.get(axis)
    return None if value is None or isinstance(value, str) else float(value)


def lines_over(
    axis: str, points: Sequence[PointResult]
) -> list[tuple[str | None, list[PointResult]]]:
    """(words, points) of every line: its points differ in the axis' number alone.

    Of more lines than a legend can name, the first one has words that are empty, the others None.
    """
    lines: dict[str, list[PointResult]] = {}
    for point in points:
        if number_on(axis, point) is not None:
            lines.setdefault(_others(axis, point), []).append(point)
    if len(lines) <= _MOST_NAMED:
        return list(lines.items())
    return [("" if n == 0 else None, line) for n, line in enumerate(lines.values())]


def _others(axis: str, point: PointResult) -> str:
    """What a point sets beside the axis, in words: `man`, `weight.man=0.5`."""
    words = []
    for name, value in point.settings.items():
        if name == axis or name.startswith(INJECTED):
            continue
        words.append(value if isinstance(value, str) else f"{symbol(name)}={value:g}")
    return " ".join(words)
