"""What a merge reads, as its manifest tells it, and whether it stayed the same meanwhile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.merging.manifest import describe_input
from mergekit_fair.merging.open_models import Models
from mergekit_fair.merging.recipe import Recipe


def described(models: Models, *, with_hash: bool = False) -> dict[str, Any]:
    """Model → its folder and, for each file, size, time of change and header digest."""
    return {
        model: {
            "path": str(models.folders[model].resolve()),
            "files": describe_input(reader.files, with_hash=with_hash),
        }
        for model, reader in models.readers.items()
    }


def require_unchanged(models: Models, before: Mapping[str, Any]) -> None:
    """Nobody has written to an input while it was read.

    Raises:
        CheckpointError: names the model and the file.
    """
    for model, reader in models.readers.items():
        for file in reader.files:
            known = before[model]["files"][file.name]
            try:
                (state,) = describe_input([file]).values()
            except (OSError, CheckpointError):  # gone, or cut short
                state = {}
            if state != {key: value for key, value in known.items() if key != "sha256"}:
                raise CheckpointError(
                    f"{file.name} was changed while it was merged",
                    where=model,
                    fix="merge again when nothing writes to it",
                )


def require_apart(recipe: Recipe, out: Path) -> None:
    """The output is made beside what is read, not in it or in its place.

    Raises:
        ConfigError: `out` is a model, or the recipe, or a folder in or around one.
    """
    report = (recipe.raw.get("fairness") or {}).get("report")
    places = [recipe.where, report] if isinstance(report, str) else [recipe.where]
    for model in recipe.configuration().referenced_models():
        places += [part.path for part in (model.model, model.lora) if part]
    target = Path(os.path.realpath(out))
    for place in filter(os.path.exists, places):
        source = Path(os.path.realpath(place))
        if target == source:
            relation = "is what the merge reads"
        elif target.is_relative_to(source) and source.is_dir():
            relation = f"lies in {place}, which the merge reads"
        elif source.is_relative_to(target):
            relation = f"holds {place}, which the merge reads"
        else:
            continue
        raise ConfigError(relation, where=out, fix="choose another folder")
