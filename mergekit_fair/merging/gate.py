"""One gate for every merge that mergekit's own engine runs, whoever started it.

`run_merge` asks for the architecture before it reads a tensor. There the models of a recipe of this
package's methods are checked as `merge` checks them, and the architecture names all their tensors:
`mergekit-yaml`, `mergekit-multi` and a call from Python write what `merge` writes, or refuse what
it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mergekit_fair.checkpoints.folder import require_no_vector
from mergekit_fair.checkpoints.vector_folder import VectorReader
from mergekit_fair.compat.mergekit import choose_architectures, serve_vectors
from mergekit_fair.merging.adapters_by_peft import register_adapters, require_bases
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.model_checks import (
    OpenModels,
    located,
    open_models,
    planned_architecture,
)
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.result_checks import require_loadable
from mergekit_fair.schema import parse_yaml

_CHOSEN: ContextVar[Any] = ContextVar("architecture", default=None)


def register_gate() -> None:
    """Put the gate before mergekit's engine in this process; again changes nothing."""
    choose_architectures(_choose)
    register_adapters()


@contextmanager
def planned_by(info: Any) -> Iterator[None]:
    """While open, mergekit's engine plans by this architecture: its models are checked already."""
    register_gate()
    token = _CHOSEN.set(info)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def serve(config: Any, models: OpenModels, options: Any) -> None:
    """Let mergekit's engine read the task vectors of a recipe that is checked.

    Args:
        config: that the engine runs; it spells models as whoever started it does.
        models: of the recipe.
        options: mergekit's.
    """
    held = {
        models.folders[name]: reader.places
        for name, reader in models.readers.items()
        if isinstance(reader, VectorReader)
    }
    vectors = {
        model: places
        for model in config.referenced_models()
        for folder, places in held.items()
        if model.lora is None and located(model, options).samefile(folder)
    }
    serve_vectors(vectors, config.base_model)


def _choose(config: Any, options: Any) -> Any:
    """The architecture for a configuration of mergekit's; None leaves it to mergekit.

    Raises:
        CheckpointError, RecipeError: as a merge.
    """
    chosen = _CHOSEN.get()
    if chosen is not None:
        return chosen
    require_bases(config)
    if not is_own(config.merge_method):
        for model in config.referenced_models():
            require_no_vector(model.model.path)
        return None
    where = "recipe"
    recipe = Recipe.from_mapping(parse_yaml(config.to_yaml(), where), where)
    with open_models(recipe, options, allow_pickle=True) as models:
        architecture = planned_architecture(recipe, models, options)
        serve(config, models, options)
        if not recipe.is_sliced:
            base = models.base
            require_loadable(models.folders[base], models.infos[base], models.layout)
        return architecture.info
