"""One merge, or one grid of merges, to a folder that appears complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import INDEX
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.files import staged_folder
from mergekit_fair.merging.by_mergekit import merge_by_mergekit
from mergekit_fair.merging.layout import index_json
from mergekit_fair.merging.loading import require_complete
from mergekit_fair.merging.manifest import write_manifest
from mergekit_fair.merging.merge_inputs import described, require_apart, require_unchanged
from mergekit_fair.merging.mergekit_plan import explained
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.model_files import copy_companions, write_card, write_config
from mergekit_fair.merging.open_models import is_tensorwise
from mergekit_fair.merging.prepare import Prepared, Settings, prepared
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.resolve import resolved
from mergekit_fair.merging.shards import Written
from mergekit_fair.merging.stream import write_weights
from mergekit_fair.progress import Progress, Silent


def merge_to_folder(
    recipe: Recipe,
    out: str | Path,
    options: Any,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> None:
    """Run `recipe` and put the complete model at `out`.

    The methods of this package are streamed. Recipes of other methods, and such with slices or
    a tokenizer to build, run through mergekit.

    Args:
        recipe: a checked recipe of any registered method.
        out: the folder to make; with `lambdas`, it holds one folder `lambda_<λ>` a model.
        options: mergekit's `MergeOptions`.
        settings: what else it may do.
        progress: told what is done.

    Raises:
        ConfigError: `out` exists and may not be replaced, or is a model that is read.
        CheckpointError: models that do not fit each other, are damaged or not finite, or a result
            that would not load whole.
        RecipeError: whatever the method or mergekit refuses.
        OSError: the output cannot be written.
    """
    out = Path(out)
    settings, progress = settings or Settings(), progress or Silent()
    recipe = resolved(recipe)
    require_apart(recipe, out)
    for note in recipe.notes:
        progress.say(note)
    if settings.as_adapter:
        from mergekit_fair.merging.adapter_merge import merge_adapters

        merge_adapters(recipe, out, options, settings, progress)
        return
    if is_own(recipe.method) and is_tensorwise(recipe.configuration(), options):
        _streamed(recipe, out, options, settings, progress)
        return
    if settings.lambdas is not None:
        raise RecipeError(
            "a grid of λ is written for the methods of mergekit-fair, tensor by tensor",
            where=recipe.where,
            got=recipe.method,
            fix="merge each λ by itself",
        )
    merge_by_mergekit(recipe, out, options, settings)


def _streamed(
    recipe: Recipe, out: Path, options: Any, settings: Settings, progress: Progress
) -> None:
    with (
        staged_folder(out, overwrite=settings.overwrite) as folder,
        prepared(recipe, options, settings, progress) as merge,
    ):
        places = outputs(folder, recipe, settings.lambdas)
        _require_space(folder, merge, len(places))
        inputs = described(merge.models, with_hash=settings.hash_inputs)
        progress.start("merge", merge.bytes_written)
        try:
            weights = write_weights(
                merge.shards,
                merge.models.readers,
                [place for place, _ in places],
                device=options.device or "cpu",
                advance=progress.advance,
            )
        finally:
            progress.stop()
        for (place, own), written in zip(places, weights, strict=True):
            name = out.name if place == folder else place.name
            _complete(own, place, name, options, merge, written, inputs)
        require_unchanged(merge.models, inputs)


def point_name(value: float) -> str:
    """The name of a point of a grid, `lambda_0.1`."""
    return f"lambda_{value!r}".removesuffix(".0")


def outputs(
    folder: Path, recipe: Recipe, lambdas: Sequence[float] | None
) -> list[tuple[Path, Recipe]]:
    """The folder and the recipe of every model that is written; folders are made."""
    if lambdas is None:
        return [(folder, recipe)]
    found = [
        (folder / point_name(value), recipe.with_settings({"lambda": value})) for value in lambdas
    ]
    for place, _ in found:
        place.mkdir()
    return found


def _complete(
    recipe: Recipe,
    place: Path,
    name: str,
    options: Any,
    merge: Prepared,
    written: Mapping[str, Written],
    inputs: Mapping[str, Any],
) -> None:
    """Put everything beside the weights of one output, and look at it once more."""
    index = index_json(merge.shards)
    if index is not None:
        (place / INDEX).write_text(index, encoding="utf-8")
    config, base = recipe.configuration(), merge.models.base
    copy_companions(config, merge.models.folders[base], options, place)
    if options.write_model_card:
        write_card(recipe, place, name)
    with explained(recipe.where):
        write_config(config, options, place)
    require_complete(set(merge.models.infos[base]), base, place)
    norms = merge.program.norms
    write_manifest(
        place,
        inputs,
        written,
        method=recipe.method,
        arithmetic={"accumulator": "float64", "device": options.device or "cpu"},
        norms=None if norms is None else dict(norms),
        notes=list(recipe.notes),
    )


def _require_space(folder: Path, merge: Prepared, count: int) -> None:
    needed, free = merge.bytes_written * count, shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            "there is not enough space for the output",
            where=folder.parent,
            got=f"{free / 1e6:,.1f} MB free",
            allowed=f"{needed / 1e6:,.1f} MB or more",
            fix="free some space, or choose a folder on another disk",
        )
