"""Where a merge may be written."""

from __future__ import annotations

import os
from pathlib import Path

from mergekit_fair.errors import ConfigError
from mergekit_fair.merging.recipe import Recipe


def require_apart(recipe: Recipe, out: Path) -> None:
    """Check that the output lies beside what is read, not in it or in its place.

    Raises:
        ConfigError: `out` is a model, or the recipe, or a folder in or around one.
    """
    report = (recipe.raw.get("fairness") or {}).get("report")
    inputs = [recipe.where, report] if isinstance(report, str) else [recipe.where]
    for model in recipe.configuration().referenced_models():
        inputs += [part.path for part in (model.model, model.lora) if part]
    target = Path(os.path.realpath(out))
    for path in filter(os.path.exists, inputs):
        source = Path(os.path.realpath(path))
        if target == source:
            relation = "is what the merge reads"
        elif target.is_relative_to(source) and source.is_dir():
            relation = f"lies in {path}, which the merge reads"
        elif source.is_relative_to(target):
            relation = f"holds {path}, which the merge reads"
        else:
            continue
        raise ConfigError(relation, where=out, fix="choose another folder")
