"""One merge, or one grid of merges, to a folder that appears complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import INDEX
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.files import Sharing, sharing_in, staged_folder
from mergekit_fair.merging.by_mergekit import merge_by_mergekit, merge_slices, run_checked
from mergekit_fair.merging.carried_files import CarriedFiles, carried_files
from mergekit_fair.merging.grid import point_name
from mergekit_fair.merging.manifest import recorded
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.model_files import (
    describe_models,
    merged_config,
    require_unchanged,
    write_card,
    write_manifest,
)
from mergekit_fair.merging.output_place import require_apart
from mergekit_fair.merging.parameters import explained
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.result_checks import require_complete
from mergekit_fair.merging.saved_config import complete_config
from mergekit_fair.merging.shard_files import Written
from mergekit_fair.merging.shards import Shard, index_json, shards
from mergekit_fair.merging.stream import write_weights
from mergekit_fair.progress import Progress, Silent, bar


def merge_to_folder(
    recipe: Recipe,
    out: str | Path,
    options: Any,
    settings: MergeSettings | None = None,
    progress: Progress | None = None,
) -> None:
    """Run `recipe` and put the complete model at `out`.

    The methods of this package are checked and streamed. Where a tokenizer is to be built,
    vocabularies differ or the output is to be pickled, mergekit runs them, with the same checks
    before. Recipes of other methods run through mergekit.

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
    settings, progress = settings or MergeSettings(), progress or Silent()
    recipe = recipe.resolved()
    require_apart(recipe, out)
    for remark in recipe.remarks:
        progress.say(remark)
    if settings.as_adapter:
        from mergekit_fair.merging.adapter_merge import merge_adapters

        merge_adapters(recipe, out, options, settings, progress)
    elif not is_own(recipe.method):
        _require_single(recipe, settings, recipe.method)
        recipe.require_inputs()
        merge_by_mergekit(recipe, out, options, settings, progress)
    elif recipe.is_sliced:
        _require_single(recipe, settings, "slices")
        merge_slices(recipe, out, options, settings, progress)
    else:
        _own(recipe, out, options, settings, progress)


def _own(
    recipe: Recipe, out: Path, options: Any, settings: MergeSettings, progress: Progress
) -> None:
    """Checked, then streamed, or run by mergekit where its options ask for more."""
    with (
        staged_folder(out, overwrite=settings.overwrite, known=recorded) as folder,
        MergePlan.open(
            recipe, options, allow_pickle=settings.allow_pickle, progress=progress
        ) as plan,
    ):
        for note in plan.notes:
            progress.say(note)
        if plan.streams:
            _stream(plan, folder, out.name, options, settings, progress)
        else:
            _require_single(recipe, settings, "a tokenizer to build, or pickled output")
            run_checked(plan, folder, out, options, progress)


def _stream(
    plan: MergePlan,
    folder: Path,
    name: str,
    options: Any,
    settings: MergeSettings,
    progress: Progress,
) -> None:
    carried = carried_files(plan.recipe.configuration(), options)
    for note in carried.notes:
        progress.say(note)
    program = plan.at(lambdas=settings.lambdas)
    files = shards(program.tensors, options.out_shard_size)
    targets = outputs(folder, plan.recipe, settings.lambdas)
    sharing = Sharing.COPY
    if shared := sum(file.size for file in files if file.is_shared):
        sharing = sharing_in(folder, hard_links=settings.hard_links)
    size = sum(file.size for file in files)
    notes = [*plan.recipe.remarks, *plan.notes, *carried.notes]
    if sharing == Sharing.LINK:
        names = ", ".join(file.name for file in files if file.is_shared)
        notes.append(f"one file for all models of this grid, read-only: {names}")
        progress.say(notes[-1])
    spared = shared * (len(targets) - 1) if sharing != Sharing.COPY else 0
    _require_space(folder, size * len(targets) - spared)
    inputs = describe_models(plan.models, plan.recipe, with_hash=settings.hash_inputs)
    with bar(progress, "merge", size) as advance:
        weights = write_weights(
            files,
            plan.models.readers,
            [target for target, _ in targets],
            device=options.device or "cpu",
            advance=advance,
            sharing=sharing,
        )
    for (target, recipe), written in zip(targets, weights, strict=True):
        title = name if target == folder else target.name
        _complete(recipe, target, title, options, plan, files, written, inputs, carried, notes)
    require_unchanged(plan.models, inputs)


def _require_single(recipe: Recipe, settings: MergeSettings, got: str) -> None:
    if settings.lambdas is not None:
        raise RecipeError(
            "a grid of λ is written for the methods of mergekit-fair, tensor by tensor",
            where=recipe.where,
            got=got,
            fix="merge each λ by itself",
        )


def outputs(
    folder: Path, recipe: Recipe, lambdas: Sequence[float] | None
) -> list[tuple[Path, Recipe]]:
    """The folder and the recipe of every model that is written; folders are made."""
    if lambdas is None:
        return [(folder, recipe)]
    targets = [
        (folder / point_name("lambda", value), recipe.with_settings({"lambda": value}))
        for value in lambdas
    ]
    for target, _ in targets:
        target.mkdir()
    return targets


def _complete(
    recipe: Recipe,
    folder: Path,
    name: str,
    options: Any,
    plan: MergePlan,
    files: Sequence[Shard],
    written: Mapping[str, Written],
    inputs: Mapping[str, Any],
    carried: CarriedFiles,
    notes: Sequence[str],
) -> None:
    """Put everything beside the weights of one output, and look at it once more."""
    index = index_json(files)
    if index is not None:
        (folder / INDEX).write_text(index, encoding="utf-8")
    base = plan.models.base
    carried.write(folder)
    if options.write_model_card:
        write_card(recipe, folder, name)
    with explained(recipe.where):
        config = merged_config(
            recipe.configuration(),
            plan.models.folders[base],
            trust_remote_code=options.trust_remote_code,
        )
    (folder / "config.json").write_text(config, encoding="utf-8")
    complete_config(folder, carried.settings)
    require_complete(set(plan.infos[base]), base, folder)
    write_manifest(
        folder,
        inputs,
        written,
        method=recipe.method,
        arithmetic={"accumulator": "float64", "device": options.device or "cpu"},
        norms=None if plan.norms is None else dict(plan.norms),
        notes=notes,
    )


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            "there is not enough space for the output",
            where=folder.parent,
            got=f"{free / 1e6:,.1f} MB free",
            allowed=f"{needed / 1e6:,.1f} MB or more",
            fix="free some space, or choose a folder on another disk",
        )
