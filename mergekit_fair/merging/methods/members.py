"""The models of a recipe: the base, the others, their groups and roles; what methods check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.references import is_same_model


def parameters_of(item: dict[str, Any]) -> dict[str, Any]:
    """The parameters block of a recipe or of one of its models; empty without one."""
    return item.get("parameters") or {}


@dataclass(frozen=True)
class MergedBlock:
    """Models that are merged with each other: all of a recipe, or the sources of a slice.

    Attributes:
        models: as the recipe lists them.
        parameters: blocks of parameters that hold for them beside the recipe's.
        where: its place.
    """

    models: list[dict[str, Any]]
    parameters: list[dict[str, Any]]
    where: str


def merged_blocks(raw: dict[str, Any], where: str) -> list[MergedBlock]:
    """The recipe's models, or those of every slice and module."""
    if not (raw.get("slices") or raw.get("modules")):
        return [MergedBlock(raw.get("models") or [], [], where)]
    modules = {f"{where}: modules.{key}": item for key, item in (raw.get("modules") or {}).items()}
    blocks = []
    for place, module in {where: {"slices": raw.get("slices")}, **modules}.items():
        shared = [parameters_of(module)]
        if module.get("models"):
            blocks.append(MergedBlock(module["models"], shared, place))
        for index, piece in enumerate(module.get("slices") or ()):
            own = [parameters_of(piece), *shared]
            blocks.append(MergedBlock(piece["sources"], own, f"{place}: slices[{index}]"))
    return blocks


def members_of(raw: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """The models beside the base, which mergekit allows in the list but gives no parameters.

    Raises:
        RecipeError: the base has parameters; `key` is the one that the message names first.
    """
    members = []
    for item in raw.get("models") or ():
        parameters = parameters_of(item)
        if not is_same_model(str(item["model"]), str(raw["base_model"])):
            members.append(item)
        elif parameters:
            name = key if key in parameters else next(iter(parameters))
            raise RecipeError(
                f"is base_model and cannot have a {name}", where=f"{where}: model {item['model']}"
            )
    return members


def members_by_role(
    raw: dict[str, Any], roles: Iterable[str], where: str
) -> dict[str, list[dict[str, Any]]]:
    """Role → the models that have it.

    Raises:
        RecipeError: a model without a role, or with one that is not among `roles`.
    """
    members: dict[str, list[dict[str, Any]]] = {str(role): [] for role in roles}
    for item in members_of(raw, "role", where):
        role = parameters_of(item).get("role")
        if not isinstance(role, str) or role not in members:
            raise RecipeError(
                "needs parameters.role",
                where=f"{where}: model {item['model']}",
                got=role,
                allowed=list(members),
            )
        members[role].append(item)
    return members


def distinct_groups(members: list[dict[str, Any]], where: str) -> list[str]:
    """The group of every model.

    Raises:
        RecipeError: a model without a group, or two of one group.
    """
    models: dict[str, str] = {}
    for item in members:
        group = parameters_of(item).get("group")
        if not isinstance(group, str) or not group:
            raise RecipeError(
                "needs parameters.group, the subgroup it was fine-tuned on",
                where=f"{where}: model {item['model']}",
            )
        if group in models:
            raise RecipeError(
                f"group {group!r} is given by two models",
                where=where,
                got=[models[group], item["model"]],
                fix="give every model a group of its own",
            )
        models[group] = str(item["model"])
    return list(models)
