"""What a recipe must be before any model is read: known keys, groups, values of the right type.

Keys that mergekit does not know are errors wherever they stand, with the nearest known name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mergekit import merge_methods
from mergekit.config import (
    InputSliceDefinition,
    MergeConfiguration,
    OutputModuleDefinition,
    OutputSliceDefinition,
    ParameterSetting,
)
from mergekit.merge_methods import MergeMethodSpec
from mergekit.merge_methods.base import ParameterSpec
from mergekit.tokenizer.config import ModelTokenEmbedding, TokenEmbeddingConfig, TokenizerConfig
from pydantic import TypeAdapter, ValidationError

from mergekit_fair.compat.mergekit import chat_template_names
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.registry import is_own, own_method, register_methods
from mergekit_fair.schema import nearest

# `fairness` carries provenance; mergekit keeps unknown top-level blocks in mergekit_config.yml.
TOP_LEVEL = (*MergeConfiguration.model_fields, "fairness")

# What `worst: auto` reads, and what a sweep writes beside its chosen recipe.
FAIRNESS = (
    *("report", "min_group_size", "exclude"),
    *("tool", "task", "rule", "selected_on", "feasible", "validation"),
)

# More than any model has.
MOST_LAYERS = 10_000

MERGE_DTYPES = ("float32", "bfloat16", "float16", "float64")

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
    for block, block_where in parameter_blocks(raw, where):
        _parameters(block, spec, block_where)
    _chat_template(raw.get("chat_template"), f"{where}: chat_template")
    try:
        MergeConfiguration.model_validate(raw)
    except (ValidationError, RuntimeError) as error:
        raise RecipeError(_first_line(error), where=where) from error
    if is_own(spec.name):
        own_method(spec.name).check_recipe(raw, where)


def _dtype(name: Any, where: str) -> None:
    if name is not None and str(name).removeprefix("torch.") not in MERGE_DTYPES:
        raise RecipeError("is not a dtype to merge in", where=where, got=name, allowed=MERGE_DTYPES)


def _chat_template(template: Any, where: str) -> None:
    """mergekit would refuse a name that it does not know after it has merged."""
    if not isinstance(template, str) or "{" in template:
        return
    known = chat_template_names()
    if template not in ("auto", *known):
        raise RecipeError(
            f"is not a chat template{nearest(template, known)}",
            where=where,
            got=template,
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


def _name(model: Any, where: str) -> None:
    """`base+adapter` with an empty half would be the folder that the command runs in."""
    if isinstance(model, str) and ("\0" in model or not all(map(str.strip, model.split("+")))):
        raise RecipeError(
            "names no model", where=where, got=model, allowed="a folder, a name of the Hub"
        )


def _parameters(parameters: Any, spec: MergeMethodSpec, where: str) -> None:
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise RecipeError("must be a mapping", where=where, got=parameters)
    known = {parameter.name: parameter for parameter in spec.parameters}
    known_keys(parameters, tuple(known), where, of=f"method {spec.name}")
    for key, value in parameters.items():
        scalars = [] if value is None else _scalars(value, f"{where}.{key}")
        if not scalars:
            raise RecipeError("has no value", where=f"{where}.{key}")
        for scalar in scalars:
            validated(known[key], scalar, f"{where}.{key}")


def check_setting(spec: MergeMethodSpec, name: str, value: Any, where: str) -> None:
    """Check one value for a parameter of a method.

    Raises:
        RecipeError: the method has no such parameter, another type, or out of range.
    """
    known = {parameter.name: parameter for parameter in spec.parameters}
    known_keys({name: value}, tuple(known), where, of=f"method {spec.name}")
    validated(known[name], value, where)


def validated(parameter: ParameterSpec, scalar: Any, where: str) -> Any:
    """The value of a parameter, as its method declares it.

    Raises:
        RecipeError: another type, or out of range.
    """
    try:
        value = parameter.validate(scalar)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise RecipeError(reason, where=where, got=scalar) from error
    if isinstance(scalar, bool) and isinstance(value, float):  # YAML's yes, no, on, off
        raise RecipeError("must be a number", where=where, got=scalar)
    return value


def _scalars(value: Any, where: str) -> list[Any]:
    """Every number or word in a setting: a scalar, a layer gradient, or filters over either.

    None stands for an empty list, which mergekit would read as the default.
    """
    try:
        _SETTING.validate_python(value)
    except ValidationError as error:
        raise RecipeError(
            "is not a parameter setting",
            where=where,
            got=value,
            allowed="a scalar, a list (layer gradient), or a list of {filter, value}",
        ) from error
    if isinstance(value, dict):
        known_keys(value, ("filter", "value"), where)
        return _scalars(value["value"], where)
    if isinstance(value, list):
        parts = [_scalars(item, where) for item in value]
        return [scalar for part in parts for scalar in part] if all(parts) else []
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


def require_known_keys(raw: dict[str, Any], where: str) -> None:
    """Check the blocks `slices`, `modules`, `tokenizer` and `fairness` of a recipe.

    Raises:
        RecipeError: names the block, the key and the nearest known one; a range of layers that is
            not one.
    """
    for block, known in (
        ("tokenizer", tuple(TokenizerConfig.model_fields)),
        ("fairness", FAIRNESS),
    ):
        content = raw.get(block)
        if isinstance(content, dict):
            known_keys(content, known, f"{where}: {block}")
        elif content is not None:
            raise RecipeError("must be a mapping", where=f"{where}: {block}", got=content)
    _tokens(raw.get("tokenizer"), f"{where}: tokenizer.tokens")
    _slices(raw.get("slices"), f"{where}: slices")
    modules = raw.get("modules")
    for name, module in modules.items() if isinstance(modules, dict) else ():
        if isinstance(module, dict):
            inside = f"{where}: modules.{name}"
            known_keys(module, tuple(OutputModuleDefinition.model_fields), inside)
            _slices(module.get("slices"), f"{inside}.slices")
            _each(module.get("models"), ("model", "parameters"), f"{inside}.models")


def parameter_blocks(raw: dict[str, Any], where: str) -> Iterator[tuple[Any, str]]:
    """Every `parameters` below `slices` and `modules`, with its place."""
    for block in ("slices", "modules"):
        yield from _blocks(raw.get(block), f"{where}: {block}")


def _blocks(value: Any, where: str) -> Iterator[tuple[Any, str]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _blocks(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "parameters":
                yield item, f"{where}.{key}"
            else:
                yield from _blocks(item, f"{where}.{key}")


def _tokens(tokenizer: Any, where: str) -> None:
    tokens = tokenizer.get("tokens") if isinstance(tokenizer, dict) else None
    for token, item in tokens.items() if isinstance(tokens, dict) else ():
        if isinstance(item, dict):
            known_keys(item, tuple(TokenEmbeddingConfig.model_fields), f"{where}.{token}")
            source = item.get("source")
            if isinstance(source, dict) and "kind" in source:
                known = tuple(ModelTokenEmbedding.model_fields)
                known_keys(source, known, f"{where}.{token}.source")


def _slices(value: Any, where: str) -> None:
    _each(value, tuple(OutputSliceDefinition.model_fields), where)
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            known = tuple(InputSliceDefinition.model_fields)
            _each(item.get("sources"), known, f"{where}[{index}].sources")
            _ranges(item.get("sources"), f"{where}[{index}].sources")


def _ranges(sources: Any, where: str) -> None:
    """mergekit would make a model without layers, or count up to the last one named."""
    for index, item in enumerate(sources if isinstance(sources, list) else ()):
        span = item.get("layer_range") if isinstance(item, dict) else None
        if not isinstance(span, list) or [type(end) for end in span] != [int, int]:
            continue  # mergekit says that it is not a pair
        if not 0 <= span[0] < span[1] <= MOST_LAYERS:
            raise RecipeError(
                "is not a range of layers",
                where=f"{where}[{index}].layer_range",
                got=span,
                allowed=f"the first layer, and the one after the last, up to {MOST_LAYERS:,}",
            )


def _each(value: Any, known: tuple[str, ...], where: str) -> None:
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            known_keys(item, known, f"{where}[{index}]")


def known_keys(
    mapping: dict[str, Any],
    known: tuple[str, ...],
    where: str,
    spec: MergeMethodSpec | None = None,
    *,
    of: str | None = None,
) -> None:
    """Refuse other keys; with `spec`, a key may be a parameter that belongs one level down."""
    inside = [parameter.name for parameter in spec.parameters] if spec else []
    for key in mapping:
        if key not in known:
            near = nearest(key, list(known)) or nearest(key, inside).replace("'", "'parameters.", 1)
            raise RecipeError(
                f"unknown key {key!r}{near}",
                where=where,
                allowed=[*known, *([f"({of})"] if of else [])],
            )
