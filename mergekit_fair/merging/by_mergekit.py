"""Recipes that mergekit runs itself: its own methods, slices, tokenizers to build."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.common import ModelReference
from mergekit.merge import run_merge

from mergekit_fair.checkpoints.adapter_config import raw_config, require_mergeable
from mergekit_fair.checkpoints.folder import digest_of
from mergekit_fair.checkpoints.lora import UNTIE, refuse_ties
from mergekit_fair.checkpoints.reader import open_folder, read_whole
from mergekit_fair.compat.mergekit import forget_models
from mergekit_fair.compat.peft import adapter_report
from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import staged_folder
from mergekit_fair.merging.architecture import Architecture
from mergekit_fair.merging.carried_files import carried_files
from mergekit_fair.merging.gate import planned_by
from mergekit_fair.merging.model_checks import located, open_models, parts_of, stock_models
from mergekit_fair.merging.model_files import (
    describe_input,
    describe_models,
    write_card,
    write_manifest,
)
from mergekit_fair.merging.parameters import explained
from mergekit_fair.merging.plan import MergePlan, planned_architecture
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import OrderedConfiguration, Recipe
from mergekit_fair.merging.result_checks import require_complete, require_loadable_result
from mergekit_fair.merging.saved_config import complete_config
from mergekit_fair.merging.ties import apart_in, separate_ties
from mergekit_fair.progress import Progress

# Of what peft and transformers say of an adapter.
_LONGEST = 400
# What they say where the base is another one.
_OTHER_BASE = ("size mismatch", "missing adapter keys", "Target modules")


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
        staged_folder(out, overwrite=settings.overwrite) as folder,
        merged_adapters(recipe.configuration(), options, out) as ready,
    ):
        models = stock_models(recipe, ready, allow_pickle=settings.allow_pickle)
        inputs = {
            model: {"path": str(path.resolve()), "files": describe_input(models.files[model])}
            for model, path in models.folders.items()
        }
        merge = _Merge(recipe, ready, models.folders, models.architecture, inputs)
        merge.run(folder, out.name, progress)


def merge_slices(
    recipe: Recipe, out: Path, options: Any, settings: MergeSettings, progress: Progress
) -> None:
    """The same for a recipe of this package's methods with slices or modules, all checked before.

    Raises:
        ConfigError, CheckpointError, RecipeError: as `merge_by_mergekit`; models that do not fit
            the base.
    """
    with (
        staged_folder(out, overwrite=settings.overwrite) as folder,
        open_models(recipe, options, allow_pickle=settings.allow_pickle) as models,
        merged_adapters(recipe.configuration(), options, out) as ready,
    ):
        forget_models()
        architecture = planned_architecture(recipe, models, options)
        inputs = describe_models(models)
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
    models, inputs = plan.models, describe_models(plan.models)
    with merged_adapters(plan.recipe.configuration(), options, out) as ready:
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
        here = recipe.configuration(parts_of(config, self.folders))
        here.chat_template = None
        with explained(recipe.where), planned_by(self.architecture.info):
            run_merge(here, str(folder), options.model_copy(update=changes))
        base = next(iter(self.folders.values()))
        brought = _require_brought(config, options, base, folder)
        _require_finite(folder)
        carried.write(folder)
        complete_config(folder, carried.settings)
        require_loadable_result(base, folder)
        if options.write_model_card:
            write_card(recipe, folder, name)
        notes = [*recipe.remarks, *self.notes, *carried.notes]
        write_manifest(folder, self.inputs, {}, method=recipe.method, notes=notes)
        return brought


@contextmanager
def merged_adapters(config: OrderedConfiguration, options: Any, out: Path) -> Iterator[Any]:
    """Options whose `lora_merge_cache` holds the recipe's adapters merged into their bases.

    mergekit knows an adapter in `--lora-merge-cache` by its path alone and takes any folder there
    for complete: a retrained adapter at the same path gives the old result, a killed merge a half
    one. Here each set of adapters has a folder named by what is in it, which appears whole or not
    at all.

    Without `--lora-merge-cache`, they lie beside the output until the merge is done.

    Args:
        config: the recipe.
        options: mergekit's `MergeOptions`.
        out: the output, held by this process.

    Raises:
        CheckpointError: an adapter that is not found, or that peft cannot merge.
        ConfigError: another process is merging the same adapters.
    """
    adapted = [model for model in config.referenced_models() if model.lora is not None]
    if not adapted:
        yield options
        return
    temporary = out.parent / f".{out.name}.adapters"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        cache = Path(options.lora_merge_cache or temporary) / _digest(adapted, options)
        if not cache.is_dir():
            with staged_folder(cache) as folder:
                for model in adapted:
                    _merge(model, folder, options)
        yield options.model_copy(update={"lora_merge_cache": str(cache)})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _digest(adapted: Sequence[ModelReference], options: Any) -> str:
    """Of the adapters' content, and of their bases' files as `digest_of` sees them."""
    digest = hashlib.sha256(str(options.lora_merge_dtype).encode())
    for model in adapted:
        base = located(ModelReference(model=model.model), options)
        adapter = located(ModelReference(model=model.lora), options)
        require_mergeable(raw_config(adapter), adapter)
        refuse_ties(adapter, base)
        digest.update(f"{model}\n".encode())
        patterns = ("*.safetensors", "*.bin", "*.index.json", "config.json")
        files = [file for pattern in patterns for file in sorted(base.glob(pattern))]
        digest.update(digest_of(files).encode())
        for file in sorted(adapter.glob("adapter_*")):
            digest.update(f"{file.name}\n".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _merge(model: ModelReference, folder: Path, options: Any) -> None:
    """Into `folder`, under the name that mergekit looks for."""
    try:
        with warnings.catch_warnings(), adapter_report() as unused:
            # peft would fill what it does not find with its own beginning, and go on.
            warnings.filterwarnings("error", message=".*missing adapter keys")
            model.merged(
                cache_dir=str(folder),
                trust_remote_code=options.trust_remote_code,
                lora_merge_dtype=options.lora_merge_dtype,
            )
    except Exception as error:  # peft and transformers raise whatever the files make them raise
        text = " ".join(str(error).split())
        raise CheckpointError(
            f"peft cannot merge the adapter into its base ({text or repr(error)})"[:_LONGEST],
            where=model,
            fix="give the base that it was trained on"
            if any(sign in text for sign in _OTHER_BASE)
            else None,
        ) from error
    if unused:
        raise CheckpointError(
            f"peft leaves out {len(unused)} tensors of the adapter, for modules that the base does "
            "not have",
            where=model,
            got=sorted(unused)[:3],
            fix="give the base that it was trained on, as the architecture that it was trained as",
        )


def _require_brought(
    config: OrderedConfiguration, options: Any, base: Path, folder: Path
) -> set[str]:
    """The tensors that adapters have told apart from those that the base ties them to.

    Raises:
        CheckpointError: they are not in the merged model.
    """
    if not any(model.lora for model in config.referenced_models()):
        return set()
    brought = apart_in(Path(options.lora_merge_cache), base)
    with closing(open_folder(folder, allow_pickle=True)) as reader:
        lost = sorted(brought - reader.tensors.keys())
    if lost:
        raise CheckpointError(
            f"adapters hold {lost[0]} apart from the tensor that the base ties it to, and mergekit "
            "would leave it out",
            where=base,
            fix=UNTIE,
        )
    separate_ties(folder)
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
