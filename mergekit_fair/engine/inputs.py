"""What a merge reads, as its manifest tells it, and whether it stayed the same meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_fair.engine.manifest import describe_input
from mergekit_fair.engine.models import Models
from mergekit_fair.errors import CheckpointError


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
    for model, entry in described(models).items():
        for name, state in entry["files"].items():
            if any(before[model]["files"][name].get(key) != value for key, value in state.items()):
                raise CheckpointError(
                    f"{name} was changed while it was merged",
                    where=model,
                    fix="merge again when nothing writes to it",
                )
