"""Grids of numbers (`0:1:0.1`, lists, single values), and a grid as plain recipe files."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError, RecipeError
from mergekit_fair.files import staged_folder, text_of
from mergekit_fair.merging.manifest import versions
from mergekit_fair.merging.methods.registry import is_own, spec_of
from mergekit_fair.merging.output_place import require_apart
from mergekit_fair.merging.parameter_names import (
    NamedParameter,
    find_parameter,
    require_distinct_places,
    require_numeric,
)
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_check import check_setting
from mergekit_fair.schema import parse_json

MANIFEST_OF_GRID = "manifest.json"

# More points than anyone evaluates; a typo such as 0:1:0.0000001 is caught here.
MOST_POINTS = 10_000

# Of mergekit's methods, which take any number and mean 0 or 1 by those beyond.
_SHARES = ("density", "gamma", "select_topk")

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


def parse_setting(text: str, where: object) -> tuple[str, tuple[float, ...]]:
    """A name and its points, as the command line writes them.

    >>> parse_setting("density=0.2,0.5", "--set"), parse_setting("t[1]=0:0.5:0.25", "--set")
    (('density', (0.2, 0.5)), ('t[1]', (0.0, 0.25, 0.5)))

    Raises:
        ConfigError: no name, or as `parse_grid`.
    """
    key, _, values = text.rpartition("=")
    if not key:
        raise ConfigError("is not NAME=GRID", where=where, got=text, allowed="density=0.2,0.5")
    return key, parse_grid(values if ":" in values else values.split(","), f"{where} {key}")


def point_name(key: str, value: float) -> str:
    """The name of a point of a grid, as a file may have it.

    >>> point_name("lambda", 0.1), point_name("weight.runs/a[1]", 1.0)
    ('lambda_0.1', 'weight.runs-a-1_1')
    """
    name = re.sub(r"[^\w.-]+", "-", key).strip("-.")
    return f"{name}_{float(value)!r}".removesuffix(".0")


def lambda_points(recipe: Recipe, values: Sequence[float]) -> dict[str, Recipe]:
    """Name of a point → the recipe with its λ, and with what it leaves open (`worst: auto`) filled
    in.

    Raises:
        RecipeError: a λ that the method does not take.
    """
    recipe = recipe.resolved()
    return {point_name("lambda", v): recipe.with_settings({"lambda": v}) for v in values}


def require_settings(
    recipe: Recipe, values: Mapping[str, Sequence[float]], where: str
) -> list[NamedParameter]:
    """Check names and values that a grid sets.

    Args:
        recipe: whose method takes them.
        values: name, in the grammar of `parameter_names` → its values.
        where: the grid, for errors.

    Raises:
        RecipeError: a name that the recipe has nothing of, a value that its method does not take,
            or two names of one number.
    """
    spec, found = spec_of(recipe.method), []
    for key, numbers in values.items():
        place = f"{where}.{key}"
        named = find_parameter(recipe.raw, spec, key, place)
        require_numeric(named, spec, place)
        name = named.parameter.name
        for number in numbers:
            check_setting(spec, name, number, place)
            if not is_own(spec.name) and name in _SHARES and not 0 <= number <= 1:
                raise RecipeError("is a share", where=place, got=number, allowed="from 0 to 1")
        found.append(named)
    require_distinct_places(found, where)
    return found


def write_grid(
    recipe: Recipe,
    grid: Mapping[str, Sequence[float]],
    out: Path,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write a recipe file for every point, such as `lambda_0.1.yml`, and `manifest.json`, to `out`.

    Args:
        recipe: what the grid sets is replaced in it; what it leaves open (`worst: auto`) is filled
            in, so that mergekit's own command runs every file.
        grid: name of a number (`parameter_names`) → its points; of several names all combinations.
        out: the folder to make; appears complete or not at all.
        overwrite: replace `out` if it is a grid, or empty.

    Returns:
        The recipe files.

    Raises:
        RecipeError: as `require_settings`, or whatever a merge refuses.
        ConfigError: `out` exists and may not be replaced; more than 10,000 points.
    """
    recipe = recipe.resolved()
    require_settings(recipe, grid, "the grid")
    require_apart(recipe, out)
    count = math.prod(len(values) for values in grid.values())
    if count > MOST_POINTS:
        raise ConfigError(
            "the grid has too many points", got=f"{count:,}", allowed=f"up to {MOST_POINTS:,}"
        )
    files: dict[str, tuple[dict[str, float], str]] = {}
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        text = recipe.with_settings(settings).text()
        name = _free("_".join(itertools.starmap(point_name, settings.items())), files)
        files[name] = settings, text
    with staged_folder(out, overwrite=overwrite, known=_recorded) as folder:
        entries = []
        for name, (settings, text) in files.items():
            (folder / name).write_text(text, encoding="utf-8")
            entry: dict[str, Any] = {"recipe": name, "settings": settings}
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
    return [out / name for name in files]


def _free(stem: str, taken: Collection[str]) -> str:
    """A file's name that is not taken: names of two numbers may differ in what no file can have."""
    names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
    return next(name for stem in names if (name := f"{stem}.yml") not in taken)


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
