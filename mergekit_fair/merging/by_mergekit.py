"""Recipes that mergekit runs itself: its own methods, slices, tokenizers to build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mergekit_fair.checkpoints.reader import open_folder, read_whole
from mergekit_fair.compat.mergekit import forget_models, run_merge
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.files import staged_folder
from mergekit_fair.merging.adapters_by_peft import merged_adapters, settle_ties
from mergekit_fair.merging.architecture import Architecture
from mergekit_fair.merging.carried_files import carried_files
from mergekit_fair.merging.gate import planned_by, serve
from mergekit_fair.merging.manifest import recorded
from mergekit_fair.merging.measured_inputs import MeasuredInputs
from mergekit_fair.merging.model_checks import (
    open_models,
    parts_of,
    planned_architecture,
    resizes_vocabulary,
    stock_models,
)
from mergekit_fair.merging.model_files import (
    describe_inputs,
    describe_models,
    write_card,
    write_manifest,
)
from mergekit_fair.merging.parameters import explained
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.result_checks import require_complete, require_loadable_result
from mergekit_fair.merging.saved_config import complete_config
from mergekit_fair.merging.stock_plan import is_random
from mergekit_fair.progress import Progress


def merge_by_mergekit(
    recipe: Recipe, out: Path, options: Any, settings: MergeSettings, progress: Progress
) -> None:
    """Run a recipe of another method through mergekit, in a folder that appears when complete.

    Raises:
        ConfigError: `out` exists and may not be replaced.
        CheckpointError: models that cannot be merged, tensors that got lost, a result that is not
            finite, a tokenizer that could not be copied.
        RecipeError: whatever mergekit refuses.
    """
    with (
        staged_folder(out, overwrite=settings.overwrite, known=recorded) as folder,
        merged_adapters(options, out) as ready,
    ):
        ready = _seeded(recipe, ready)
        models = stock_models(recipe, ready, allow_pickle=settings.allow_pickle)
        said, recipe = len(recipe.warnings), recipe.on_tensors(models.names)
        for warning in recipe.warnings[said:]:
            progress.say(f"warning: {warning}")
        inputs = describe_inputs(models.folders, models.files, recipe)
        merge = _Merge(recipe, ready, models.folders, models.architecture, inputs, models.notes)
        merge.run(folder, out.name, progress)


def _seeded(recipe: Recipe, options: Any) -> Any:
    """With the seed that the recipe says, if it says one.

    Raises:
        RecipeError: the command says another one, of a recipe that was measured with its own.
    """
    own, given = recipe.random_seed, options.random_seed
    if own is None or own == given or not is_random(recipe.method):
        return options
    if given is not None and MeasuredInputs.of(recipe) is not None:
        raise RecipeError(
            "was measured with another seed",
            where=recipe.where,
            got=f"--random-seed {given}",
            allowed=own,
            fix="leave --random-seed out, or leave out the recipe's fairness block",
        )
    return options if given is not None else options.model_copy(update={"random_seed": own})


def merge_slices(
    recipe: Recipe, out: Path, options: Any, settings: MergeSettings, progress: Progress
) -> None:
    """The same for a recipe of this package's methods with slices or modules, all checked before.

    Raises:
        ConfigError, CheckpointError, RecipeError: as `merge_by_mergekit`; models that do not fit
            the base.
    """
    with (
        staged_folder(out, overwrite=settings.overwrite, known=recorded) as folder,
        open_models(recipe, options, allow_pickle=settings.allow_pickle) as models,
        merged_adapters(options, out) as ready,
    ):
        forget_models()
        architecture = planned_architecture(recipe, models, options)
        inputs = describe_models(models, recipe)
        merge = _Merge(recipe, ready, models.folders, architecture, inputs, models.notes)
        merge.run(folder, out.name, progress)


def run_checked(plan: MergePlan, folder: Path, out: Path, options: Any, progress: Progress) -> None:
    """Let mergekit run a recipe of this package's methods whose plan is open.

    Args:
        plan: open.
        folder: to write to.
        out: the output, held by this process.
        options: mergekit's `MergeOptions`.
        progress: told what is done.

    Raises:
        CheckpointError, RecipeError: as `merge_by_mergekit`.
    """
    forget_models()
    models, inputs = plan.models, describe_models(plan.models, plan.recipe)
    here = plan.recipe.configuration()
    serve(plan.recipe.for_mergekit(parts_of(here, models.folders)), models, options)
    with merged_adapters(options, out) as ready:
        merge = _Merge(plan.recipe, ready, models.folders, plan.architecture, inputs, plan.notes)
        brought = merge.run(folder, out.name, progress)
    require_complete(set(plan.infos[models.base]) | brought, models.base, folder)


@dataclass(frozen=True)
class _Merge:
    """A merge that mergekit's engine runs, of models that were looked at.

    Attributes:
        recipe: what to run.
        options: mergekit's, with the merged adapters.
        folders: model, as text → where it lies; the base first.
        architecture: what to plan by.
        inputs: for the manifest.
        notes: of the models.
    """

    recipe: Recipe
    options: Any
    folders: Mapping[str, Path]
    architecture: Architecture
    inputs: Mapping[str, Any]
    notes: Sequence[str] = ()

    def run(self, folder: Path, name: str, progress: Progress) -> set[str]:
        """Merge into `folder`, put everything beside the weights, and look at the result.

        Returns:
            The tensors that adapters have told apart from those that the base ties them to.
        """
        recipe, options = self.recipe, self.options
        config = recipe.configuration()
        carried = carried_files(config, options)
        for note in (*self.notes, *carried.notes):
            progress.say(note)
        # mergekit copies fewer files, and logs a traceback where it cannot.
        changes = {"write_model_card": False, "copy_tokenizer": False}
        here = recipe.for_mergekit(parts_of(config, self.folders))
        here.chat_template = None
        with explained(recipe.where), planned_by(self.architecture.info):
            run_merge(here, folder, options.model_copy(update=changes))
        base = next(iter(self.folders.values()))
        brought = settle_ties(here, options, base, folder)
        _require_finite(folder)
        carried.write(folder)
        is_resized = resizes_vocabulary(config, options)
        complete_config(folder, carried.settings, is_resized=is_resized)
        require_loadable_result(base, folder)
        if options.write_model_card:
            write_card(recipe, folder, name)
        notes = [*recipe.remarks, *self.notes, *carried.notes]
        write_manifest(folder, self.inputs, {}, method=recipe.method, notes=notes)
        return brought


def _require_finite(folder: Path) -> None:
    """mergekit carries NaN and Inf of an input into the result without a word."""
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        return
    reader = open_folder(folder, allow_pickle=True)
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
