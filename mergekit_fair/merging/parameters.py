"""What a recipe says about each output tensor, as mergekit resolves it.

Layer gradients, filters and their precedence are left to mergekit's planner. A recipe without them
says the same about every tensor: it is resolved once, which for thousands of tensors saves most of
the planning. Numbers can be replaced afterwards, without resolving anything again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from mergekit.architecture import ConfiguredModelArchitecture
from mergekit.config import (
    ConfigReader,
    InputSliceDefinition,
    OutputSliceDefinition,
)
from mergekit.merge_methods import MergeMethodSpec
from mergekit.merge_methods.base import ParameterSpec
from mergekit.parameter_resolver import resolve_parameters
from safetensors import SafetensorError

from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.compat.mergekit import disk_plan, known_tensors
from mergekit_fair.errors import RecipeError, first_line
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.recipe import OrderedConfiguration, Recipe

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


def models_of(config: OrderedConfiguration) -> tuple[str, ...]:
    """The base first, then the others in recipe order."""
    models = [str(item.model) for item in config.models or ()]
    return tuple(dict.fromkeys((str(config.base_model), *models)))


def bound_tensors(
    recipe: Recipe, spec: MergeMethodSpec, infos: Infos, architecture: Any, options: Any
) -> list[BoundTensor]:
    """The tensors of the base's checkpoint that the architecture knows, in mergekit's order.

    Args:
        recipe: whose every output tensor is made of the same tensor of every model.
        spec: of its method.
        infos: model → its tensors, the base first.
        architecture: mergekit's record of it.
        options: mergekit's.

    Raises:
        RecipeError: whatever mergekit's planner refuses.
    """
    config = recipe.configuration()
    # How vocabularies are brought together changes no parameter.
    config.tokenizer_source = config.tokenizer = None
    options = options.model_copy(update={"unsafe_truncate_embeddings": False})
    tensors_of = {model: infos[str(model)] for model in config.referenced_models()}
    with explained(recipe.where), known_tensors(tensors_of):
        if is_constant(config):
            tensors = _alike(config, constant_parameters(recipe, spec), architecture, options)
        else:
            tensors = _one_by_one(config, spec, architecture, options)
    stored = next(iter(infos.values()))
    return [tensor for tensor in tensors if tensor.name in stored]


def constant_parameters(recipe: Recipe, spec: MergeMethodSpec) -> Parameters | None:
    """One resolution for all tensors; None if gradients or filters tell them apart.

    Opens no file.
    """
    config = recipe.configuration()
    if not is_constant(config):
        return None
    base, *others = models_of(config)
    known = {str(model): model for model in config.referenced_models()}
    items = {str(item.model): item for item in config.models or ()}
    sources = [
        InputSliceDefinition(
            model=known[model], layer_range=(0, 0), parameters=items[model].parameters
        )
        for model in others
    ]
    reader = ConfigReader(config=config, t=0, slice_out=OutputSliceDefinition(sources=sources))
    shared, by_model = resolve_parameters(
        spec,
        tensor_name="",
        inputs={known[model]: "" for model in (base, *others)},
        sources=reader.parameter_sources,
        base_model=config.base_model,
    )
    return _bound(spec, shared, by_model, others)


def replaced(
    spec: MergeMethodSpec, parameters: Parameters, raw: Mapping[str, Any], models: Mapping[str, str]
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


def _alike(
    config: OrderedConfiguration, parameters: Parameters | None, info: Any, options: Any
) -> list[BoundTensor]:
    base: Any = config.base_model
    architecture = ConfiguredModelArchitecture(
        info=info, config=base.config(trust_remote_code=options.trust_remote_code)
    )
    return [
        BoundTensor(
            weight.name,
            parameters or {},
            weight.force_dtype or config.dtype,
            weight.force_dtype or config.out_dtype,
        )
        for weight in architecture.all_weights()
    ]


def _one_by_one(
    config: OrderedConfiguration, spec: MergeMethodSpec, architecture: Any, options: Any
) -> list[BoundTensor]:
    """mergekit's plan, tensor by tensor."""
    tensors = []
    distinct: dict[str, Parameters] = {}
    for task in disk_plan(config, architecture, options).saved:
        merge: Any = task.tensor_task
        base = str(merge.base_model)
        others = [model for model in map(str, merge.model_order) if model != base]
        bound = _bound(
            spec, dict(merge.parameters.items()), dict(merge.input_parameters.items()), others
        )
        gather: Any = merge.gather_tensors
        forced = next(iter(gather.weight_info.values())).force_dtype
        parameters = distinct.setdefault(repr(bound), bound)
        tensors.append(
            BoundTensor(task.tensor_name, parameters, forced or gather.dtype, task.dtype)
        )
    return tensors


def _bound(
    spec: MergeMethodSpec,
    shared: Mapping[str, Any],
    by_model: Mapping[Any, Any],
    others: Sequence[str],
) -> dict[str, Any]:
    values = {str(model): settings for model, settings in by_model.items()}
    return dict(shared) | {
        parameter.name: {model: values[model][parameter.name] for model in others}
        for parameter in spec.input_parameters
    }


def is_constant(config: OrderedConfiguration) -> bool:
    """Whether every parameter is one value for all tensors."""
    blocks = [config.parameters, *(item.parameters for item in config.models or ())]
    values = [value for block in blocks for value in (block or {}).values()]
    return all(isinstance(value, (bool, int, float, str)) for value in values)
