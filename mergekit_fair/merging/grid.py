"""Grids of numbers (`0:1:0.1`, lists, single values), and a grid of λ as plain recipe files."""

from __future__ import annotations

import hashlib
import json
import math
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError
from mergekit_fair.files import staged_folder, text_of
from mergekit_fair.merging.model_files import require_apart, versions
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.schema import parse_json

MANIFEST_OF_GRID = "manifest.json"

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


def point_name(value: float) -> str:
    """The name of a point of a grid, `lambda_0.1`."""
    return f"lambda_{value!r}".removesuffix(".0")


def write_grid(
    recipe: Recipe,
    lambdas: tuple[float, ...],
    out: Path,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write `lambda_<λ>.yml` for every λ, and `manifest.json`, to `out`.

    Args:
        recipe: λ in it is replaced; what it leaves open (`worst: auto`) is filled in, so that
            mergekit's own command runs every file.
        lambdas: the points.
        out: the folder to make; appears complete or not at all.
        overwrite: replace `out` if it is a grid, or empty.

    Returns:
        The recipe files.

    Raises:
        RecipeError: λ is a gradient or filter in the recipe, or whatever a merge refuses.
        ConfigError: `out` exists and may not be replaced.
    """
    recipe = recipe.resolved()
    require_apart(recipe, out)
    points = {point_name(value): recipe.with_settings({"lambda": value}) for value in lambdas}
    with staged_folder(out, overwrite=overwrite, known=_recorded) as folder:
        entries = []
        for (name, point), value in zip(points.items(), lambdas, strict=True):
            text = point.text()
            (folder / f"{name}.yml").write_text(text, encoding="utf-8")
            entry: dict[str, Any] = {"recipe": f"{name}.yml", "settings": {"lambda": value}}
            entry["sha256"] = hashlib.sha256(text.encode()).hexdigest()
            entries.append(entry)
        content = {
            "recipe": recipe.where,
            "method": recipe.method,
            "notes": list(recipe.remarks),
            "versions": versions(),
            "points": entries,
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / MANIFEST_OF_GRID).write_text(text, encoding="utf-8")
    return [out / f"{name}.yml" for name in points]


def _recorded(folder: Path) -> list[str]:
    """What the manifest of a grid lists."""
    try:
        content = parse_json(text_of(folder / MANIFEST_OF_GRID))
        return [MANIFEST_OF_GRID, *(str(point["recipe"]) for point in content["points"])]
    except (OSError, ValueError, LookupError, TypeError):
        return []


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
