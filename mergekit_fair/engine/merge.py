"""One merge to a folder: mergekit's engine, in a hidden sibling that is renamed when complete."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mergekit.card import generate_card
from mergekit.merge import run_merge

from mergekit_fair.engine.checkpoint import tensor_infos
from mergekit_fair.engine.files import staged_folder
from mergekit_fair.engine.plan import checked_models, explained
from mergekit_fair.errors import CheckpointError
from mergekit_fair.recipe.recipe import Recipe


def merge_to_folder(
    recipe: Recipe, out: str | Path, options: Any, *, overwrite: bool = False
) -> None:
    """Run `recipe` through mergekit and put the complete model at `out`.

    Args:
        recipe: a checked recipe of any registered method.
        out: the folder to make.
        options: mergekit's `MergeOptions`.
        overwrite: replace an existing `out`.

    Raises:
        ConfigError: `out` exists and `overwrite` is not given.
        CheckpointError: models that do not fit each other, or a merge that lost tensors.
        RecipeError: whatever mergekit refuses.
    """
    out = Path(out)
    config = recipe.configuration()
    base = config.referenced_models()[0].model.path
    with (
        staged_folder(out, overwrite=overwrite) as folder,
        checked_models(config, options, recipe.where) as is_checked,
    ):
        changes: dict[str, Any] = {"write_model_card": False}
        if is_checked and not _has_tokenizer(Path(base)):
            changes["copy_tokenizer"] = False  # mergekit would log a traceback and go on
        with explained(recipe.where):
            run_merge(config, str(folder), options.model_copy(update=changes))
        if is_checked:
            _require_complete(base, folder)
        if options.copy_tokenizer and is_checked:
            _require_tokenizer(Path(base), folder)
        if options.write_model_card:
            card = generate_card(config, recipe.source, name=out.name)
            (folder / "README.md").write_text(card, encoding="utf-8")
            (folder / "mergekit_config.yml").write_text(recipe.source, encoding="utf-8")


def _require_complete(base: str, folder: Path) -> None:
    expected, found = set(tensor_infos(base)), set(tensor_infos(folder))
    if expected != found:
        lost, new = sorted(expected - found), sorted(found - expected)
        raise CheckpointError(
            f"the merge lost {len(lost)} tensors {lost[:3]} and made {len(new)} new {new[:3]}",
            where=base,
            fix="report this architecture; nothing was written",
        )


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
