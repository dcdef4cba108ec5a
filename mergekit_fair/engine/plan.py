"""A recipe becomes mergekit's tensor tasks; models are checked before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergekit.architecture import get_architecture_info
from mergekit.io.tasks import LoaderCache, SaveTensor
from mergekit.merge import _model_out_config
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from mergekit_fair.engine.architecture import complete_architecture
from mergekit_fair.engine.checkpoint import require_same_tensors
from mergekit_fair.recipe.recipe import OrderedConfiguration, Recipe


def plain_local_models(config: OrderedConfiguration) -> bool:
    """True if every model is a local folder without an adapter, so that we can read its header."""
    return all(
        model.lora is None and Path(model.model.path).is_dir()
        for model in config.referenced_models()
    )


@contextmanager
def checked_models(config: OrderedConfiguration) -> Iterator[None]:
    """Check the recipe's local models against the base, and let mergekit see all their tensors.

    Models from the Hub and adapters are left to mergekit's own loader.
    """
    # A process may merge twice while files change: mergekit's cache knows models by path only.
    LoaderCache().loaders.clear()
    models = config.referenced_models()
    is_slice_merge = config.slices or config.modules
    if is_slice_merge or not plain_local_models(config):
        yield
        return
    require_same_tensors(models[0].model.path, [model.model.path for model in models[1:]])
    with complete_architecture(models[0]):
        yield


def tensor_tasks(recipe: Recipe) -> list[SaveTensor]:
    """mergekit's planned tasks, one per output tensor.

    Those of a merge to disk: `plan_in_memory` of mergekit 0.1.5 raises on construction. No file
    is opened for writing before a task's writer runs.
    """
    config = recipe.configuration()
    options: Any = MergeOptions(quiet=True)
    architecture = get_architecture_info(config, options)
    LoaderCache().setup(options)
    planner = MergePlanner(
        config,
        architecture,
        options=options,
        out_model_config=_model_out_config(config, architecture),
    )
    return [task for task in planner.plan_to_disk(out_path="") if isinstance(task, SaveTensor)]
