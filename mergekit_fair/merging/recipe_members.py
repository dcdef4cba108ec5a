"""The models of a recipe of this package: base, groups, roles, and what else its method needs."""

from __future__ import annotations

from typing import Any

from mergekit.merge_methods import MergeMethodSpec, ParameterScope

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.task_analogy import Part
from mergekit_fair.merging.methods.worst_group_injection import Role

# Found out before the merge where the recipe leaves it open.
_RESOLVED = ("worst", "steps")


def check_members(raw: dict[str, Any], spec: MergeMethodSpec, where: str) -> None:
    """Check base, groups, roles and required parameters.

    Raises:
        RecipeError: with the file, the model, what was given and what is allowed.
    """
    if not raw.get("base_model"):
        raise RecipeError("needs base_model, the θ₀ of the task vectors", where=where)
    if spec.name == "worst_group_injection":
        _injection(raw, where)
    elif spec.name == "task_analogy":
        _roles(raw, list(Part), where)
    elif spec.name == "task_negation":
        count = len(_members(raw, "group", where))
        if count != 1:
            raise RecipeError(
                "needs exactly one model beside base_model, the one to move away from",
                where=where,
                got=count,
            )
    else:
        members = _members(raw, "group", where)
        if not members:
            raise RecipeError("needs at least one subgroup model beside base_model", where=where)
        _distinct_groups(members, where)
    _required(raw, spec, where)


def _required(raw: dict[str, Any], spec: MergeMethodSpec, where: str) -> None:
    for parameter in spec.parameters:
        is_shared = parameter.scope == ParameterScope.SHARED
        if (
            is_shared
            and parameter.required
            and parameter.name not in _RESOLVED
            and parameter.name not in (raw.get("parameters") or {})
        ):
            raise RecipeError(
                f"needs parameters.{parameter.name}: {parameter.description}", where=where
            )


def _injection(raw: dict[str, Any], where: str) -> None:
    roles = _roles(raw, list(Role), where)
    if len(roles["target"]) != 1:
        raise RecipeError(
            "needs exactly one model with role: target", where=where, got=len(roles["target"])
        )
    if not roles["candidate"]:
        raise RecipeError("needs at least one model with role: candidate", where=where)
    names = _distinct_groups(roles["candidate"], where)
    worst = (raw.get("parameters") or {}).get("worst")
    if worst == "auto" and "auto" not in names:
        _require_report(raw, where)
    elif worst not in names:
        raise RecipeError(
            "parameters.worst must be a candidate's group, or auto with fairness.report",
            where=where,
            got=worst,
            allowed=names,
        )


def _require_report(raw: dict[str, Any], where: str) -> None:
    settings = raw.get("fairness")
    settings = settings if isinstance(settings, dict) else {}
    if not isinstance(settings.get("report"), str):
        raise RecipeError(
            "worst: auto needs fairness.report, the file of an evaluation",
            where=where,
            got=settings.get("report"),
            fix="write fairness: {report: FILE}, or name the group",
        )
    size, excluded = settings.get("min_group_size", 1), settings.get("exclude", [])
    if type(size) is not int or size < 1:
        raise RecipeError(
            "must be a number of rows, 1 or more",
            where=f"{where}: fairness.min_group_size",
            got=size,
        )
    if not isinstance(excluded, list):
        raise RecipeError(
            "must be a list of groups", where=f"{where}: fairness.exclude", got=excluded
        )


def _roles(raw: dict[str, Any], allowed: list[str], where: str) -> dict[str, list[dict[str, Any]]]:
    """Role → its models; all roles of an analogy have one."""
    roles: dict[str, list[dict[str, Any]]] = {str(role): [] for role in allowed}
    for item in _members(raw, "role", where):
        role = (item.get("parameters") or {}).get("role")
        if not isinstance(role, str) or role not in roles:
            raise RecipeError(
                "needs parameters.role",
                where=f"{where}: model {item['model']}",
                got=role,
                allowed=list(roles),
            )
        roles[role].append(item)
    if allowed == list(Part) and any(len(models) != 1 for models in roles.values()):
        raise RecipeError(
            "needs one model each with role: a, b and c",
            where=where,
            got={role: len(models) for role, models in roles.items()},
        )
    return roles


def _members(raw: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """The models beside the base, which mergekit allows in the list but gives no parameters."""
    members = []
    for item in raw.get("models") or ():
        if item["model"] != raw["base_model"]:
            members.append(item)
        elif item.get("parameters"):
            own = key if key in item["parameters"] else next(iter(item["parameters"]))
            raise RecipeError(
                f"is base_model and cannot have a {own}", where=f"{where}: model {item['model']}"
            )
    return members


def _distinct_groups(members: list[dict[str, Any]], where: str) -> list[str]:
    seen: dict[str, str] = {}
    for item in members:
        group = (item.get("parameters") or {}).get("group")
        if not isinstance(group, str) or not group:
            raise RecipeError(
                "needs parameters.group, the subgroup it was fine-tuned on",
                where=f"{where}: model {item['model']}",
            )
        if group in seen:
            raise RecipeError(
                f"group {group!r} is given by two models",
                where=where,
                got=[seen[group], item["model"]],
                fix="give every model a group of its own",
            )
        seen[group] = str(item["model"])
    return list(seen)
