"""What a recipe must be before any model is read: known keys, groups, values of the right type."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any

from mergekit import merge_methods
from mergekit._data import chat_templates
from mergekit.config import MergeConfiguration, ParameterSetting
from mergekit.merge_methods import MergeMethodSpec
from mergekit.merge_methods.base import ParameterSpec
from pydantic import TypeAdapter, ValidationError

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.registry import METHODS, register_methods
from mergekit_fair.merging.recipe_keys import known_keys, parameter_blocks, require_known_keys
from mergekit_fair.merging.recipe_members import check_members
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
    register_methods()
    known = {method.spec.name: method.spec for method in merge_methods.registered_methods()}
    name = raw.get("merge_method")
    spec = known.get(name) if isinstance(name, str) else None
    known_keys(raw, TOP_LEVEL, where, spec)
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
    if raw.get("base_model"):
        _name(raw["base_model"], f"{where}: base_model")
    models = raw.get("models") or []
    if not isinstance(models, list):
        raise RecipeError("must be a list of models", where=f"{where}: models", got=models)
    for index, item in enumerate(models):
        _model(item, spec, f"{where}: models[{index}]")
    _distinct_models(models, where)
    require_known_keys(raw, where)
    for block, place in parameter_blocks(raw, where):
        _parameters(block, spec, place)
    _chat_template(raw.get("chat_template"), f"{where}: chat_template")
    try:
        MergeConfiguration.model_validate(raw)
    except (ValidationError, RuntimeError) as error:
        raise RecipeError(_first_line(error), where=where) from None
    if any(spec is method.spec for method in METHODS):
        check_members(raw, spec, where)


def _dtype(name: Any, where: str) -> None:
    if name is not None and str(name).removeprefix("torch.") not in DTYPES:
        raise RecipeError("is no dtype to merge in", where=where, got=name, allowed=DTYPES)


def _chat_template(given: Any, where: str) -> None:
    """mergekit would refuse a name that it does not know after it has merged."""
    if not isinstance(given, str) or "{" in given:
        return
    files = resources.files(chat_templates).iterdir()
    known = sorted(file.name.removesuffix(".jinja") for file in files if ".jinja" in file.name)
    if given not in ("auto", *known):
        raise RecipeError(
            f"is no chat template{nearest(given, known)}",
            where=where,
            got=given,
            allowed=["auto", *known, "the text of a template"],
        )


def _model(item: Any, spec: MergeMethodSpec, where: str) -> None:
    if not isinstance(item, dict) or "model" not in item:
        raise RecipeError("needs a mapping with `model`", where=where, got=item)
    known_keys(item, ("model", "parameters"), where, spec)
    _name(item["model"], f"{where}.model")
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


def _name(given: Any, where: str) -> None:
    """`base+adapter` with an empty half would be the folder that the command runs in."""
    if isinstance(given, str) and ("\0" in given or not all(map(str.strip, given.split("+")))):
        raise RecipeError(
            "names no model", where=where, got=given, allowed="a folder, a name of the Hub"
        )


def _parameters(given: Any, spec: MergeMethodSpec, where: str) -> None:
    if given is None:
        return
    if not isinstance(given, dict):
        raise RecipeError("must be a mapping", where=where, got=given)
    known = {parameter.name: parameter for parameter in spec.parameters}
    known_keys(given, tuple(known), where, of=f"method {spec.name}")
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
        known_keys(value, ("filter", "value"), where)
        return _scalars(value["value"], where)
    if isinstance(value, list):
        found = [_scalars(item, where) for item in value]
        return [scalar for part in found for scalar in part] if all(found) else []
    return [value]


def _distinct_models(models: list[dict[str, Any]], where: str) -> None:
    seen: list[str] = []
    for item in models:
        model = os.path.normpath(Path(str(item["model"])).absolute())  # a, ./a, a/ are one folder
        if model in seen:
            raise RecipeError("is listed twice", where=f"{where}: model {item['model']}")
        seen.append(model)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        item = error.errors()[0]
        return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
    return str(error)
