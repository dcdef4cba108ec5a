"""What a recipe leaves to be found out before a merge: the worst group, the step counts."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergekit_fair.errors import MeasurementError, RecipeError
from mergekit_fair.fairness.eligible_groups import worst_group
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.schema import dump_yaml, parse_json, read_text

# A group of this name says nothing about who is in it (arXiv 2505.24262 leaves it out).
EXCLUDED = ("other",)

TRAINING = "train.json"


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with `worst: auto` and missing FedNova steps filled in, so that mergekit runs it.

    Returns:
        The recipe itself if there is nothing to find out; else one whose `notes` say what was
        found, and whose `source` holds it.

    Raises:
        RecipeError: an evaluation or a train.json that does not have what is needed.
        MeasurementError: an evaluation by which no group is the worst.
        ConfigError: a file that cannot be read.
    """
    if recipe.method == "worst_group_injection" and _worst(recipe.raw) == "auto":
        return _with_worst(recipe)
    if recipe.method == "fednova":
        return _with_steps(recipe)
    return recipe


def _worst(raw: dict[str, Any]) -> Any:
    return (raw.get("parameters") or {}).get("worst")


def _with_worst(recipe: Recipe) -> Recipe:
    settings = recipe.raw["fairness"]
    place = settings["report"]
    evaluation = _evaluation(recipe, place)
    excluded = {str(name).casefold() for name in settings.get("exclude", EXCLUDED)}
    candidates = list(recipe.groups())
    left_out = [name for name in candidates if name.casefold() in excluded]
    smallest = settings.get("min_group_size", 1)
    try:
        name, harms = worst_group(
            evaluation, candidates=candidates, excluded=left_out, min_group_size=smallest
        )
    except MeasurementError:
        raise MeasurementError(
            f"no candidate group has a defined DPD or EOD and {smallest} rows or more",
            where=place,
            got=list(evaluation["groups"]),
            allowed=[group for group in candidates if group not in left_out],
            fix="name the group in parameters.worst, or change fairness",
        ) from None
    notes = [
        f"worst: {name}, whose mean of one-vs-rest DPD and EOD, {harms[name]:.4f}, is the largest "
        f"in {place}"
    ]
    equal = [other for other, harm in harms.items() if harm == harms[name] and other != name]
    if equal:
        notes.append(f"{', '.join(equal)} ties with {name}, which comes first by name")
    unseen = [group for group in candidates if group not in harms]
    if unseen:
        notes.append(
            f"left out: {', '.join(unseen)} (excluded, below {smallest} rows, or without a rate)"
        )
    if evaluation.get("split") == "report":
        notes.append("the worst group was chosen on the report split, which is then not untouched")
    return _changed(recipe.with_settings({"worst": name}), notes)


def _evaluation(recipe: Recipe, place: str) -> dict[str, Any]:
    """One evaluation in JSON, or that of the target among a sweep's results."""
    try:
        content = parse_json(read_text(place))
    except ValueError as error:
        raise RecipeError(f"is not valid JSON ({error})", where=place) from None
    target = Path(str(_target(recipe.raw))).name
    lines = content.get("points") if isinstance(content, dict) else None
    if isinstance(lines, list):
        baselines = (line for line in lines if isinstance(line, dict))
        found = {
            str(line.get("label")): line for line in baselines if line.get("kind") == "baseline"
        }
        if target not in found:
            raise RecipeError(
                "these results have no baseline with the name of the target's folder",
                where=place,
                got=target,
                allowed=sorted(found) or "a results.json with baselines",
            )
        content = found[target].get("evaluation")
    if not _is_evaluation(content):
        raise RecipeError(
            "holds no evaluation (one_vs_rest and groups)",
            where=place,
            fix="give the JSON of an evaluation of the target, or a sweep's results.json",
        )
    return content


def _is_evaluation(content: Any) -> bool:
    """Whether every group has its number of rows, and its DPD and EOD or null."""
    try:
        return all(
            type(content["groups"][name]["n"]) is int
            and all(gaps[key] is None or 0 <= gaps[key] <= 1 for key in ("dpd", "eod"))
            for name, gaps in content["one_vs_rest"]["groups"].items()
        )
    except (LookupError, TypeError, AttributeError):
        return False


def _target(raw: dict[str, Any]) -> Any:
    roles = {(item.get("parameters") or {}).get("role"): item["model"] for item in raw["models"]}
    return roles["target"]


def _with_steps(recipe: Recipe) -> Recipe:
    raw = copy.deepcopy(recipe.raw)
    if "steps" in (raw.get("parameters") or {}):
        return recipe
    notes = []
    for item in raw["models"]:
        parameters = item.get("parameters") or {}
        if "group" in parameters and "steps" not in parameters:
            place, steps = _steps(Path(str(item["model"])), recipe.where)
            parameters["steps"] = steps
            notes.append(f"steps of {parameters['group']}: {steps:g} (from {place})")
    if not notes:
        return recipe
    return _changed(Recipe.from_mapping(raw, recipe.where), notes)


def _steps(model: Path, where: str) -> tuple[Path, float]:
    """The optimiser steps that `mergekit-fair train` has written down for a model."""
    for family in list(model.absolute().parents)[:3]:
        place = family / TRAINING
        if not place.is_file():
            continue
        name = model.absolute().relative_to(family).as_posix()
        try:
            return place, float(parse_json(read_text(place))["runs"][name]["steps"])
        except (ValueError, LookupError, TypeError):
            raise RecipeError(
                f"has no steps of {name}", where=place, fix="give parameters.steps in the recipe"
            ) from None
    raise RecipeError(
        f"needs parameters.steps: there is no {TRAINING} above the model",
        where=f"{where}: model {model}",
        fix="give the number of optimiser steps of every model",
    )


def _changed(recipe: Recipe, notes: list[str]) -> Recipe:
    return replace(recipe, source=dump_yaml(recipe.raw), notes=tuple(notes))
