"""What a recipe says about each output tensor, resolved as mergekit resolves it.

A recipe without layer gradients and filters says the same about every tensor: it is resolved once,
which for thousands of tensors saves most of the planning. Numbers can be replaced afterwards,
without resolving anything again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.errors import RecipeError, first_line
from mergekit_fair.merging.configuration import (
    ConditionalParameter,
    MergeConfiguration,
    ParameterSetting,
)
from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterSpec
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.placed_weights import PlacedWeight
from mergekit_fair.merging.recipe import Recipe

# Models are known by their reference as text: comparing mergekit's objects takes as long as a
# tensor operation.
Infos = Mapping[str, Mapping[str, TensorInfo]]

# Name → value, or model → value for the parameters of each model.
Parameters = Mapping[str, Any]

# What mergekit, and what it calls, raises without a word on the recipe.
_BARE = (
    *(RuntimeError, ValueError, TypeError, AssertionError, LookupError, ImportError, OSError),
    SafetensorError,
    StrictDataclassError,  # a config.json that transformers does not take
)


@dataclass(frozen=True)
class BoundTensor:
    """One output tensor in the recipe's terms.

    Attributes:
        name: of the tensor.
        parameters: resolved for it; tensors with the same values share one object.
        compute_dtype: the dtype that inputs are converted to, None for the inputs' own.
        dtype: the dtype in the file, None for that of the result.
    """

    name: str
    parameters: Parameters
    compute_dtype: str | None
    dtype: str | None


def models_of(config: MergeConfiguration) -> tuple[str, ...]:
    """The base first, then the others in recipe order."""
    models = [str(item.model) for item in config.models or ()]
    return tuple(dict.fromkeys((str(config.base_model), *models)))


def bound_tensors(
    recipe: Recipe, spec: MethodSpec, infos: Infos, weights: Sequence[PlacedWeight]
) -> list[BoundTensor]:
    """The tensors of the base's checkpoint that the architecture knows, in mergekit's order.

    Args:
        recipe: whose every output tensor is made of the same tensor of every model.
        spec: of its method.
        infos: model → its tensors, the base first.
        weights: of the architecture.

    Raises:
        RecipeError: a required parameter that no setting gives for a tensor.
    """
    config, stored = recipe.configuration(), next(iter(infos.values()))
    tensors = []
    distinct: dict[str, Parameters] = {}
    with explained(recipe.where):
        constant = constant_parameters(recipe, spec)
        for weight in weights:
            if weight.name not in stored:
                continue
            bound = constant or _bound(config, spec, weight.name, weight.place)
            tensors.append(
                BoundTensor(
                    weight.name,
                    bound if constant else distinct.setdefault(repr(bound), bound),
                    weight.dtype or config.dtype,
                    weight.dtype or config.out_dtype,
                )
            )
    return tensors


def constant_parameters(recipe: Recipe, spec: MethodSpec) -> Parameters | None:
    """One resolution for all tensors; None if gradients or filters tell them apart.

    Opens no file.
    """
    config = recipe.configuration()
    return _bound(config, spec) if is_constant(config) else None


def _bound(
    config: MergeConfiguration, spec: MethodSpec, name: str = "", place: float = 0.0
) -> Parameters:
    """What a recipe says about one tensor: a model's own parameter before the recipe's."""
    _, *others = models_of(config)
    own = {str(item.model): item.parameters for item in config.models or ()}
    bound: dict[str, Any] = {
        parameter.name: _resolved(parameter, [config.parameters], name, place, name)
        for parameter in spec.shared_parameters
    }
    for parameter in spec.input_parameters:
        bound[parameter.name] = {
            model: _resolved(
                parameter, [own.get(model), config.parameters], name, place, f"{model}.{name}"
            )
            for model in others
        }
    return bound


def _resolved(
    parameter: ParameterSpec,
    blocks: Sequence[Mapping[str, ParameterSetting] | None],
    name: str,
    place: float,
    where: str,
) -> Any:
    """The value of the first block that has one for this tensor."""
    for block in blocks:
        if block is not None and parameter.name in block:
            value = evaluated(block[parameter.name], name, place, parameter.validate)
            if value is not None:
                return value
    if parameter.required:
        raise RuntimeError(f"Missing required parameter {parameter.name} for {where}")
    return parameter.validate(parameter.default)


def evaluated(
    setting: ParameterSetting, name: str, place: float, validate: Callable[[Any], Any]
) -> Any:
    """A setting's value for one tensor, as mergekit evaluates it; None where it has none.

    Of a gradient of numbers the value is interpolated between two elements, of one of words or
    booleans it is the element before the place. Of filters the first counts that the name holds.

    Args:
        setting: a scalar, a gradient, or filters over either.
        name: of the tensor.
        place: among the layers, from 0 to 1.
        validate: gives a scalar the parameter's type.
    """
    if isinstance(setting, ConditionalParameter):
        setting = [setting]
    if not isinstance(setting, list):
        return validate(setting)
    for item in setting:
        if isinstance(item, ConditionalParameter) and (
            item.filter in (None, "*") or (name and item.filter in name)
        ):
            return evaluated(item.value, name, place, validate)
    if not setting or isinstance(setting[0], ConditionalParameter):
        return None
    values = [validate(item) for item in setting]
    scaled = place * (len(values) - 1)
    first = int(scaled)
    if not all(isinstance(value, (int, float)) and type(value) is not bool for value in values):
        return values[first]
    share = scaled - first
    second = min(len(values) - 1, first + 1)
    return validate((1 - share) * values[first] + share * values[second])


def replaced(
    spec: MethodSpec, parameters: Parameters, raw: Mapping[str, Any], models: Mapping[str, str]
) -> Parameters:
    """Bound parameters with every number and word of a recipe that is the same for all tensors.

    mergekit's precedence: a model's own parameter before the recipe's.

    Args:
        spec: of the method.
        parameters: bound from a recipe that differs from `raw` in numbers alone.
        raw: the recipe.
        models: the model as `raw` writes it → the model in `parameters`.
    """
    top = parameters_of(dict(raw))
    by_model = {
        models[str(item["model"])]: parameters_of(item)
        for item in raw.get("models") or ()
        if str(item["model"]) in models
    }
    bound = dict(parameters)
    for parameter in spec.shared_parameters:
        bound[parameter.name] = _value(parameter, [top], bound[parameter.name])
    for parameter in spec.input_parameters:
        bound[parameter.name] = {
            model: _value(parameter, [by_model.get(model, {}), top], before)
            for model, before in bound[parameter.name].items()
        }
    return bound


def _value(parameter: ParameterSpec, blocks: Sequence[Mapping[str, Any]], before: Any) -> Any:
    """The first block's setting; what was bound before for gradients and filters."""
    setting = next((block[parameter.name] for block in blocks if parameter.name in block), None)
    if isinstance(setting, (list, dict)):
        return before
    if setting is None:
        return before if parameter.required else parameter.validate(parameter.default)
    return parameter.validate(setting)


def dtype_of(name: str | None) -> torch.dtype | None:
    """A dtype by the name that a recipe or an architecture has for it, checked before."""
    return getattr(torch, name.removeprefix("torch.")) if name else None


@contextmanager
def explained(where: str) -> Iterator[None]:
    """A bare error of mergekit becomes a RecipeError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _BARE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk, say; libraries use the bare class for what is not found
        raise RecipeError(f"mergekit cannot merge it: {first_line(error)}", where=where) from error


def is_constant(config: MergeConfiguration) -> bool:
    """Whether every parameter is one value for all tensors."""
    blocks = [config.parameters, *(item.parameters for item in config.models or ())]
    values = [value for block in blocks for value in (block or {}).values()]
    return all(isinstance(value, (bool, int, float, str)) for value in values)
