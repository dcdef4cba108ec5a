"""What a recipe must be before any model is read: known keys, groups, values of the right type.

What nobody would read (a mistyped key, a parameter of another method) is an error for the methods
of this package. mergekit passes over it in silence: for its own methods it is a warning, with the
nearest known name. What would be lost, or mean something else than it says, is an error for all.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mergekit_fair.compat.mergekit import chat_template_names
from mergekit_fair.errors import ConfigError, RecipeError
from mergekit_fair.merging.configuration import MergeConfiguration, ParameterSetting
from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.registry import is_own, known_specs, own_method
from mergekit_fair.merging.recipe_inputs import require_layers
from mergekit_fair.merging.recipe_keys import KINDS, Block, Unread, blocks, hint, known_keys
from mergekit_fair.schema import count_documents, nearest, parse_yaml, parse_yaml_loosely

SOURCES = ("union", "base")

MERGE_DTYPES = ("float32", "bfloat16", "float16", "float64")

# A chat template that is shorter is a name to mergekit.
_SHORTEST_TEMPLATE = 20

# Files of other programs of mergekit: program → keys that no recipe has.
_PROGRAMS = {
    "mergekit-moe": ("experts", "gate_mode", "experts_per_token", "shared_experts"),
    "mergekit-evolve": ("genome",),
    "bakllama": ("layer_slices",),
}

_SETTING: TypeAdapter[Any] = TypeAdapter(ParameterSetting)


def parse_recipe(text: str, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The mapping of a recipe's YAML text.

    Returns:
        It, and warnings: of equal keys mergekit takes the last one.

    Raises:
        ConfigError: not YAML, or not a mapping; equal keys, for the methods of this package.
        RecipeError: several recipes in one file.
    """
    try:
        raw, repeated = parse_yaml_loosely(text, where)
    except ConfigError as error:
        count, filled = count_documents(text)
        if count < 2:
            raise
        raise RecipeError(
            "holds more than one YAML document",
            where=where,
            got=count,
            fix="remove the lines `---` that nothing follows"
            if filled < 2
            else f"run `mergekit-fair exec mergekit-multi {where} --intermediate-dir DIR "
            "--out-path OUT`",
        ) from error
    if repeated and is_own(str(raw.get("merge_method"))):
        parse_yaml(text, where)
    return raw, tuple(f"{where}: {sentence}" for sentence in repeated)


def check_recipe(raw: dict[str, Any], where: str) -> tuple[str, ...]:
    """Check keys, method, parameters, roles and groups; reads no model.

    Returns:
        Warnings: what mergekit would pass over in silence. None for the methods of this package.

    Raises:
        RecipeError: with the file, the model, the key, what was given and what is allowed.
    """
    spec = _spec(raw, where)
    unread = Unread(is_error=is_own(spec.name))
    _shapes(raw, where, unread)
    parts = list(blocks(raw, "recipe", where))
    _keys(parts, spec, unread)
    for key in ("dtype", "out_dtype"):
        _dtype(raw.get(key), f"{where}: {key}")
    for part in parts:
        _names(part)
        if "parameters" in (KINDS[part.kind].known or ()):
            _parameters(part, spec, unread)
    _distinct_models(raw.get("models") or [], where, unread)
    _chat_template(raw.get("chat_template"), f"{where}: chat_template")
    try:
        config = MergeConfiguration.model_validate(raw)
    except (ValidationError, RuntimeError) as error:
        raise RecipeError(_first_line(error), where=where, fix=hint(unread.warnings)) from error
    require_layers(config, where, unread)
    if is_own(spec.name):
        own_method(spec.name).check_recipe(raw, where)
    else:
        _base_parameters(parts, spec, unread)
        _base_spelled(raw, where, unread)
    return tuple(unread.warnings)


def _spec(raw: dict[str, Any], where: str) -> MethodSpec:
    """The method's; says of another program's file whose it is."""
    name = raw.get("merge_method")
    if isinstance(name, str) and is_own(name):
        return own_method(name).spec
    known = known_specs()
    if isinstance(name, str) and name in known:
        return known[name]
    for program, keys in _PROGRAMS.items():
        if present := [key for key in keys if key in raw]:
            raise RecipeError(
                f"is a file of {program}, not a recipe",
                where=where,
                got=present,
                fix=f"run mergekit-fair exec {program} {where} OUT",
            )
    if name is None:
        known_keys(raw, KINDS["recipe"].known or (), where, Unread(is_error=True))
    raise RecipeError(
        f"unknown merge_method{nearest(name, list(known))}",
        where=where,
        got=name,
        allowed=sorted(known),
    )


def _keys(parts: list[Block], spec: MethodSpec, unread: Unread) -> None:
    names = tuple(parameter.name for parameter in spec.parameters)
    for part in parts:
        known = KINDS[part.kind].known
        if known is not None:
            inside = names if "parameters" in known else ()
            known_keys(part.content, known, part.where, unread, inside=inside)


def _shapes(raw: dict[str, Any], where: str, unread: Unread) -> None:
    """Blocks of another type than theirs."""
    models = raw.get("models") or []
    if not isinstance(models, list):
        raise RecipeError("must be a list of models", where=f"{where}: models", got=models)
    for index, item in enumerate(models):
        if not isinstance(item, dict) or "model" not in item:
            raise RecipeError(
                "needs a mapping with `model`", where=f"{where}: models[{index}]", got=item
            )
    tokenizer, fairness = raw.get("tokenizer"), raw.get("fairness")
    if tokenizer is not None and not isinstance(tokenizer, dict):
        raise RecipeError(
            "must be a mapping",
            where=f"{where}: tokenizer",
            got=tokenizer,
            fix=f"write tokenizer: {{source: {tokenizer}}}" if tokenizer in SOURCES else None,
        )
    if fairness is not None and not isinstance(fairness, dict):
        error = RecipeError("must be a mapping", where=f"{where}: fairness", got=fairness)
        unread.say(error, "is not a mapping, and nothing reads it")
    seed = fairness.get("random_seed") if isinstance(fairness, dict) else None
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**32):
        raise RecipeError(
            "is not a seed",
            where=f"{where}: fairness.random_seed",
            got=seed,
            allowed="a whole number from 0 to 4294967295",
        )


def _dtype(name: Any, where: str) -> None:
    if name is not None and str(name).removeprefix("torch.") not in MERGE_DTYPES:
        raise RecipeError("is not a dtype to merge in", where=where, got=name, allowed=MERGE_DTYPES)


def _chat_template(template: Any, where: str) -> None:
    """mergekit would refuse it after it has merged, and maybe go on without a tokenizer."""
    if not isinstance(template, str) or not template:
        return
    known = chat_template_names()
    is_text = "{" in template and len(template) >= _SHORTEST_TEMPLATE
    if template not in ("auto", *known) and not is_text:
        raise RecipeError(
            f"is not a chat template{nearest(template, known)}",
            where=where,
            got=template,
            allowed=["auto", *known, "the text of a template"],
        )


def _names(part: Block) -> None:
    """`base+adapter` with an empty half would be the folder that the command runs in."""
    for key, kind in KINDS[part.kind].inside.items():
        name = part.content.get(key)
        if kind != "reference" or not isinstance(name, str) or not name:
            continue
        if "\0" in name or not all(map(str.strip, name.split("+"))):
            raise RecipeError(
                "names no model",
                where=part.place(key),
                got=name,
                allowed="a folder, a name of the Hub",
            )


def _parameters(part: Block, spec: MethodSpec, unread: Unread) -> None:
    parameters, where = part.content.get("parameters"), part.place("parameters")
    if parameters is None:
        return
    if part.kind == "model":
        where = f"{part.where} ({part.content.get('model')}): parameters"
    if not isinstance(parameters, dict):
        raise RecipeError("must be a mapping", where=where, got=parameters)
    known = {parameter.name: parameter for parameter in spec.parameters}
    known_keys(parameters, tuple(known), where, unread, of=spec.name)
    for key, value in parameters.items():
        if key not in known:
            continue
        place = f"{where}.{key}"
        scalars = [] if value is None else _scalars(value, place, unread)
        if not scalars:
            raise RecipeError("has no value", where=place)
        for scalar in scalars:
            validated(known[key], scalar, place, unread)
        if known[key].scope == ParameterScope.SHARED and part.kind in ("model", "source"):
            error = RecipeError(
                "holds for the whole recipe; mergekit would ignore it here",
                where=place,
                fix="move it to the recipe's own parameters",
            )
            unread.say(
                error, "holds for the whole recipe: mergekit ignores it here, beside a model"
            )


def _base_parameters(parts: list[Block], spec: MethodSpec, unread: Unread) -> None:
    """The base has no task vector, so that nothing reads its weight."""
    bases = {str(part.content["base_model"]) for part in parts if part.content.get("base_model")}
    ignored = {item.name for item in spec.parameters if item.scope == ParameterScope.NON_BASE}
    for part in parts:
        if part.kind in ("model", "source") and str(part.content.get("model")) in bases:
            for key in part.content.get("parameters") or {}:
                if key in ignored:
                    place = f"{part.place('parameters')}.{key}"
                    unread.warnings.append(
                        f"{place}: mergekit reads it of models other than base_model"
                    )


def check_setting(spec: MethodSpec, name: str, value: Any, where: str) -> None:
    """Check one value for a parameter of a method.

    Raises:
        RecipeError: the method has no such parameter, another type, or out of range.
    """
    validated(require_parameter(spec, name, where), value, where, Unread(is_error=True))


def require_parameter(spec: MethodSpec, name: str, where: str) -> ParameterSpec:
    """The parameter of a method.

    Raises:
        RecipeError: it has none of that name.
    """
    known = {parameter.name: parameter for parameter in spec.parameters}
    known_keys({name: None}, tuple(known), where, Unread(is_error=True), of=spec.name)
    return known[name]


def validated(parameter: ParameterSpec, scalar: Any, where: str, unread: Unread) -> Any:
    """The value of a parameter, as its method declares it.

    Raises:
        RecipeError: another type, or out of range.
    """
    try:
        value = parameter.validate(scalar)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise RecipeError(reason, where=where, got=scalar) from error
    if isinstance(value, float) and math.isnan(value):
        raise RecipeError("is not a number", where=where, got=scalar)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(scalar, bool) and is_number:  # YAML's yes, no, on, off
        problem = RecipeError("must be a number", where=where, got=scalar)
        unread.say(problem, f"{scalar} (YAML's yes, no, on, off) is read as {value}")
    return value


def _scalars(value: Any, where: str, unread: Unread) -> list[Any]:
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
        known_keys(value, ("filter", "value"), where, unread)
        return _scalars(value["value"], where, unread)
    if isinstance(value, list):
        parts = [_scalars(item, where, unread) for item in value]
        return [scalar for part in parts for scalar in part] if all(parts) else []
    return [value]


def _distinct_models(models: list[dict[str, Any]], where: str, unread: Unread) -> None:
    """mergekit refuses one model twice, and takes it under two spellings."""
    seen: dict[str, Any] = {}
    for item in models:
        model = _folder(item["model"])
        if model in seen:
            error = RecipeError("is listed twice", where=f"{where}: model {item['model']}")
            if seen[model] == item["model"]:
                raise error
            unread.say(error, f"is listed twice, as {seen[model]} before")
        seen[model] = item["model"]


def _base_spelled(raw: dict[str, Any], where: str, unread: Unread) -> None:
    """mergekit knows a model by its text."""
    base = raw.get("base_model")
    for item in raw.get("models") or ():
        if str(item["model"]) != str(base) and _folder(item["model"]) == _folder(base):
            unread.warnings.append(
                f"{where}: model {item['model']}: is base_model ({base}), spelled otherwise: "
                "mergekit takes it as one more model"
            )


def _folder(model: Any) -> str:
    """`a`, `./a` and `a/` are one folder."""
    return os.path.normpath(Path(str(model)).absolute())


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        item = error.errors()[0]
        return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
    return str(error)
