"""What a merge would do, found out without reading the weights."""

from __future__ import annotations

from typing import Any

from mergekit_fair.merging.carried_files import carried_files
from mergekit_fair.merging.measured_inputs import require_measured
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.model_checks import open_models, planned_architecture, stock_models
from mergekit_fair.merging.model_files import merged_config
from mergekit_fair.merging.parameters import explained
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.shards import shards
from mergekit_fair.merging.stream import memory
from mergekit_fair.progress import Progress

STREAMED, STOCK = "streamed by mergekit-fair", "run by mergekit"


def check_merge(
    recipe: Recipe, options: Any, settings: MergeSettings, progress: Progress
) -> dict[str, Any]:
    """Check a recipe and its models as a merge would, and say what the merge would do.

    Norms that a method needs are measured, which reads the weights once; they are cached.

    Returns:
        `method`, `engine`, `models`, `notes`, `warnings`; for a streamed merge also
        `architecture`, `tensors`, `bytes_read`, `bytes_written`, `files`, `memory_bytes` (beside
        the process itself), `norms`, `loads`; for one that mergekit runs, `checked`.

    Raises:
        RecipeError, CheckpointError: whatever would stop the merge.
    """
    recipe = recipe.resolved()
    config = recipe.configuration()
    facts: dict[str, Any] = {
        "recipe": recipe.where,
        "method": recipe.method,
        "engine": STOCK,
        "models": [str(model) for model in config.referenced_models()],
        "notes": list(recipe.notes),
        "warnings": list(recipe.warnings),
    }
    if not is_own(recipe.method):
        recipe.require_inputs()
        stock = stock_models(recipe, options, allow_pickle=settings.allow_pickle)
        require_measured(recipe, stock.folders)
        warnings = recipe.on_tensors(stock.names).warnings
        facts["notes"] += (*stock.notes, *carried_files(config, options).notes)
        return facts | {"checked": True, "warnings": list(warnings)}
    if recipe.is_sliced:
        with open_models(recipe, options, allow_pickle=settings.allow_pickle) as models:
            planned_architecture(recipe, models, options)
            require_measured(recipe, models.folders)
            facts["notes"] += (*models.notes, *carried_files(config, options).notes)
            return facts | {"checked": True}
    with MergePlan.open(
        recipe, options, allow_pickle=settings.allow_pickle, progress=progress
    ) as plan:
        require_measured(recipe, plan.models.folders)
        facts["notes"] += (*plan.notes, *carried_files(config, options).notes)
        if not plan.streams:
            return facts | {"checked": True}
        return facts | {"engine": STREAMED} | _facts(plan, options)


def _facts(plan: MergePlan, options: Any) -> dict[str, Any]:
    with explained(plan.recipe.where):
        merged_config(
            plan.recipe.configuration(),
            plan.models.folders[plan.models.base],
            trust_remote_code=options.trust_remote_code,
        )
    program = plan.at()
    tensors, readers = program.tensors, plan.models.readers
    files = shards(tensors, options.out_shard_size)
    return {
        "architecture": "mergekit's"
        if plan.architecture.is_mergekits
        else "the checkpoint's tensor names",
        "tensors": {
            "merged": sum(tensor.formula.moves for tensor in tensors),
            "copied": sum(not tensor.formula.moves for tensor in tensors),
        },
        "bytes_read": sum(
            readers[model].tensors[tensor.name].bytes
            for tensor in tensors
            for model in tensor.models
        ),
        "bytes_written": sum(file.size for file in files),
        "files": [file.name for file in files],
        "memory_bytes": memory(files, 1, options.device or "cpu"),
        "norms": plan.norms,
        "loads": "whole" if plan.is_loadable else "not checked: no architecture of transformers",
    }
