"""What a merge would do, found out without reading the weights."""

from __future__ import annotations

from typing import Any

from mergekit_fair.merging.mergekit_plan import checked_models
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.open_models import is_tensorwise
from mergekit_fair.merging.prepare import Prepared, Settings, prepared
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.resolve import resolved
from mergekit_fair.merging.stream import memory
from mergekit_fair.progress import Progress

STREAMED, STOCK = "streamed by mergekit-fair", "run by mergekit"


def review(recipe: Recipe, options: Any, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Check a recipe and its models as a merge would, and say what the merge would do.

    Norms that a method needs are measured, which reads the weights once; they are kept.

    Returns:
        `method`, `engine`, `models`, `notes`; for a streamed merge also `architecture`, `tensors`,
        `bytes_read`, `bytes_written`, `files`, `memory_bytes` (beside the process itself),
        `norms`, `loads`.

    Raises:
        RecipeError, CheckpointError: whatever would stop the merge.
    """
    recipe = resolved(recipe)
    config = recipe.configuration()
    found: dict[str, Any] = {
        "recipe": recipe.where,
        "method": recipe.method,
        "engine": STOCK,
        "models": [str(model) for model in config.referenced_models()],
        "notes": list(recipe.notes),
    }
    if not (is_own(recipe.method) and is_tensorwise(config, options)):
        with checked_models(config, options) as is_checked:
            return found | {"checked": is_checked}
    with prepared(recipe, options, settings, progress) as merge:
        return found | {"engine": STREAMED} | _facts(merge, options)


def _facts(merge: Prepared, options: Any) -> dict[str, Any]:
    tensors = merge.program.tensors
    count = 1 if merge.program.lambdas is None else len(merge.program.lambdas)
    norms = merge.program.norms
    return {
        "architecture": "mergekit's" if merge.has_layers else "the checkpoint's tensor names",
        "tensors": {
            "merged": sum(tensor.formula.moves for tensor in tensors),
            "copied": sum(not tensor.formula.moves for tensor in tensors),
        },
        "bytes_read": merge.bytes_read,
        "bytes_written": merge.bytes_written * count,
        "files": [shard.name for shard in merge.shards],
        "memory_bytes": memory(merge.shards, count, options.device or "cpu"),
        "norms": None if norms is None else dict(norms),
        "loads": "whole" if merge.is_loadable else "not checked: no architecture of transformers",
    }
