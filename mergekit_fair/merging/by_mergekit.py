"""Recipes that mergekit runs itself: its own methods, slices, tokenizers to build."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from mergekit.merge import run_merge

from mergekit_fair.checkpoints.folder import tensor_infos, weight_files
from mergekit_fair.checkpoints.reader import open_folder, read_whole
from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import staged_folder
from mergekit_fair.merging.adapter_cache import merged_adapters
from mergekit_fair.merging.loading import require_complete
from mergekit_fair.merging.manifest import describe_input, write_manifest
from mergekit_fair.merging.mergekit_plan import checked_models, explained
from mergekit_fair.merging.model_files import write_card
from mergekit_fair.merging.prepare import Settings
from mergekit_fair.merging.recipe import OrderedConfiguration, Recipe


def merge_by_mergekit(recipe: Recipe, out: Path, options: Any, settings: Settings) -> None:
    """Run a recipe of any method through mergekit, in a folder that appears when it is complete.

    Raises:
        ConfigError: `out` exists and may not be replaced.
        CheckpointError: models that do not fit each other, tensors that got lost, a result that is
            not finite, a tokenizer that could not be copied.
        RecipeError: whatever mergekit refuses.
    """
    config = recipe.configuration()
    with (
        staged_folder(out, overwrite=settings.overwrite) as folder,
        merged_adapters(config, options, out) as ready,
        checked_models(config, ready) as is_checked,
    ):
        base = config.referenced_models()[0].model.path
        changes: dict[str, Any] = {"write_model_card": False}
        if is_checked and not _has_tokenizer(Path(base)):
            changes["copy_tokenizer"] = False  # mergekit would log a traceback and go on
        with explained(recipe.where):
            run_merge(config, str(folder), ready.model_copy(update=changes))
        if is_checked:
            require_complete(set(tensor_infos(base)), base, folder)
        _require_finite(folder)
        if options.copy_tokenizer and is_checked:
            _require_tokenizer(Path(base), folder)
        if options.write_model_card:
            write_card(recipe, folder, out.name)
        write_manifest(
            folder, _described(config), {}, method=recipe.method, notes=list(recipe.notes)
        )


def _described(config: OrderedConfiguration) -> dict[str, Any]:
    """The models that are folders here; mergekit knows where the others came from."""
    return {
        str(model): {
            "path": str(Path(model.model.path).resolve()),
            "files": describe_input(weight_files(model.model.path)),
        }
        for model in config.referenced_models()
        if model.lora is None and Path(model.model.path).is_dir()
    }


def _require_finite(folder: Path) -> None:
    """mergekit carries NaN and Inf of an input into the result without a word."""
    if not any(folder.glob("*.safetensors")):
        return
    reader = open_folder(folder)
    try:
        for name, info in reader.tensors.items():
            if info.is_float and not bool(torch.isfinite(read_whole(reader, name)).all()):
                raise CheckpointError(
                    "has NaN or Inf: an input has, or a number became too large for its dtype",
                    where=f"the merged tensor {name}",
                    fix="look at this tensor in the inputs; nothing was written",
                )
    finally:
        reader.close()


def _has_tokenizer(folder: Path) -> bool:
    return any(any(folder.glob(name)) for name in ("*token*", "vocab.*", "*.model"))


def _require_tokenizer(base: Path, folder: Path) -> None:
    """mergekit logs a failed tokenizer copy and goes on; image models have a processor instead."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (base / name).is_file() and not (folder / name).exists():
            shutil.copy(base / name, folder / name)
    if (base / "tokenizer_config.json").is_file() and not (
        folder / "tokenizer_config.json"
    ).is_file():
        raise CheckpointError("its tokenizer could not be copied", where=base)
