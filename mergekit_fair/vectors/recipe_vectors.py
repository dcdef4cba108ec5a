"""The task vectors of a recipe, measured from its models' files, and what its λ makes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from mergekit.common import ModelReference

from mergekit_fair.checkpoints.geometry import (
    Geometry,
    Screened,
    displacement,
    relative_bound,
    screen,
    task_vector_geometry,
    triangle_bound,
)
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.architecture import complete_architecture
from mergekit_fair.merging.mergekit_plan import refuse_gradients
from mergekit_fair.merging.methods.formula import Formula
from mergekit_fair.merging.methods.graph_norms import merged_names
from mergekit_fair.merging.methods.head_policy import HeadPolicy
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.methods.worst_group_injection import Role
from mergekit_fair.merging.open_models import Models, opened
from mergekit_fair.merging.program import build
from mergekit_fair.merging.recipe import Recipe, lambda_eff
from mergekit_fair.merging.resolve import resolved
from mergekit_fair.progress import Progress

TARGET, INJECTION = "target", "worst_group_injection"


@dataclass(frozen=True)
class Move:
    """Where a recipe's merge θ₀ + Σ_g λ_g Δ_g lies.

    Attributes:
        lambdas: vector → λ_g, everything that is multiplied with Δ_g (λ, weight, `normalize`).
        lambda_eff: Σ_g λ_g as sweeps report it: λ · Σ weights, before vectors are brought to one
            norm.
        distances: reference → the exact `displacement` from it and its triangle `bound`, in the
            weights' units: from `base` (λ_ref = 0), `balanced` (λ_ref = 1) or `target`.
        relative_bound: U(λ) for a Lipschitz constant of 1; None where no point is balanced.
    """

    lambdas: dict[str, float]
    lambda_eff: float | None
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
        target: the vector that candidates are injected into; None for other methods.
        screened: the candidates in the order of screening; empty without a target.
        move: None where the result is no sum of λ_g Δ_g, as `notes` say.
        notes: one sentence each.
    """

    recipe: str
    method: str
    geometry: Geometry
    target: str | None
    screened: tuple[Screened, ...]
    move: Move | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON: the geometry's keys and `recipe`, `method`, `target`, `norm_over_target`,
        `screening`, `at`, `notes`."""
        found = {"recipe": self.recipe, "method": self.method, **self.geometry.to_dict()}
        if self.target is not None:
            ratios = self.geometry.ratios(self.target)
            found["norm_over_target"] = [float(r) if r == r else None for r in ratios]
        return found | {
            "target": self.target,
            "screening": [one.to_dict() for one in self.screened],
            "at": self.move.to_dict() if self.move else None,
            "notes": list(self.notes),
        }


def recipe_vectors(
    recipe: Recipe, options: Any, progress: Progress, *, allow_pickle: bool = False
) -> RecipeVectors:
    """Open a recipe's models and measure their task vectors in one pass.

    Heads count as the recipe merges them: all of them, none with `head: base` or `first`. Integer
    tensors never do.

    Args:
        recipe: of any method with a base_model and whole models.
        options: mergekit's `MergeOptions`.
        progress: a bar over the bytes.
        allow_pickle: as for a merge.

    Raises:
        RecipeError: no base_model, slices or modules, or whatever the method refuses.
        CheckpointError: models that are missing, damaged, not finite or do not fit the base.
    """
    recipe = resolved(recipe)
    _require_whole(recipe)
    with opened(recipe, options, allow_pickle=allow_pickle) as models:
        base, *others = models.readers
        labels = _labels(recipe, others)
        policy = (recipe.raw.get("parameters") or {}).get("head", HeadPolicy.MERGE)
        names = merged_names(models.infos[base], merges_head=policy == HeadPolicy.MERGE)
        geometry = _measured(models, labels, names, progress)
        target, move = _target(recipe, labels), None
        if is_own(recipe.method):
            norms = dict(zip(others, map(float, geometry.norms), strict=True))
            formulas = _formulas(recipe, models, options, norms, set(names))
            move = _move(recipe, formulas, geometry, labels, target)
    notes = list(recipe.notes)
    if move is None:
        notes.append("no displacement: the merge is no sum of λ_g Δ_g with one λ_g for each vector")
    if policy != HeadPolicy.MERGE:
        notes.append(f"heads are left out, because the merge copies them (head: {policy})")
    screened = tuple(screen(geometry, target)) if target is not None else ()
    return RecipeVectors(
        recipe.where, recipe.method, geometry, target, screened, move, tuple(notes)
    )


def _measured(
    models: Models, labels: Mapping[str, str], names: list[str], progress: Progress
) -> Geometry:
    base, *others = models.readers
    readers = {labels[model]: models.readers[model] for model in others}
    total = sum(models.infos[model][name].bytes for name in names for model in models.readers)
    progress.start("task vectors", total)
    try:
        return task_vector_geometry(models.readers[base], readers, names, progress.advance)
    finally:
        progress.stop()


def _require_whole(recipe: Recipe) -> None:
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


def _labels(recipe: Recipe, models: list[str]) -> dict[str, str]:
    """Model → its group, else its role, else its folder's name; the model where these clash."""
    items = {str(item.model): item.parameters or {} for item in recipe.configuration().models or ()}
    found = {}
    for model in models:
        own = items.get(model, {})
        found[model] = str(own.get("group") or own.get("role") or PurePath(model).name)
    names = list(found.values())
    return {model: model if names.count(name) > 1 else name for model, name in found.items()}


def _target(recipe: Recipe, labels: Mapping[str, str]) -> str | None:
    for item in recipe.configuration().models or ():
        if recipe.method == INJECTION and (item.parameters or {}).get("role") == Role.TARGET:
            return labels[str(item.model)]
    return None


def _formulas(
    recipe: Recipe,
    models: Models,
    options: Any,
    norms: Mapping[str, float],
    names: Collection[str],
) -> set[Formula]:
    """What the merge makes of the tensors `names`: one formula if it treats them all alike."""
    infos, trusted = models.infos, options.trust_remote_code
    reference = ModelReference.parse(models.base)
    with complete_architecture(
        reference, infos[models.base], trust_remote_code=trusted
    ) as has_layers:
        if not has_layers:
            refuse_gradients(recipe.configuration())
        tensors = build(recipe, infos, options, norms=norms).tensors
    return {tensor.formula for tensor in tensors if tensor.name in names}


def _move(
    recipe: Recipe,
    formulas: Collection[Formula],
    geometry: Geometry,
    labels: Mapping[str, str],
    target: str | None,
) -> Move | None:
    """The λ_g that all tensors share, and what K says of them; None where there are none."""
    if len(formulas) != 1 or not all(f.is_linear or not f.moves for f in formulas):
        return None
    (formula,) = formulas
    found = dict.fromkeys(geometry.names, 0.0)
    if formula.start != formula.base:
        found[labels[str(formula.start)]] = 1.0
    for term in formula.terms if formula.moves else ():
        found[labels[str(term.model)]] += formula.scale * term.weight
    lambdas, gram = np.array(list(found.values())), geometry.gram
    references = {"base": np.zeros(len(lambdas))}
    is_balanced = recipe.groups().keys() == set(geometry.names)
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
    return Move(found, lambda_eff(recipe.raw), distances, bound)
