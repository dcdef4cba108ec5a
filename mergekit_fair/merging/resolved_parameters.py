"""What a recipe says about each output tensor, as mergekit resolves it.

Layer gradients, filters and their precedence are left to mergekit's planner. A recipe without them
says the same about every tensor: it is resolved once, which for thousands of tensors saves most of
the planning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mergekit.architecture import ConfiguredModelArchitecture, get_architecture_info
from mergekit.common import ModelReference
from mergekit.config import ConfigReader, InputSliceDefinition, OutputSliceDefinition
from mergekit.io.tasks import LoaderCache
from mergekit.merge_methods import MergeMethodSpec
from mergekit.parameter_resolver import resolve_parameters

from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.merging.mergekit_plan import explained, tensor_tasks
from mergekit_fair.merging.recipe import OrderedConfiguration, Recipe

# Models are known by their reference as text: comparing mergekit's objects takes as long as a
# tensor operation.
Infos = Mapping[str, Mapping[str, TensorInfo]]


@dataclass(frozen=True)
class Planned:
    """One output tensor in the recipe's terms.

    Attributes:
        name: of the tensor.
        base: θ₀.
        others: the other models, in recipe order.
        parameters: name → value, or model → value for those of each model.
        inner: the dtype that inputs are converted to, None for the inputs' own.
        dtype: the dtype in the file, None for that of the result.
    """

    name: str
    base: str
    others: tuple[str, ...]
    parameters: Mapping[str, Any]
    inner: str | None
    dtype: str | None


def planned(
    recipe: Recipe,
    spec: MergeMethodSpec,
    infos: Mapping[str, Mapping[str, TensorInfo]],
    options: Any,
) -> list[Planned]:
    """The tensors of the base's checkpoint that the architecture knows, in mergekit's order.

    Args:
        recipe: tensorwise; `complete_architecture` must be open for it.
        spec: of its method.
        infos: model → its tensors, the base first.
        options: mergekit's.

    Raises:
        RecipeError: whatever mergekit's planner refuses.
    """
    with explained(recipe.where):
        found = _alike if _is_constant(recipe.configuration()) else _one_by_one
        with _indexed(infos):
            plans = found(recipe, spec, options)
    held = next(iter(infos.values()))
    return [plan for plan in plans if plan.name in held]


def _alike(recipe: Recipe, spec: MergeMethodSpec, options: Any) -> list[Planned]:
    """One resolution for all tensors."""
    config = recipe.configuration()
    reference: Any = config.base_model
    base, others = str(reference), _others(config)
    items = {str(item.model): item for item in config.models or ()}
    sources = [
        InputSliceDefinition(
            model=ModelReference.parse(model),
            layer_range=(0, 0),
            parameters=items[model].parameters,
        )
        for model in others
    ]
    reader = ConfigReader(config=config, t=0, slice_out=OutputSliceDefinition(sources=sources))
    shared, own = resolve_parameters(
        spec,
        tensor_name="",
        inputs={ModelReference.parse(model): "" for model in (base, *others)},
        sources=reader.parameter_sources,
        base_model=reference,
    )
    parameters = _bound(spec, shared, own, others)
    architecture = ConfiguredModelArchitecture(
        info=get_architecture_info(config, options),
        config=reference.config(trust_remote_code=options.trust_remote_code),
    )
    return [
        Planned(
            weight.name,
            base,
            others,
            parameters,
            weight.force_dtype or config.dtype,
            weight.force_dtype or config.out_dtype,
        )
        for weight in architecture.all_weights()
    ]


def _one_by_one(recipe: Recipe, spec: MergeMethodSpec, options: Any) -> list[Planned]:
    """mergekit's plan, tensor by tensor."""
    plans = []
    for task in tensor_tasks(recipe, options):
        merge: Any = task.tensor_task
        base = str(merge.base_model)
        others = tuple(model for model in map(str, merge.model_order) if model != base)
        shared, own = dict(merge.parameters.items()), merge.input_parameters
        gather: Any = merge.gather_tensors
        forced = next(iter(gather.weight_info.values())).force_dtype
        plans.append(
            Planned(
                task.tensor_name,
                base,
                others,
                _bound(spec, shared, dict(own.items()), others),
                forced or gather.dtype,
                task.dtype,
            )
        )
    return plans


def _bound(
    spec: MergeMethodSpec,
    shared: Mapping[str, Any],
    own: Mapping[Any, Any],
    others: tuple[str, ...],
) -> dict[str, Any]:
    by_name = {str(model): values for model, values in own.items()}
    return dict(shared) | {
        parameter.name: {model: by_name[model][parameter.name] for model in others}
        for parameter in spec.input_parameters
    }


def _others(config: OrderedConfiguration) -> tuple[str, ...]:
    models = [str(item.model) for item in config.models or ()]
    return tuple(model for model in models if model != str(config.base_model))


def _is_constant(config: OrderedConfiguration) -> bool:
    """Whether every parameter is one value for all tensors."""
    settings = [config.parameters, *(item.parameters for item in config.models or ())]
    values = [value for given in settings for value in (given or {}).values()]
    return all(isinstance(value, (bool, int, float, str)) for value in values)


@contextmanager
def _indexed(infos: Infos) -> Iterator[None]:
    """mergekit's planner asks its loaders which optional tensors there are; answer from headers.

    Adapters need not be merged to disk for that, nor files opened twice.
    """
    loaders: Any = LoaderCache().loaders
    loaders.clear()
    for model, tensors in infos.items():
        loaders[ModelReference.parse(model)] = _HeaderLoader(_Index(dict.fromkeys(tensors, "")))
    try:
        yield
    finally:
        loaders.clear()


@dataclass(frozen=True)
class _Index:
    tensor_paths: dict[str, str]


@dataclass(frozen=True)
class _HeaderLoader:
    index: _Index
