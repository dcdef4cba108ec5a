"""What a recipe must be before any model is read: known keys, groups, values of the right type."""

from __future__ import annotations

from typing import Any

from mergekit import merge_methods
from mergekit.config import MergeConfiguration, ParameterSetting
from mergekit.merge_methods import MergeMethodSpec
from pydantic import TypeAdapter, ValidationError

import mergekit_fair
from mergekit_fair.errors import RecipeError
from mergekit_fair.schema import nearest

# `fairness` carries provenance; mergekit keeps unknown top-level blocks in mergekit_config.yml.
TOP_LEVEL = (*MergeConfiguration.model_fields, "fairness")

_SETTING: TypeAdapter[Any] = TypeAdapter(ParameterSetting)


def check_recipe(raw: dict[str, Any], where: str) -> None:
    """Check keys, method, parameters, roles and groups; reads no model.

    Raises:
        RecipeError: with the file, the model, the key, what was given and what is allowed.
    """
    mergekit_fair.register()
    _known(raw, TOP_LEVEL, where)
    spec = _method(raw, where).spec
    _parameters(raw.get("parameters"), spec, f"{where}: parameters")
    for index, item in enumerate(raw.get("models") or ()):
        _model(item, spec, f"{where}: models[{index}]")
    try:
        MergeConfiguration.model_validate(raw)
    except (ValidationError, RuntimeError) as error:
        raise RecipeError(_first_line(error), where=where) from None
    if spec.name == "subgroup_task_addition":
        _subgroups(raw, where)
    elif spec.name == "worst_group_injection":
        _injection(raw, where)


def _method(raw: dict[str, Any], where: str) -> Any:
    known = {method.spec.name: method for method in merge_methods.registered_methods()}
    name = raw.get("merge_method")
    if name not in known:
        raise RecipeError(
            f"unknown merge_method{nearest(name, list(known))}",
            where=where,
            got=name,
            allowed=sorted(known),
        )
    return known[name]


def _model(item: Any, spec: MergeMethodSpec, where: str) -> None:
    if not isinstance(item, dict) or "model" not in item:
        raise RecipeError("needs a mapping with `model`", where=where, got=item)
    _known(item, ("model", "parameters"), where)
    _parameters(item.get("parameters"), spec, f"{where} ({item['model']}): parameters")


def _parameters(given: Any, spec: MergeMethodSpec, where: str) -> None:
    if given is None:
        return
    if not isinstance(given, dict):
        raise RecipeError("must be a mapping", where=where, got=given)
    known = {parameter.name: parameter for parameter in spec.parameters}
    _known(given, tuple(known), where, of=f"method {spec.name}")
    for key, value in given.items():
        if value is None:
            raise RecipeError("has no value", where=f"{where}.{key}")
        for scalar in _scalars(value, f"{where}.{key}"):
            try:
                known[key].validate(scalar)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise RecipeError(reason, where=f"{where}.{key}", got=scalar) from None


def _scalars(value: Any, where: str) -> list[Any]:
    """Every number or word in a setting: a scalar, a layer gradient, or filters over either."""
    try:
        _SETTING.validate_python(value)
    except ValidationError:
        raise RecipeError(
            "is no parameter setting",
            where=where,
            got=value,
            allowed="a scalar, a list (layer gradient), or a list of {filter, value}",
        ) from None
    if isinstance(value, dict):
        return _scalars(value["value"], where)
    if isinstance(value, list):
        return [scalar for item in value for scalar in _scalars(item, where)]
    return [value]


def _subgroups(raw: dict[str, Any], where: str) -> None:
    base = raw.get("base_model")
    if not base:
        raise RecipeError("needs base_model, the θ₀ of the task vectors", where=where)
    members = [item for item in raw.get("models") or () if item["model"] != base]
    if not members:
        raise RecipeError("needs at least one subgroup model beside base_model", where=where)
    _distinct_groups(members, where)


def _injection(raw: dict[str, Any], where: str) -> None:
    if not raw.get("base_model"):
        raise RecipeError("needs base_model, the θ₀ of the task vector", where=where)
    roles: dict[str, list[dict[str, Any]]] = {"target": [], "candidate": []}
    for index, item in enumerate(raw.get("models") or ()):
        role = (item.get("parameters") or {}).get("role")
        if role not in roles:
            raise RecipeError(
                "needs parameters.role",
                where=f"{where}: models[{index}] ({item['model']})",
                got=role,
                allowed=list(roles),
            )
        roles[role].append(item)
    if len(roles["target"]) != 1:
        raise RecipeError(
            "needs exactly one model with role: target", where=where, got=len(roles["target"])
        )
    names = _distinct_groups(roles["candidate"], where)
    worst = (raw.get("parameters") or {}).get("worst")
    if worst not in names:
        raise RecipeError(
            "parameters.worst must be a candidate's group", where=where, got=worst, allowed=names
        )


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


def _known(
    given: dict[str, Any], known: tuple[str, ...], where: str, of: str | None = None
) -> None:
    for key in given:
        if key not in known:
            raise RecipeError(
                f"unknown key {key!r}{nearest(key, list(known))}",
                where=where,
                allowed=[*known, *([f"({of})"] if of else [])],
            )


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        item = error.errors()[0]
        return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
    return str(error)
