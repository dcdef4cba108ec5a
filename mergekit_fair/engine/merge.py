"""One merge, or one grid of merges, to a folder that appears complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference
from mergekit.merge import run_merge

from mergekit_fair.engine.adapter_cache import merged_adapters
from mergekit_fair.engine.architecture import complete_architecture
from mergekit_fair.engine.companions import copy_companions, write_card, write_config
from mergekit_fair.engine.files import staged_folder
from mergekit_fair.engine.inputs import described, require_unchanged
from mergekit_fair.engine.layout import Shard, index_json, shards
from mergekit_fair.engine.loading import require_loadable
from mergekit_fair.engine.manifest import write_manifest
from mergekit_fair.engine.models import Models, is_tensorwise, opened
from mergekit_fair.engine.norms import norms_for
from mergekit_fair.engine.plan import checked_models, explained, refuse_gradients
from mergekit_fair.engine.program import Program, build
from mergekit_fair.engine.shards import Written
from mergekit_fair.engine.stream import write_weights
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.methods.registry import is_own
from mergekit_fair.progress import Progress, Silent
from mergekit_fair.recipe.recipe import Recipe
from mergekit_fair.recipe.resolve import resolved
from mergekit_fair.weights.folder import INDEX, tensor_infos


@dataclass(frozen=True)
class Settings:
    """What a merge may do beside mergekit's options.

    Attributes:
        overwrite: replace an existing output.
        allow_pickle: read pickled weights where a model has no others.
        hash_inputs: put the SHA-256 of every input file into the manifest.
        lambdas: write one model for each of these λ instead of the recipe's.
        as_adapter: write a LoRA adapter over the base instead of a whole model.
    """

    overwrite: bool = False
    allow_pickle: bool = False
    hash_inputs: bool = False
    lambdas: tuple[float, ...] | None = None
    as_adapter: bool = False


def merge_to_folder(
    recipe: Recipe,
    out: str | Path,
    options: Any,
    settings: Settings = Settings(),
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
        ConfigError: `out` exists and may not be replaced.
        CheckpointError: models that do not fit each other, are damaged or not finite, or a result
            that would not load whole.
        RecipeError: whatever the method or mergekit refuses.
        OSError: the output cannot be written.
    """
    out = Path(out)
    progress = progress or Silent()
    recipe = resolved(recipe)
    for note in recipe.notes:
        progress.say(note)
    if settings.as_adapter:
        from mergekit_fair.engine.adapter_merge import merge_adapters

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
    _by_mergekit(recipe, out, options, settings)


@dataclass(frozen=True)
class Prepared:
    """A merge that was checked as far as it can be without reading the weights.

    Attributes:
        models: open.
        program: what to compute.
        shards: the files of one output.
        has_layers: whether mergekit knows the architecture's layers.
        is_loadable: False if transformers does not know the architecture.
    """

    models: Models
    program: Program
    shards: tuple[Shard, ...]
    has_layers: bool
    is_loadable: bool

    @property
    def bytes_read(self) -> int:
        """Of all models, each tensor once."""
        readers = self.models.readers
        return sum(
            readers[model].tensors[tensor.name].bytes
            for tensor in self.program.tensors
            for model in tensor.models
        )

    @property
    def bytes_written(self) -> int:
        """Of one output."""
        return sum(shard.size for shard in self.shards)


@contextmanager
def prepared(recipe: Recipe, options: Any, settings: Settings, progress: Progress) -> Any:
    """Open, check and plan a tensorwise merge; yields `Prepared`.

    Raises:
        CheckpointError: models that do not fit, or a result that would not load whole.
        RecipeError: whatever the method or mergekit's planner refuses.
    """
    with opened(recipe, options, allow_pickle=settings.allow_pickle) as models:
        names = models.infos[models.base]
        reference = ModelReference.parse(models.base)
        trusted = options.trust_remote_code
        with complete_architecture(reference, names, trust_remote_code=trusted) as has_layers:
            if not has_layers:
                refuse_gradients(recipe.configuration())
            norms = norms_for(recipe, models, progress)
            program = build(recipe, models.infos, lambdas=settings.lambdas, norms=norms)
            is_loadable = require_loadable(models.folders[models.base], names)
            files = shards(program.tensors, options.out_shard_size)
            yield Prepared(models, program, files, has_layers, is_loadable)


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
    _require_complete(set(merge.models.infos[base]), base, place)
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


def _by_mergekit(recipe: Recipe, out: Path, options: Any, settings: Settings) -> None:
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
            _require_complete(set(tensor_infos(base)), base, folder)
        if options.copy_tokenizer and is_checked:
            _require_tokenizer(Path(base), folder)
        if options.write_model_card:
            write_card(recipe, folder, out.name)
        write_manifest(folder, {}, {}, method=recipe.method, notes=list(recipe.notes))


def _require_space(folder: Path, merge: Prepared, count: int) -> None:
    needed, free = merge.bytes_written * count, shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            "there is not enough space for the output",
            where=folder.parent,
            got=f"{free / 1e9:.1f} GB free",
            allowed=f"{needed / 1e9:.1f} GB or more",
            fix="free some space, or choose a folder on another disk",
        )


def _require_complete(expected: set[str], base: object, folder: Path) -> None:
    found = set(tensor_infos(folder))
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
