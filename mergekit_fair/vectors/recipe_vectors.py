"""The task vectors of a recipe, measured from its models' files, and what its λ makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from mergekit_fair.checkpoints.geometry import (
    Geometry,
    Screened,
    displacement,
    relative_bound,
    screen,
    task_vector_geometry,
    triangle_bound,
)
from mergekit_fair.checkpoints.reader import Reader
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.formula import Coefficients
from mergekit_fair.merging.methods.head_policy import HeadPolicy
from mergekit_fair.merging.methods.measured_products import merged_names
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.registry import is_own, own_method
from mergekit_fair.merging.methods.worst_group_injection import Role, WorstGroupInjection
from mergekit_fair.merging.model_checks import open_models
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.progress import Progress, bar

TARGET = Role.TARGET.value


@dataclass(frozen=True)
class Move:
    """Where a recipe's merge θ₀ + Σ_g λ_g Δ_g lies.

    Attributes:
        lambdas: vector → λ_g, everything that is multiplied with Δ_g (λ, weight, `normalize`).
        lambda_eff: Σ_g λ_g; in an injection without the target's own vector.
        distances: reference → the exact `displacement` from it and its triangle `bound`, in the
            weights' units: from `base` (λ_ref = 0), `balanced` (λ_ref = 1) or `target`.
        relative_bound: U(λ) for a Lipschitz constant of 1; None where no point is balanced.
    """

    lambdas: dict[str, float]
    lambda_eff: float
    distances: dict[str, dict[str, float]]
    relative_bound: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON: `lambda`, `lambda_eff`, `from`, `relative_bound`."""
        return {
            "lambda": self.lambdas,
            "lambda_eff": self.lambda_eff,
            "from": self.distances,
            "relative_bound": self.relative_bound,
        }


@dataclass(frozen=True)
class RecipeVectors:
    """The vectors of a recipe.

    Attributes:
        recipe, method: the file and its method.
        geometry: of all models beside the base, in recipe order.
        models: of the geometry's vectors, as the recipe's configuration names them.
        target: the vector that candidates are injected into; None for other methods.
        screened: the candidates in the order of screening; empty without a target.
        move: None where the result is not a sum of λ_g Δ_g, as `notes` say.
        notes: one sentence each.
    """

    recipe: str
    method: str
    geometry: Geometry
    models: tuple[str, ...]
    target: str | None
    screened: tuple[Screened, ...]
    move: Move | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON: the geometry's keys and `recipe`, `method`, `target`, `norm_over_target`,
        `screening`, `at`, `notes`."""
        content = {"recipe": self.recipe, "method": self.method, **self.geometry.to_dict()}
        if self.target is not None:
            ratios = self.geometry.ratios(self.target)
            content["norm_over_target"] = [float(r) if r == r else None for r in ratios]
        return content | {
            "target": self.target,
            "screening": [one.to_dict() for one in self.screened],
            "at": self.move.to_dict() if self.move else None,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class OpenVectors:
    """The task vectors of a recipe, open for reading.

    Attributes:
        recipe: resolved.
        base: θ₀.
        models: name of the vector → θ, in recipe order: its group, its role, or its folder's name.
        labels: model → the name of its vector.
        names: of the tensors that count.
        plan: of the merge, where the method is one of this package's.
    """

    recipe: Recipe
    base: Reader
    models: Mapping[str, Reader]
    labels: Mapping[str, str]
    names: Sequence[str]
    plan: MergePlan | None

    @property
    def bytes(self) -> int:
        """Of all files that one pass reads."""
        readers = (self.base, *self.models.values())
        return sum(reader.tensors[name].bytes for name in self.names for reader in readers)


@contextmanager
def open_vectors(
    recipe: Recipe, options: Any, progress: Progress, *, allow_pickle: bool = False
) -> Iterator[OpenVectors]:
    """Open and check a recipe's models.

    Heads count as the recipe merges them: all of them, none with `head: base` or `first`. Integer
    tensors never do.

    Args:
        recipe: of any method with a base_model and whole models.
        options: mergekit's `MergeOptions`.
        progress: told what is measured first.
        allow_pickle: as for a merge.

    Raises:
        RecipeError: no base_model, slices or modules, or whatever the method refuses.
        CheckpointError: models that are missing, damaged or do not fit the base.
    """
    recipe = recipe.resolved()
    require_whole(recipe)
    with ExitStack() as stack:
        plan = None
        if is_own(recipe.method):
            opened = MergePlan.open(recipe, options, allow_pickle=allow_pickle, progress=progress)
            plan = stack.enter_context(opened)
            models = plan.models
        else:
            found = open_models(recipe, options, allow_pickle=allow_pickle)
            models = stack.enter_context(found)
        base, *others = models.readers
        labels = vector_labels(recipe, others)
        names = merged_names(models.infos[base], models.heads if _leaves_heads(recipe) else ())
        readers = {labels[model]: models.readers[model] for model in others}
        yield OpenVectors(recipe, models.readers[base], readers, labels, names, plan)


def _leaves_heads(recipe: Recipe) -> bool:
    policy = parameters_of(recipe.raw).get("head", HeadPolicy.MERGE)
    return bool(policy != HeadPolicy.MERGE)


def recipe_vectors(
    recipe: Recipe, options: Any, progress: Progress, *, allow_pickle: bool = False
) -> RecipeVectors:
    """Open a recipe's models and measure their task vectors in one pass.

    Args:
        recipe, options, allow_pickle: as for `open_vectors`.
        progress: a bar over the bytes.

    Raises:
        RecipeError: as `open_vectors`.
        CheckpointError: as `open_vectors`; models that are not finite.
    """
    with open_vectors(recipe, options, progress, allow_pickle=allow_pickle) as vectors:
        with bar(progress, "task vectors", vectors.bytes) as advance:
            geometry = task_vector_geometry(vectors.base, vectors.models, vectors.names, advance)
        recipe, labels, plan = vectors.recipe, vectors.labels, vectors.plan
    target = _target(recipe, labels)
    move = None if plan is None else _move(recipe, plan.coefficients(), geometry, labels, target)
    notes = list(recipe.remarks)
    if move is None:
        notes.append("no displacement: the merge is not a sum of λ_g Δ_g with one λ_g per vector")
    if _leaves_heads(recipe):
        policy = parameters_of(recipe.raw)["head"]
        notes.append(f"heads are left out, because the merge copies them (head: {policy})")
    screened = tuple(screen(geometry, target)) if target is not None else ()
    return RecipeVectors(
        recipe.where,
        recipe.method,
        geometry,
        tuple(labels),
        target,
        screened,
        move,
        tuple(notes),
    )


def require_whole(recipe: Recipe) -> None:
    """Check that a recipe has task vectors: a base, and whole models beside it.

    Raises:
        RecipeError: it has not.
    """
    if not recipe.raw.get("base_model"):
        raise RecipeError(
            "names no base_model, the θ₀ that task vectors start from",
            where=recipe.where,
            fix="add base_model: FOLDER",
        )
    for key in ("slices", "modules"):
        if recipe.raw.get(key):
            raise RecipeError(
                f"task vectors are of whole models, and the recipe has {key}",
                where=recipe.where,
                fix="list the models under models",
            )
    if len(recipe.configuration().referenced_models()) < 2:
        raise RecipeError("names no model beside base_model", where=recipe.where)


def vector_labels(recipe: Recipe, models: list[str]) -> dict[str, str]:
    """Model → its group, else its role, else its folder's name; the model where these clash."""
    items = {str(item.model): item.parameters or {} for item in recipe.configuration().models or ()}
    labels = {}
    for model in models:
        parameters = items.get(model, {})
        label = parameters.get("group") or parameters.get("role") or PurePath(model).name
        labels[model] = str(label)
    names = list(labels.values())
    return {model: model if names.count(name) > 1 else name for model, name in labels.items()}


def _target(recipe: Recipe, labels: Mapping[str, str]) -> str | None:
    for item in recipe.configuration().models or ():
        if (
            recipe.method == WorstGroupInjection.spec.name
            and (item.parameters or {}).get("role") == Role.TARGET
        ):
            return labels[str(item.model)]
    return None


def _move(
    recipe: Recipe,
    coefficients: Coefficients,
    geometry: Geometry,
    labels: Mapping[str, str],
    target: str | None,
) -> Move | None:
    """Where the merge lies, by K; None where it is not a sum of λ_g Δ_g."""
    lambda_eff = coefficients.lambda_eff
    if coefficients.lambdas is None or lambda_eff is None:
        return None
    by_name = dict.fromkeys(geometry.names, 0.0)
    if coefficients.start in labels:
        by_name[labels[coefficients.start]] = 1.0
    for model, value in coefficients.lambdas.items():
        by_name[labels[model]] += value
    lambdas, gram = np.array(list(by_name.values())), geometry.gram
    references = {"base": np.zeros(len(lambdas))}
    # All of a fair head's directions at 1 are no balance of groups.
    is_of_groups = not (is_own(recipe.method) and own_method(recipe.method).adds_differences)
    is_balanced = is_of_groups and recipe.groups().keys() == set(geometry.names)
    if target is not None:
        references[TARGET] = np.array([float(name == target) for name in geometry.names])
    elif is_balanced:
        references["balanced"] = np.ones(len(lambdas))
    distances = {
        name: {
            "displacement": displacement(gram, lambdas - reference),
            "bound": triangle_bound(gram, lambdas - reference),
        }
        for name, reference in references.items()
    }
    bound = relative_bound(gram, lambdas) if "balanced" in references else None
    return Move(by_name, lambda_eff, distances, bound)
