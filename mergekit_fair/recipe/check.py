"""What a recipe must be before any model is read: known keys, groups, values of the right type."""

from __future__ import annotations

from typing import Any

from mergekit import merge_methods
from mergekit.config import MergeConfiguration, ParameterSetting
from mergekit.merge_methods import MergeMethodSpec
from mergekit.merge_methods.base import ParameterSpec
from pydantic import TypeAdapter, ValidationError

import mergekit_fair
from mergekit_fair.errors import RecipeError
from mergekit_fair.schema import nearest

# `fairness` carries provenance; mergekit keeps unknown top-level blocks in mergekit_config.yml.
TOP_LEVEL = (*MergeConfiguration.model_fields, "fairness")

DTYPES = ("float32", "bfloat16", "float16", "float64")

_SETTING: TypeAdapter[Any] = TypeAdapter(ParameterSetting)


def check_recipe(raw: dict[str, Any], where: str) -> None:
    """Check keys, method, parameters, roles and groups; reads no model.

    Raises:
        RecipeError: with the file, the model, the key, what was given and what is allowed.
    """
    mergekit_fair.register()
    known = {method.spec.name: method.spec for method in merge_methods.registered_methods()}
    name = raw.get("merge_method")
    spec = known.get(name) if isinstance(name, str) else None
    _known(raw, TOP_LEVEL, where, spec)
    if spec is None:
        raise RecipeError(
            f"unknown merge_method{nearest(name, list(known))}",
            where=where,
            got=name,
            allowed=sorted(known),
        )
    for key in ("dtype", "out_dtype"):
        _dtype(raw.get(key), f"{where}: {key}")
    _parameters(raw.get("parameters"), spec, f"{where}: parameters")
    models = raw.get("models") or []
    if not isinstance(models, list):
        raise RecipeError("must be a list of models", where=f"{where}: models", got=models)
    for index, item in enumerate(models):
        _model(item, spec, f"{where}: models[{index}]")
    _distinct_models(models, where)
    try:
        MergeConfiguration.model_validate(raw)
    except (ValidationError, RuntimeError) as error:
        raise RecipeError(_first_line(error), where=where) from None
    if spec.name == "subgroup_task_addition":
        _subgroups(raw, where)
    elif spec.name == "worst_group_injection":
        _injection(raw, where)


def _dtype(name: Any, where: str) -> None:
    if name is not None and str(name).removeprefix("torch.") not in DTYPES:
        raise RecipeError("is no dtype to merge in", where=where, got=name, allowed=DTYPES)


def _model(item: Any, spec: MergeMethodSpec, where: str) -> None:
    if not isinstance(item, dict) or "model" not in item:
        raise RecipeError("needs a mapping with `model`", where=where, got=item)
    _known(item, ("model", "parameters"), where, spec)
    where = f"{where} ({item['model']}): parameters"
    _parameters(item.get("parameters"), spec, where)
    shared = [parameter.name for parameter in spec.shared_parameters]
    for key in item.get("parameters") or ():
        if key in shared:
            raise RecipeError(
                "holds for the whole recipe; mergekit would ignore it here",
                where=f"{where}.{key}",
                fix="move it to the recipe's own parameters",
            )


def _parameters(given: Any, spec: MergeMethodSpec, where: str) -> None:
    if given is None:
        return
    if not isinstance(given, dict):
        raise RecipeError("must be a mapping", where=where, got=given)
    known = {parameter.name: parameter for parameter in spec.parameters}
    _known(given, tuple(known), where, of=f"method {spec.name}")
    for key, value in given.items():
        scalars = [] if value is None else _scalars(value, f"{where}.{key}")
        if not scalars:
            raise RecipeError("has no value", where=f"{where}.{key}")
        for scalar in scalars:
            _validate(known[key], scalar, f"{where}.{key}")


def _validate(parameter: ParameterSpec, scalar: Any, where: str) -> None:
    try:
        value = parameter.validate(scalar)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise RecipeError(reason, where=where, got=scalar) from None
    if isinstance(scalar, bool) and isinstance(value, float):  # YAML's yes, no, on, off
        raise RecipeError("must be a number", where=where, got=scalar)


def _scalars(value: Any, where: str) -> list[Any]:
    """Every number or word in a setting: a scalar, a layer gradient, or filters over either.

    None stands for an empty list, which mergekit would read as the default.
    """
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
        found = [_scalars(item, where) for item in value]
        return [scalar for part in found for scalar in part] if all(found) else []
    return [value]


def _subgroups(raw: dict[str, Any], where: str) -> None:
    base = raw.get("base_model")
    if not base:
        raise RecipeError("needs base_model, the θ₀ of the task vectors", where=where)
    members = _members(raw, "group", where)
    if not members:
        raise RecipeError("needs at least one subgroup model beside base_model", where=where)
    _distinct_groups(members, where)


def _injection(raw: dict[str, Any], where: str) -> None:
    if not raw.get("base_model"):
        raise RecipeError("needs base_model, the θ₀ of the task vector", where=where)
    roles: dict[str, list[dict[str, Any]]] = {"target": [], "candidate": []}
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
    if len(roles["target"]) != 1:
        raise RecipeError(
            "needs exactly one model with role: target", where=where, got=len(roles["target"])
        )
    if not roles["candidate"]:
        raise RecipeError("needs at least one model with role: candidate", where=where)
    names = _distinct_groups(roles["candidate"], where)
    worst = (raw.get("parameters") or {}).get("worst")
    if worst not in names:
        raise RecipeError(
            "parameters.worst must be a candidate's group", where=where, got=worst, allowed=names
        )


def _members(raw: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """The models beside the base, which mergekit allows in the list but gives no parameters."""
    members = []
    for item in raw.get("models") or ():
        if item["model"] != raw["base_model"]:
            members.append(item)
        elif key in (item.get("parameters") or {}):
            raise RecipeError(
                f"is base_model and cannot have a {key}", where=f"{where}: model {item['model']}"
            )
    return members


def _distinct_models(models: list[dict[str, Any]], where: str) -> None:
    seen: list[Any] = []
    for item in models:
        if item["model"] in seen:
            raise RecipeError("is listed twice", where=f"{where}: model {item['model']}")
        seen.append(item["model"])


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
    given: dict[str, Any],
    known: tuple[str, ...],
    where: str,
    spec: MergeMethodSpec | None = None,
    *,
    of: str | None = None,
) -> None:
    """Refuse other keys; with `spec`, a key may be a parameter that belongs one level down."""
    inside = [parameter.name for parameter in spec.parameters] if spec else []
    for key in given:
        if key not in known:
            near = nearest(key, list(known)) or nearest(key, inside).replace("'", "'parameters.", 1)
            raise RecipeError(
                f"unknown key {key!r}{near}",
                where=where,
                allowed=[*known, *([f"({of})"] if of else [])],
            )


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        item = error.errors()[0]
        return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
    return str(error)
