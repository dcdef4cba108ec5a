"""The first pass of methods that need the norms of whole task vectors, and its cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from mergekit_fair.checkpoints.norms import task_vector_norms
from mergekit_fair.checkpoints.reader import Reader
from mergekit_fair.files import write_atomic
from mergekit_fair.merging.methods.graph_norms import merged_names
from mergekit_fair.merging.methods.head_policy import HeadPolicy
from mergekit_fair.merging.open_models import Models
from mergekit_fair.merging.program import needs_norms
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.progress import Progress


def norms_for(recipe: Recipe, models: Models, progress: Progress) -> dict[str, float] | None:
    """Model → ‖θ − θ₀‖₂ over all merged tensors; None if the method does not ask.

    Norms are kept in `.<recipe>.norms.json` beside the recipe, under a digest of the two models'
    files (size, time of change, header): `check` measures them, `merge` finds them there.

    Raises:
        CheckpointError: NaN or Inf; names model and tensor.
    """
    if not needs_norms(recipe):
        return None
    base, *others = models.readers
    policy = (recipe.raw.get("parameters") or {}).get("head", HeadPolicy.MERGE)
    names = merged_names(models.infos[base], merges_head=policy == HeadPolicy.MERGE)
    place = _place(recipe)
    known = _read(place)
    keys = {model: _key(models.readers[base], models.readers[model], names) for model in others}
    missing = [model for model in others if keys[model] not in known]
    if missing:
        readers = [models.readers[model] for model in missing]
        total = sum(info.bytes for info in models.infos[base].values()) * (1 + len(readers))
        progress.start("norms", total)
        try:
            norms = task_vector_norms(models.readers[base], readers, names, progress.advance)
        finally:
            progress.stop()
        known |= {keys[model]: norm for model, norm in zip(missing, norms, strict=True)}
        if place is not None:
            with contextlib.suppress(OSError):  # a cache: without it, the pass is made again
                write_atomic(place, json.dumps(known, indent=2, sort_keys=True) + "\n")
    return {model: known[keys[model]] for model in others}


def _place(recipe: Recipe) -> Path | None:
    path = Path(recipe.where)
    return path.with_name(f".{path.name}.norms.json") if path.is_file() else None


def _read(place: Path | None) -> dict[str, float]:
    try:
        found = json.loads(place.read_text(encoding="utf-8")) if place else {}
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _key(base: Reader, model: Reader, names: list[str]) -> str:
    text = json.dumps([base.identity(), model.identity(), names])
    return hashlib.sha256(text.encode()).hexdigest()
