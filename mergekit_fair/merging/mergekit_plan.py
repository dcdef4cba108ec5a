"""A recipe becomes mergekit's tensor tasks; models are checked before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import get_architecture_info
from mergekit.common import ModelReference
from mergekit.config import ConditionalParameter
from mergekit.io.tasks import LoaderCache, SaveTensor
from mergekit.merge import _model_out_config
from mergekit.plan import MergePlanner
from safetensors import SafetensorError

from mergekit_fair.checkpoints.folder import require_same_tensors, tensor_infos, weight_files
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.merging.architecture import complete_architecture
from mergekit_fair.merging.open_models import is_tensorwise
from mergekit_fair.merging.recipe import OrderedConfiguration, Recipe

# What mergekit, and what it calls, raises without a word on the recipe.
_BARE = (
    *(RuntimeError, ValueError, TypeError, AssertionError, LookupError, ImportError, OSError),
    SafetensorError,
)


@contextmanager
def checked_models(config: OrderedConfiguration, options: Any) -> Iterator[bool]:
    """Check the recipe's models against the base, and let mergekit see all their tensors.

    Yields:
        Whether that was done: only a tensorwise merge is checked, the rest is left to mergekit.

    Raises:
        CheckpointError: a model that is not found, or models that do not fit each other.
        RecipeError: a layer gradient over an architecture without known layers.
    """
    # A process may merge twice while files change: mergekit's cache knows models by path only.
    LoaderCache().loaders.clear()
    models = config.referenced_models()
    sources = (config.tokenizer_source, config.tokenizer and config.tokenizer.source)
    _require_found([*models, *(item for item in sources if isinstance(item, ModelReference))])
    # An adapter has the tensors of its base.
    is_local = all(Path(model.model.path).is_dir() for model in models)
    if not (is_tensorwise(config, options) and is_local):
        yield False
        return
    base, *others = [model.model.path for model in models]
    require_same_tensors(base, others)
    with complete_architecture(models[0], tensor_infos(base)) as has_layers:
        if not has_layers:
            refuse_gradients(config)
        yield True


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
        raise RecipeError(f"mergekit cannot merge it: {_first_line(error)}", where=where) from error


def tensor_tasks(recipe: Recipe, options: Any) -> list[SaveTensor]:
    """mergekit's planned tasks, one per output tensor.

    Raises:
        RecipeError: whatever mergekit's planner refuses.

    Those of a merge to disk: `plan_in_memory` of mergekit 0.1.5 raises on construction. No file
    is opened for writing before a task's writer runs.
    """
    config = recipe.configuration()
    LoaderCache().setup(options)
    with explained(recipe.where):
        architecture = get_architecture_info(config, options)
        planner = MergePlanner(
            config,
            architecture,
            options=options,
            out_model_config=_model_out_config(
                config, architecture, trust_remote_code=options.trust_remote_code
            ),
        )
        tasks = planner.plan_to_disk(out_path="")
    return [task for task in tasks if isinstance(task, SaveTensor)]


def _require_found(models: list[ModelReference]) -> None:
    """A mistyped path is not looked up on the Hub, whose names have one slash at most."""
    for model in models:
        for part in (model.model, model.lora):
            if part is None or Path(part.path).is_dir():
                continue
            if part.path.startswith(("/", ".", "~")) or part.path.count("/") > 1:
                weight_files(part.path)
        if not Path(model.model.path).is_dir():
            try:
                model.config()
            except ValueError:  # needs options that only mergekit has, such as --trust-remote-code
                continue
            except OSError as error:
                raise CheckpointError(
                    f"neither a folder here nor found on the Hub ({_first_line(error)})",
                    where=model,
                    fix="check the path",
                ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def refuse_gradients(config: OrderedConfiguration) -> None:
    """mergekit would give every tensor the gradient's first value."""
    scopes: list[tuple[object, Any]] = [("parameters", config.parameters)]
    scopes += [(item.model, item.parameters) for item in config.models or ()]
    for where, parameters in scopes:
        for name, setting in (parameters or {}).items():
            if _is_gradient(setting):
                raise RecipeError(
                    "a layer gradient needs an architecture that mergekit defines; this one is "
                    "merged tensor by tensor and has no known layers",
                    where=f"{where}: {name}",
                    fix="use filters on tensor names: [{filter: layer.0., value: 0.5}, …]",
                )


def _is_gradient(setting: Any) -> bool:
    if isinstance(setting, ConditionalParameter):
        return _is_gradient(setting.value)
    if not isinstance(setting, list):
        return False
    if any(isinstance(item, ConditionalParameter) for item in setting):
        return any(_is_gradient(item) for item in setting)
    return len(setting) > 1
