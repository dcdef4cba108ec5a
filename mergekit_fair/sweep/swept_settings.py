"""The numbers that a sweep sets: names and values are checked before anything is measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from mergekit_fair.errors import ConfigError, RecipeError
from mergekit_fair.merging.grid import require_settings
from mergekit_fair.merging.parameter_names import is_whole, name_of
from mergekit_fair.merging.recipe import Recipe

WEIGHT = "weight."  # of a group, λ_g in a search

_TO_A_FOLDER = ("slices", "modules", "tokenizer_source", "tokenizer")


def corners(ranges: Mapping[str, tuple[float, float]]) -> list[dict[str, float]]:
    """The ends of a space in all combinations; of more than four numbers all lows and all highs.

    >>> corners({"t": (0.0, 1.0)})
    [{'t': 0.0}, {'t': 1.0}]
    """
    if not ranges:
        return []
    of_each = ranges.values()
    ends = itertools.product(*of_each) if len(ranges) <= 4 else zip(*of_each, strict=True)
    return [dict(zip(ranges, corner, strict=True)) for corner in ends]


def short_names(folders: Sequence[str]) -> list[str]:
    """As many last parts of each path as tell the folders apart.

    >>> short_names(["runs/a/merged", "runs/b/merged", "soup"])
    ['a/merged', 'b/merged', 'soup']
    """
    names = []
    for folder in folders:
        parts = PurePath(folder).parts
        others = [PurePath(other).parts for other in folders if other != folder]
        shown = next(
            (n for n in range(1, len(parts)) if all(parts[-n:] != other[-n:] for other in others)),
            len(parts),
        )
        names.append(str(PurePath(*parts[-shown:])))
    return names


def require_distinct(
    candidates: Sequence[str], baselines: Mapping[str, str], where: str | Path
) -> None:
    """Check that each finished model is named once: two points of one would be tied for ever.

    Raises:
        ConfigError: a candidate that is a baseline, or there twice.
    """
    seen = {Path(model).resolve(): f"baselines.{name}" for name, model in baselines.items()}
    for index, model in enumerate(candidates):
        place = f"candidates[{index}]"
        if Path(model).resolve() in seen:
            raise ConfigError(
                f"is the folder of {seen[Path(model).resolve()]}",
                where=f"{where}: {place}",
                got=model,
                fix="name each finished model once",
            )
        seen[Path(model).resolve()] = place


def symbol(key: str) -> str:
    """How a label names a number: `λ` for lambda.

    >>> symbol("lambda"), symbol("lambda[1]"), symbol("t"), symbol("weight.lambda")
    ('λ', 'λ[1]', 't', 'weight.lambda')
    """
    name = name_of(key)
    return f"λ{key.removeprefix(name)}" if name == "lambda" else key


def require_composable(recipe: Recipe) -> None:
    """Check that points can be composed in memory.

    Raises:
        RecipeError: slices, modules, or a tokenizer to build.
    """
    asks = [key for key in _TO_A_FOLDER if recipe.raw.get(key)]
    if asks:
        raise RecipeError(
            "is merged to a folder only, and points are composed in memory",
            where=recipe.where,
            got=asks,
            fix="list whole models under models, or merge it and name the folder in candidates",
        )


def require_ranges(
    recipe: Recipe, ranges: Mapping[str, tuple[float, float]], around: str | None, where: str
) -> None:
    """Check names and ends of the ranges of a search.

    Args:
        recipe: of the sweep.
        ranges: name → (low, high).
        around: the baseline that vectors of groups are added to; None: the recipe is searched.
        where: the sweep file.

    Raises:
        ConfigError: no ranges; whole numbers; around a baseline something else than weights of
            groups.
        RecipeError: as `require_settings`.
    """
    place = f"{where}: search.over"
    if not ranges:
        raise ConfigError(
            "search needs settings to search over",
            where=where,
            fix="name the models' groups in the recipe, or give search.over",
        )
    if around is not None:
        allowed = [f"{WEIGHT}{name}" for name in recipe.groups()]
        for key in ranges:
            if key not in allowed:
                raise ConfigError(
                    "around a baseline vectors of groups are added, each with its own λ",
                    where=place,
                    got=key,
                    allowed=allowed,
                )
        return
    for named in require_settings(recipe, ranges, place):
        if is_whole(named):
            raise ConfigError(
                "takes whole numbers, between which nothing can be searched",
                where=place,
                got=named.key,
                fix="give the numbers in grid",
            )
