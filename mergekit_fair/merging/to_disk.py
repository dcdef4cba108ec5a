"""One merge, or one grid of merges, to a folder that appears complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import INDEX
from mergekit_fair.disk import Sharing, sharing_in
from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import staged_folder
from mergekit_fair.merging.by_mergekit import merge_by_mergekit, merge_slices, run_checked
from mergekit_fair.merging.carried_files import CarriedFiles, carried_files
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
        out: the folder to make.
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
        recipe.require_inputs()
        merge_by_mergekit(recipe, out, options, settings, progress)
    elif recipe.is_sliced:
        merge_slices(recipe, out, options, settings, progress)
    else:
        with _opened(recipe, out, options, settings, progress) as (folder, plan):
            if plan.streams:
                _stream(plan, {folder: plan.recipe}, out.name, options, settings, progress)
            else:
                run_checked(plan, folder, out, options, progress)


def merge_grid(
    recipes: Mapping[str, Recipe],
    out: Path,
    options: Any,
    settings: MergeSettings | None = None,
    progress: Progress | None = None,
) -> None:
    """Run recipes that differ in numbers only, to folders that appear together or not at all.

    What our engine streams is read once for all of them. Else each is merged by itself.

        points = {f"lambda_{value}": recipe.with_settings({"lambda": value}) for value in values}
        merge_grid(points, Path("grid"), MergeOptions())

    Args:
        recipes: name of a folder in `out` → a resolved recipe, of one `family`.
        out: the folder to make.
        options, settings, progress: as for `merge_to_folder`.

    Raises:
        RecipeError: recipes of several families; and as `merge_to_folder`.
        ConfigError, CheckpointError, OSError: as `merge_to_folder`.
    """
    settings, progress = settings or MergeSettings(), progress or Silent()
    first = next(iter(recipes.values()))
    require_apart(first, out)
    if not is_own(first.method) or first.is_sliced or settings.as_adapter:
        with staged_folder(out, overwrite=settings.overwrite, known=recorded) as folder:
            _each(recipes, folder, options, settings, progress)
        return
    with _opened(first, out, options, settings, progress) as (folder, plan):
        if not plan.streams:
            _each(recipes, folder, options, settings, progress)
            return
        for remark in first.remarks:
            progress.say(remark)
        targets = {folder / name: recipe for name, recipe in recipes.items()}
        for target in targets:
            target.mkdir()
        _stream(plan, targets, "", options, settings, progress)


def _each(
    recipes: Mapping[str, Recipe],
    folder: Path,
    options: Any,
    settings: MergeSettings,
    progress: Progress,
) -> None:
    """Merge one recipe after the other."""
    fresh = replace(settings, overwrite=False)
    for name, recipe in recipes.items():
        merge_to_folder(recipe, folder / name, options, fresh, progress)


@contextmanager
def _opened(
    recipe: Recipe, out: Path, options: Any, settings: MergeSettings, progress: Progress
) -> Iterator[tuple[Path, MergePlan]]:
    """The folder that becomes `out`, and the checked plan."""
    with (
        staged_folder(out, overwrite=settings.overwrite, known=recorded) as folder,
        MergePlan.open(
            recipe, options, allow_pickle=settings.allow_pickle, progress=progress
        ) as plan,
    ):
        for note in plan.notes:
            progress.say(note)
        yield folder, plan


def _stream(
    plan: MergePlan,
    targets: Mapping[Path, Recipe],
    name: str,
    options: Any,
    settings: MergeSettings,
    progress: Progress,
) -> None:
    """Write one model a target; a title is the folder's own name where `name` is empty."""
    carried = carried_files(plan.recipe.configuration(), options)
    for note in carried.notes:
        progress.say(note)
    program = plan.of(*targets.values())
    files = shards(program.tensors, options.out_shard_size)
    folder = next(iter(targets))
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
            list(targets),
            device=options.device or "cpu",
            advance=advance,
            sharing=sharing,
        )
    for (target, recipe), written in zip(targets.items(), weights, strict=True):
        title = name or target.name
        _complete(recipe, target, title, options, plan, files, written, inputs, carried, notes)
    require_unchanged(plan.models, inputs)


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
        norms=plan.norms,
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
