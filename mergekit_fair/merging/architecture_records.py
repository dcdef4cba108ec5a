"""mergekit's records of architectures: it merges every tensor, and knows the layers.

mergekit's own definition of an architecture, or what it infers, is used where it names every tensor
of the base checkpoint. Otherwise (ViT, for one: 8 of its 40 tensors) the checkpoint's tensor names
are the architecture, and the numbers in them are the layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mergekit.architecture import (
    ConfiguredModelArchitecture,
    ModelArchitecture,
    WeightInfo,
    arch_info_for_config,
    get_architecture_info,
)
from mergekit.architecture.base import ModuleDefinition
from mergekit.architecture.json_definitions import (
    JsonLayerTemplates,
    JsonModuleArchDef,
    JsonModuleArchitecture,
)
from mergekit.common import get_config_value

from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.checkpoints.layout import Layout
from mergekit_fair.compat.mergekit import is_defined, mergekits_options
from mergekit_fair.compat.transformers import configuration_of
from mergekit_fair.merging.placed_weights import (
    LAYER,
    PlacedWeight,
    forced_dtype,
    named_config,
    place_of,
)

# Where config.json says how many layers there are.
_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "depth")


Record = tuple[ModelArchitecture, bool]


def own_record(
    base: Any,
    tensors: Mapping[str, TensorInfo],
    layout: Layout,
    *,
    trust_remote_code: bool = False,
) -> Record:
    """For the methods of this package: mergekit's definition if it names just these tensors.

    Args:
        base: the `ModelReference` whose config.json names the architecture.
        tensors: of the base.
        layout: of the base.
        trust_remote_code: let config.json name code to run.

    Returns:
        mergekit's record, and whether it is its own definition; else it is made of the names.

    Raises:
        CheckpointError: the base has no config.json or names no single architecture.
    """
    config = named_config(base, trust_remote_code)
    known = arch_info_for_config(config) if is_defined(config.architectures[0]) else None
    if known is not None and _covers(known, config, set(tensors)):
        return known, True
    return architecture_of_names(config, tensors, layout), False


def places(info: ModelArchitecture, base: Any, trust_remote_code: bool) -> Iterator[PlacedWeight]:
    """The weights of a model in mergekit's order, each with its place among the layers.

    Args:
        info: the record.
        base: the `ModelReference` of a model of this architecture.
        trust_remote_code: let config.json name code to run.
    """
    config = configuration_of(base, trust_remote_code=trust_remote_code)
    configured = ConfiguredModelArchitecture(info=info, config=config)
    for name in info.modules:
        module = configured.get_module(name)
        count = module.num_layers()
        placed = [(weight, 0.0) for weight in module.pre_weights()]
        for index in range(count):
            placed += [(weight, place_of(index, count)) for weight in module.layer_weights(index)]
        placed += [(weight, 0.0) for weight in module.post_weights()]
        yield from (PlacedWeight(each.name, place, each.force_dtype) for each, place in placed)


def stock_record(
    recipe: Any, options: Any, tensors: Mapping[str, TensorInfo], layout: Layout
) -> Record:
    """For mergekit's methods: what mergekit would use, unless tensors of the base would get lost.

    Args:
        recipe: mergekit's configuration.
        options: of the merge.
        tensors: of the base.
        layout: of the base.

    Returns:
        As `own_record`.

    Raises:
        CheckpointError: as `own_record`.
        Exception: whatever mergekit refuses, such as models of several architectures.
    """
    models = recipe.referenced_models()
    base = named_config(recipe.base_model or models[0], options.trust_remote_code)
    try:
        info = get_architecture_info(recipe, mergekits_options(options))
        loses = not _keeps_all(info, base, set(tensors), layout)
    except Exception:  # mergekit raises for many architectures, and some of its definitions do
        configs = [named_config(model, options.trust_remote_code) for model in models]
        if any(config.architectures != base.architectures for config in configs):
            raise
        loses = True
    if not loses:
        return info, True
    return architecture_of_names(base, tensors, layout), False


def architecture_of_names(
    config: Any, tensors: Mapping[str, TensorInfo], layout: Layout
) -> ModelArchitecture:
    """An architecture with just these tensors; their names tell modules and layers.

    As mergekit infers them, but from the names in the file: the first number between dots is the
    layer, what stands before it the module. The place of a layer in a gradient is then the same.

    Args:
        config: of transformers.
        tensors: of the checkpoint; integers stay integers, but for the counters of a BatchNorm.
        layout: tells which of them have a row for each token.
    """
    axes = layout.vocabulary_axes(tensors)
    loose: list[WeightInfo] = []
    layers: dict[str, dict[str, set[int]]] = {}
    dtypes: dict[str, str | None] = {}
    for name, info in sorted(tensors.items()):
        dtype = forced_dtype(name, info)
        if found := LAYER.search(name):
            template = LAYER.sub(".${layer_index}.", name, count=1)
            layers.setdefault(name[: found.start()], {}).setdefault(template, set()).add(
                int(found[1])
            )
            dtypes[template] = dtype
        else:
            loose.append(WeightInfo(name=name, vocabulary_axis=axes.get(name), force_dtype=dtype))
    modules: dict[str, ModuleDefinition] = {}
    for prefix, templates in sorted(layers.items()) or [("", {})]:
        count = 1 + max((max(numbers) for numbers in templates.values()), default=-1)
        weights = [
            WeightInfo(name=name, optional=len(numbers) < count, force_dtype=dtypes[name])
            for name, numbers in templates.items()
        ]
        key = _count_key(config, count) if len(layers) == 1 else None
        modules[prefix] = _module(config, [] if modules else loose, weights, count, key)
    if len(modules) == 1:
        modules = {"default": next(iter(modules.values()))}
    return ModelArchitecture(
        modules=modules, architectures=list(config.architectures), model_type=config.model_type
    )


def _module(
    config: Any,
    loose: list[WeightInfo],
    templates: list[WeightInfo],
    count: int,
    count_key: str | None,
) -> ModuleDefinition:
    definition = JsonModuleArchDef(
        model_type=config.model_type,
        architectures=list(config.architectures),
        pre_weights=loose,
        layer_templates=JsonLayerTemplates(weights=templates),
        post_weights=[],
        num_layers_config_key=count_key,
        override_num_layers=None if count_key else count,
    )
    return ModuleDefinition(architecture=JsonModuleArchitecture(definition=definition))


def _count_key(config: Any, count: int) -> str | None:
    """Where a config says that there are so many layers, to be changed where slices change them."""
    for part in ("", "text_config."):
        for key in _COUNTS:
            try:
                value = get_config_value(config, part + key)
            except RuntimeError:
                continue
            if value == count:
                return part + key
    return None


def weight_names(info: ModelArchitecture, base: Any, options: Any) -> set[str]:
    """What an architecture plans for the base; empty where mergekit cannot tell."""
    try:
        config = named_config(base, options.trust_remote_code)
        return {weight.name for weight in _weights(info, config)}
    except Exception:  # as in `_covers`
        return set()


def _weights(info: ModelArchitecture, config: Any) -> list[WeightInfo]:
    return ConfiguredModelArchitecture(info=info, config=config).all_weights()


def _covers(info: ModelArchitecture, config: Any, names: set[str]) -> bool:
    try:
        weights = _weights(info, config)
    except Exception:  # Qwen2-VL's definition asks for what its configuration does not have
        return False
    every = [weight.name for weight in weights]
    if _fails_while_planning(weights) or len(every) > len(set(every)):  # Qwen2.5-VL's has doubles
        return False
    required = {weight.name for weight in weights if not weight.optional}
    return required <= names <= set(every)


def _fails_while_planning(weights: Collection[WeightInfo]) -> bool:
    """mergekit 0.1.5 adds a list and a tuple for these."""
    return any(weight.optional and weight.aliases for weight in weights)


def _keeps_all(info: ModelArchitecture, config: Any, names: set[str], layout: Layout) -> bool:
    """Whether mergekit finds what it asks for, and writes all that transformers would load."""
    weights = _weights(info, config)
    if _fails_while_planning(weights):
        return False
    # An optional tensor is planned only if a file has it under that very name.
    planned = {weight.name for weight in weights if not weight.optional or weight.name in names}
    loaded = {} if names <= planned and _are_there(weights, names) else layout.loaded(names)
    memory = {name for name in loaded.values() if name is not None}
    if not _are_there(weights, names | memory):
        return False
    kept = {layout.source(name) for name in planned} if loaded else planned
    return all(
        name in planned
        or (layout.is_known and loaded[name] is None)
        or loaded[name] in planned
        or layout.source(str(loaded[name])) in kept
        for name in names
    )


def _are_there(weights: Collection[WeightInfo], names: set[str]) -> bool:
    return all(
        weight.optional
        or not names.isdisjoint((weight.name, *(weight.aliases or ()), *(weight.tied_names or ())))
        for weight in weights
    )
