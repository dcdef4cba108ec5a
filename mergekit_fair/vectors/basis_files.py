"""A basis on the disk: checkpoints θ₀ + s_m that any merge can use, and `basis.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mergekit_fair.checkpoints.geometry import residuals, task_vector_gram
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.files import staged_folder, text_of, write_atomic
from mergekit_fair.merging.manifest import recorded, versions
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.subgroup_task_addition import addition_recipe
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_grid
from mergekit_fair.progress import Progress, bar
from mergekit_fair.schema import parse_json
from mergekit_fair.vectors.basis_fit import Fit, Method, fit, spectral_bound, task_errors
from mergekit_fair.vectors.recipe_vectors import open_vectors

NAME = "basis.json"
_VECTORS = "vectors"
# Keys of a recipe that decide what the checkpoints of a basis are.
_KEPT = ("base_model", "dtype", "out_dtype", "tokenizer", "tokenizer_source", "chat_template")


class Basis(BaseModel):
    """The content of basis.json.

    Attributes:
        method: how it was fitted.
        base: θ₀, as the recipe named it.
        head: what the recipe does with classification heads; recipes over the basis do the same.
        tasks: names of the T task vectors: groups, or folders' names.
        models: task → the model that it was.
        vectors: the kept checkpoints θ₀ + s_m, relative to the folder; the mean μ last.
        mixing: (T, kept): what each kept vector is made of.
        weights: W, (M, T).
        has_mean: whether the last kept vector is the mean.
        gram: K of the tasks, (T, T).
        errors: ‖Δ_t − v̂_t‖² of every task, by the solution.
        stored_errors: the same, measured on the written files, whose dtype has rounded.
        bound: Σ_{m > kept} eig_m(K), below which no basis of this size gets.
        bytes: of the files with weights of the `tasks` (of an adapter, its own) and `vectors`.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    method: Method
    seed: int
    base: str
    head: str
    tasks: list[str]
    models: dict[str, str]
    vectors: list[str]
    mixing: list[list[float]]
    weights: list[list[float]]
    has_mean: bool
    gram: list[list[float]]
    errors: list[float]
    stored_errors: list[float]
    bound: float
    bytes: dict[str, int]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        tasks, stored = len(self.tasks), len(self.vectors)
        shapes = {
            "mixing": (np.shape(self.mixing), (tasks, stored)),
            "weights": (np.shape(self.weights), (stored - self.has_mean, tasks)),
            "gram": (np.shape(self.gram), (tasks, tasks)),
            "errors": (np.shape(self.errors), (tasks,)),
            "stored_errors": (np.shape(self.stored_errors), (tasks,)),
        }
        wrong = [name for name, (shape, wanted) in shapes.items() if shape != wanted]
        if wrong:
            raise ValueError(f"{wrong[0]} has another shape than tasks and vectors say")
        return self

    @property
    def fit(self) -> Fit:
        size = len(self.vectors) - self.has_mean
        mixing = np.asarray(self.mixing)[:, :size]
        return Fit(self.method, mixing, np.asarray(self.weights), self.has_mean)

    @property
    def total(self) -> float:
        """‖V‖²_F."""
        return float(np.trace(np.asarray(self.gram)))


def load_basis(folder: Path) -> Basis:
    """The basis in a folder.

    Raises:
        CheckpointError: there is none, or basis.json is damaged.
    """
    path = folder / NAME
    fix = "give a folder that `mergekit-fair basis build` has written"
    try:
        return Basis.model_validate(parse_json(text_of(path)))
    except FileNotFoundError as error:
        raise CheckpointError(f"has no {NAME}", where=folder, fix=fix) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"is damaged ({key}: {first['msg']})", where=path, fix=fix) from error
    except ValueError as error:
        raise CheckpointError(f"is damaged ({error})", where=path, fix=fix) from error


def build_basis(
    recipe: Recipe,
    out: Path,
    options: Any,
    settings: MergeSettings,
    progress: Progress,
    *,
    method: Method = Method.AUTOENCODER,
    size: int | None = None,
    seed: int = 0,
) -> Basis:
    """Compress the task vectors of a recipe's models.

    One pass over the models for K, one that writes the kept vectors, and one over all that measures
    what was written. Memory is that of a merge.

    Args:
        recipe: of any method; its models beside the base are the tasks.
        out: the folder to make.
        options: mergekit's `MergeOptions`.
        settings: `overwrite`, `allow_pickle`.
        progress: told what is done.
        method, size, seed: of `mergekit_fair.vectors.basis_fit.fit`.

    Raises:
        ConfigError: `out` exists, or `size` is out of range.
        RecipeError: no base, slices, or fewer than two models.
        CheckpointError: models that do not fit each other, are damaged or not finite.
    """
    with staged_folder(out, overwrite=settings.overwrite, known=_recorded) as folder:
        with (
            open_vectors(recipe, options, progress, allow_pickle=settings.allow_pickle) as vectors,
            bar(progress, "task vectors", vectors.bytes) as advance,
        ):
            readers, tasks = list(vectors.models.values()), list(vectors.models)
            gram = task_vector_gram(vectors.base, readers, vectors.names, advance)
        models = _models(recipe, tasks)
        solution = fit(gram, size, method, seed=seed)
        names = _names(solution)
        merges = {
            name: _merge(recipe, models, amounts)
            for name, amounts in zip(names, solution.stored_mixing.T, strict=True)
        }
        fresh = MergeSettings(allow_pickle=settings.allow_pickle)
        merge_grid(merges, folder / _VECTORS, options, fresh, progress)
        stored = [f"{_VECTORS}/{name}" for name in names]
        for vector in stored:
            progress.say(f"{out / vector}")
        written = [str(folder / vector) for vector in stored]
        off = _stored_errors(recipe, models, written, solution, options, settings, progress)
        basis = Basis(
            method=method,
            seed=seed,
            base=str(recipe.raw["base_model"]),
            head=_head(recipe),
            tasks=tasks,
            models=models,
            vectors=stored,
            mixing=solution.stored_mixing.tolist(),
            weights=solution.weights.tolist(),
            has_mean=solution.has_mean,
            gram=gram.tolist(),
            errors=task_errors(gram, solution).tolist(),
            stored_errors=off.tolist(),
            bound=spectral_bound(gram, solution.stored),
            bytes={
                "tasks": sum(_size(model) for model in models.values()),
                "vectors": sum(map(_size, written)),
            },
            versions=versions(),
        )
        text = json.dumps(basis.model_dump(mode="json"), indent=2, ensure_ascii=False)
        write_atomic(folder / NAME, text + "\n")
    return basis


def _recorded(folder: Path) -> list[str]:
    """What basis.json and the manifests of its vectors list."""
    try:
        vectors = load_basis(folder).vectors
    except (CheckpointError, OSError):
        return []
    return [NAME, *(f"{each}/{name}" for each in vectors for name in recorded(folder / each))]


def _models(recipe: Recipe, names: Sequence[str]) -> dict[str, str]:
    """Task → model, in the order of the geometry, which is the recipe's without the base."""
    others = [str(item.model) for item in recipe.configuration().models or ()]
    others = [model for model in others if model != str(recipe.configuration().base_model)]
    if len(others) != len(names):
        raise RecipeError(
            "a basis is made of models that are listed once each", where=recipe.where, got=others
        )
    return dict(zip(names, others, strict=True))


def _size(model: str) -> int:
    folder = Path(model.split("+")[-1])
    files = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    return sum(file.stat().st_size for file in files)


def _names(solution: Fit) -> list[str]:
    count = solution.mixing.shape[1]
    width = len(str(count))
    return [f"{number:0{width}}" for number in range(1, count + 1)] + ["mean"] * solution.has_mean


def _head(recipe: Recipe) -> str:
    return str(parameters_of(recipe.raw).get("head", "merge"))


def _merge(recipe: Recipe, models: dict[str, str], amounts: NDArray[np.float64] | None) -> Recipe:
    """θ₀ + Σ_t amounts_t Δ_t, with the recipe's dtype and head."""
    weights = np.ones(len(models)) if amounts is None else amounts
    vectors = {
        model: (name, float(weight))
        for (name, model), weight in zip(models.items(), weights, strict=True)
    }
    raw = addition_recipe(str(recipe.raw["base_model"]), vectors, None, lambda_=1.0)
    raw["parameters"]["head"] = _head(recipe)
    return Recipe.from_mapping(
        raw | {key: recipe.raw[key] for key in _KEPT if key in recipe.raw}, recipe.where
    )


def _stored_errors(
    recipe: Recipe,
    models: dict[str, str],
    written: list[str],
    solution: Fit,
    options: Any,
    settings: MergeSettings,
    progress: Progress,
) -> NDArray[np.float64]:
    """‖Δ_t − Σ_m C_mt s̃_m‖² with the vectors s̃ as they are on the disk: one more pass."""
    both = _merge(recipe, {**models, **{f"basis vector {each}": each for each in written}}, None)
    weights = np.stack([solution.coefficients(row) for row in np.eye(len(models))], axis=1)
    with (
        open_vectors(both, options, progress, allow_pickle=settings.allow_pickle) as vectors,
        bar(progress, "what the basis leaves out", vectors.bytes) as advance,
    ):
        readers = list(vectors.models.values())
        tasks, stored = readers[: len(models)], readers[len(models) :]
        return residuals(vectors.base, tasks, stored, weights, vectors.names, advance)
