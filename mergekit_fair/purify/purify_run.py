"""`purify`: checkpoints whose linear layers are cut to low rank, and the recipe over them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mergekit_fair.checkpoints.folder import (
    stored_tensors,
    weight_files,
)
from mergekit_fair.checkpoints.headers import Stored
from mergekit_fair.checkpoints.names import memory_names
from mergekit_fair.checkpoints.reader import Reader, open_folder, read_whole
from mergekit_fair.data import DataSpec, Rows, load_rows
from mergekit_fair.errors import CheckpointError, ConfigError, DataError, FairError
from mergekit_fair.evaluation.classifier import opening, resolve_device
from mergekit_fair.evaluation.model_inputs import ModelInputs, open_inputs, position_limit
from mergekit_fair.evaluation.truncation import length_in
from mergekit_fair.files import is_file_name, staged_folder
from mergekit_fair.merging.manifest import recorded, versions
from mergekit_fair.merging.merge_options import MergeOptions
from mergekit_fair.merging.model_checks import OpenModels, open_models
from mergekit_fair.merging.model_files import describe_input, write_manifest
from mergekit_fair.merging.output_place import require_apart
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_keys import without_measurement
from mergekit_fair.merging.references import local_path, with_models
from mergekit_fair.progress import Progress, bar
from mergekit_fair.purify.layer_inputs import (
    SUMS,
    LinearLayer,
    input_covariances,
    linear_layers,
    open_model,
    passes,
)
from mergekit_fair.purify.low_rank import (
    RIDGE,
    Array,
    directions,
    even_ranks,
    kept_energy,
    output_norm,
    purified,
    spectral_ranks,
)
from mergekit_fair.purify.purified_files import copy_model, overwrite_tensor
from mergekit_fair.purify.purify_results import (
    RECIPE,
    RESULTS,
    Allocation,
    Matrix,
    Purification,
    PurifiedLayer,
    PurifiedModel,
    read_purification,
)
from mergekit_fair.schema import dump_yaml, sealed
from mergekit_fair.vectors.recipe_vectors import require_whole, vector_labels

ROWS = 256  # of each model, where there are as many
_LONGEST = 512  # tokens, where neither model nor tokenizer says less


@dataclass(frozen=True)
class PurifySettings:
    """How to purify.

    Attributes:
        keep: the share of full ranks to keep, in (0, 1]; or `rank`, at least 1.
        allocate: `uniform`; `models`: the models share the ranks of each layer, as published;
            `layers`: the layers of each model share its ranks.
        of: the matrix that is cut: fine-tuned `weights`, as published, or their `vectors` Δ.
        rows: of each model, a random sample; None: 256, or all that there are.
        seed: of that sample.
        batch_size: rows of a forward pass.
        max_length: tokens kept of a text; None: the model's own limit.
    """

    keep: float | None = 0.97
    rank: int | None = None
    allocate: Allocation = "uniform"
    of: Matrix = "weights"
    rows: int | None = None
    seed: int = 0
    batch_size: int = 16
    max_length: int | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.rank is None):
            raise ConfigError("takes a share or a rank, one of the two", where="--keep, --rank")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ConfigError(
                "is no share of the ranks", where="--keep", got=self.keep, allowed="(0, 1]"
            )
        if self.rank is not None and self.rank < 1:
            raise ConfigError(
                "would leave nothing of a layer", where="--rank", got=self.rank, allowed="1 or more"
            )


@dataclass(frozen=True, eq=False)
class _Cut:
    """A layer of a model, taken apart."""

    layer: LinearLayer
    weights: torch.Tensor  # W, as the file has it
    base: torch.Tensor  # W₀
    matrix: torch.Tensor  # M, W or Δ
    covariance: torch.Tensor
    inputs: int
    u: torch.Tensor
    sigma: Array


@dataclass
class _Task:
    """A model of the recipe: its folder, its rows and its place in the output."""

    model: str
    folder: Path
    reader: Reader
    rows: Rows
    group: str | None
    place: str
    notes: list[str] = field(default_factory=list)


def run_purify(
    recipe: Recipe,
    data: DataSpec,
    out: Path,
    settings: PurifySettings,
    progress: Progress,
    *,
    device: str = "auto",
    overwrite: bool = False,
) -> Purification:
    """Write purified checkpoints of a recipe's models, and the recipe over them.

    Of every linear layer with fine-tuned weights W (outputs, inputs), base weights W₀, and
    C = XᵀX/N + εI of what the layer takes in the fine-tuned model itself on unlabelled train rows:

        weights   W' = [W C]_r C⁻¹, so that Δ' = W' − W₀      (arXiv 2510.14697)
        vectors   W' = W₀ + [Δ C]_r C⁻¹, Δ = W − W₀

    where [·]_r keeps the r largest singular values. All else (embeddings, norms, biases, heads,
    convolutions) stays as it was fine-tuned, to the bit. A model whose vector is called by a group
    of the data set takes that group's rows, any other one rows of everybody. Labels are not used.

    Memory is a model, the sums of `layer_inputs.SUMS` bytes at most, and a layer.

    Args:
        recipe: of any method with a base_model and whole models.
        data: with rows of the train split.
        out: the folder to make: models in folders of their own, `recipe.yml`, `purify.json`.
        settings: how.
        progress: told what is done.
        device: torch device.
        overwrite: replace what an earlier run has written.

    Raises:
        ConfigError: `out` is there and may not be replaced.
        DataError: no train rows, or fewer than were asked for.
        RecipeError: no base_model, slices.
        CheckpointError: an adapter or a task vector in the place of a model; models that do not
            fit, are quantised, damaged or not finite.
    """
    recipe = recipe.resolved()
    require_whole(recipe)
    require_apart(recipe, out)
    with ExitStack() as stack:
        folder = stack.enter_context(staged_folder(out, overwrite=overwrite, known=_of_purify))
        options: Any = MergeOptions(quiet=True, trust_remote_code=settings.trust_remote_code)
        models = stack.enter_context(open_models(recipe, options))
        tasks = _tasks(recipe, models, load_rows(data).of("train"), settings, stack)
        run = _Run(models, tasks, settings, resolve_device(device), progress)
        ranks = run.ranks()
        found = {}
        for name, task in tasks.items():
            target = folder / task.place
            copy_model(task.folder, target)
            stored = stored_tensors(target)
            layers = []
            for cut in run.cuts(name):
                rank = ranks[name].get(cut.layer.tensor, 0) or run.even([len(cut.sigma)])[0]
                layers.append(_write(cut, rank, settings.of, stored))
            facts = {"path": str(task.folder.resolve()), "files": describe_input(task.reader.files)}
            write_manifest(target, {task.model: facts}, {}, method="purify", notes=task.notes)
            progress.say(str(out / task.place))
            found[name] = PurifiedModel(
                model=task.model,
                folder=task.place,
                rows=len(task.rows),
                group=task.group,
                layers=layers,
                notes=task.notes,
            )
        result = Purification(
            recipe=recipe.where,
            base=str(recipe.raw["base_model"]),
            data=data.name,
            of=settings.of,
            allocate=settings.allocate,
            keep=settings.keep,
            rank=settings.rank,
            ridge=RIDGE,
            seed=settings.seed,
            models=found,
            versions=versions(),
        )
        content = json.dumps(sealed(result.to_dict()), indent=2, ensure_ascii=False)
        (folder / RESULTS).write_text(f"{content}\n", encoding="utf-8")
        text = dump_yaml(_over(recipe, {task.model: out / task.place for task in tasks.values()}))
        (folder / RECIPE).write_text(text, encoding="utf-8")
    return result


class _Run:
    """The layers of the models, taken apart as often as somebody asks: nothing is kept of them."""

    def __init__(
        self,
        models: OpenModels,
        tasks: Mapping[str, _Task],
        settings: PurifySettings,
        device: str,
        progress: Progress,
    ) -> None:
        self._tasks, self._settings = tasks, settings
        self._device, self._progress = device, progress
        self._base = models.readers[models.base]
        names = memory_names(models.folders[models.base], self._base.tensors)
        self._in_base = names.in_file if names.is_known else {n: n for n in self._base.tensors}

    def even(self, full: list[int]) -> list[int]:
        """Ranks of an even share."""
        return even_ranks(full, self._settings.keep, self._settings.rank)

    def ranks(self) -> dict[str, dict[str, int]]:
        """Model → tensor → its rank; nothing where every layer has its even share."""
        found: dict[str, dict[str, int]] = {name: {} for name in self._tasks}
        if self._settings.allocate == "uniform":
            return found
        spectra: dict[str, dict[tuple[str, str], Array]] = {}
        for name in self._tasks:
            for cut in self.cuts(name):
                by = cut.layer.memory if self._settings.allocate == "models" else name
                spectra.setdefault(by, {})[name, cut.layer.tensor] = cut.sigma
        for shared in spectra.values():
            even = self.even([len(sigma) for sigma in shared.values()])
            ranks = spectral_ranks(list(shared.values()), even)
            for (name, tensor), rank in zip(shared, ranks, strict=True):
                found[name][tensor] = rank
        return found

    def cuts(self, name: str) -> Iterator[_Cut]:
        """The layers of a model: a forward pass, or more where their sums take much memory."""
        task, settings = self._tasks[name], self._settings
        model = open_model(
            str(task.folder), self._device, trust_remote_code=settings.trust_remote_code
        )
        layers, notes = linear_layers(model, task.folder, task.reader.tensors)
        inputs = _inputs(model, task, settings)
        unread = []
        total = len(task.rows) * len(passes(layers, SUMS))
        with bar(self._progress, f"{name}: layers' inputs", total) as advance:
            found = input_covariances(model, layers, inputs, settings.batch_size, advance)
            for layer, covariance, count in found:
                if not float(covariance.diagonal().sum()):
                    unread.append(layer.tensor)
                    continue
                yield self._cut(task, layer, covariance, count)
        if unread:
            notes.append(f"layers that take no inputs on these rows are left alone: {unread[:3]}")
        task.notes = notes

    def _cut(self, task: _Task, layer: LinearLayer, covariance: torch.Tensor, count: int) -> _Cut:
        weights = _matrix(task.reader, layer.tensor, layer, task.model).to(covariance.device)
        there = self._in_base.get(layer.memory, layer.tensor)
        base = _matrix(self._base, there, layer, self._base.name).to(covariance.device)
        matrix = weights if self._settings.of == "weights" else weights - base
        u, sigma = directions(matrix, covariance)
        return _Cut(layer, weights, base, matrix, covariance, count, u, sigma)


def _tasks(
    recipe: Recipe, models: OpenModels, rows: Rows, settings: PurifySettings, stack: ExitStack
) -> dict[str, _Task]:
    """Name of the vector → its model, each with a sample of its rows."""
    _, *others = models.readers
    references = {str(each): each for each in recipe.configuration().referenced_models()}
    labels = vector_labels(recipe, others)
    found = {}
    for number, (model, name) in enumerate(labels.items(), start=1):
        folder = models.folders[model]
        if references[model].lora is not None:
            raise CheckpointError(
                "is a LoRA adapter, and purified weights are those of a whole model",
                where=model,
                fix="merge it into its base first: a recipe of this model alone over its base",
            )
        weight_files(folder)  # of a task vector, or of pickled weights: refused
        reader = open_folder(folder)
        stack.enter_context(closing(reader))
        group = name if name in recipe.groups() and name in rows.group_names else None
        taken = _sample(rows if group is None else rows.in_group(group), settings, name)
        place = name if is_file_name(name) else f"model-{number}"
        found[name] = _Task(model, folder, reader, taken, group, place)
    return found


def _sample(rows: Rows, settings: PurifySettings, name: str) -> Rows:
    wanted = min(ROWS, len(rows)) if settings.rows is None else settings.rows
    if not 0 < wanted <= len(rows):
        raise DataError(
            f"there are fewer train rows for {name} than it takes",
            where="--rows",
            got=wanted or None,
            allowed=f"up to {len(rows):,}",
            fix="ask for fewer, or give the split more",
        )
    chosen = np.random.default_rng(settings.seed).permutation(len(rows))[:wanted]
    return rows.take(np.sort(chosen))


def _inputs(model: Any, task: _Task, settings: PurifySettings) -> ModelInputs:
    limits = (position_limit(model), settings.max_length or length_in(task.folder))
    length = min(filter(None, limits), default=_LONGEST)
    with opening(task.folder):
        return open_inputs(task.rows, task.folder, length)


def _matrix(reader: Reader, name: str, layer: LinearLayer, where: str) -> torch.Tensor:
    """A layer's weights (outputs, inputs) in float64.

    Raises:
        CheckpointError: they are not finite.
    """
    tensor = read_whole(reader, name).to(torch.float64)
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"tensor {name} has NaN or Inf", where=where, fix="train or save the model again"
        )
    return tensor.T if layer.is_transposed else tensor


def _write(cut: _Cut, rank: int, of: Matrix, stored: Mapping[str, Stored]) -> PurifiedLayer:
    """Put a layer's purified weights in the place of its own."""
    full = len(cut.sigma)
    rank = min(rank, full)
    after = cut.weights
    if rank < full:
        after = purified(cut.matrix, cut.u, rank)
        after = after if of == "weights" else cut.base + after
        overwrite_tensor(stored[cut.layer.tensor], after.T if cut.layer.is_transposed else after)
    moved = output_norm(cut.weights - cut.base, cut.covariance)
    lost = output_norm(cut.weights - after, cut.covariance)
    return PurifiedLayer(
        tensor=cut.layer.tensor,
        shape=list(cut.matrix.shape),
        rank=rank,
        full_rank=full,
        energy=kept_energy(cut.sigma, rank),
        error=lost / moved if moved else None,
        inputs=cut.inputs,
    )


def _over(recipe: Recipe, places: Mapping[str, Path]) -> dict[str, Any]:
    """The recipe with purified models in the place of its own; the base stays."""
    known = {local_path(model): place for model, place in places.items()}

    def changed(model: str, key: str) -> str:
        place = known.get(local_path(model))
        return model if place is None or key == "base_model" else str(place)

    return with_models(without_measurement(recipe.raw), changed)


def _of_purify(folder: Path) -> Iterable[str]:
    """What an earlier run has written, which another one may replace."""
    try:
        places = [each.folder for each in read_purification(folder).models.values()]
    except FairError:
        return ()
    return [
        RESULTS,
        RECIPE,
        *(f"{each}/{name}" for each in places for name in recorded(folder / each)),
    ]
