"""A recipe over tasks becomes a recipe over basis vectors: arithmetic in coefficient space.

    Σ_t a_t v̂_t = S (W a) + μ Σ_t a_t

Tasks are found by name, never by place.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.subgroup_task_addition import addition_recipe
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_coefficients import recipe_coefficients
from mergekit_fair.schema import dump_yaml
from mergekit_fair.vectors.basis_files import Basis


def apply_basis(basis: Basis, folder: Path, recipe: Recipe) -> str:
    """The recipe in which every task vector is replaced by its reconstruction.

    Its own models are neither opened nor needed. λ stays λ, except for an injection, whose λ is
    part of the weights.

    Args:
        basis: from `load_basis`.
        folder: where it lies; written into the recipe as it is given.
        recipe: over the basis's tasks, of a method whose result is a sum of λ_g Δ_g.

    Returns:
        YAML of a `subgroup_task_addition`.

    Raises:
        RecipeError: no such sum (gradients, filters, sparsity, `normalize: norm`, a median),
            another base or treatment of heads, or a task that the basis does not have.
    """
    amounts, scale = _amounts(recipe)
    head = str(parameters_of(recipe.raw).get("head", "merge"))
    if head != basis.head:
        raise RecipeError(
            "the basis was built with another treatment of heads",
            where=f"{recipe.where}: head",
            got=head,
            allowed=basis.head,
        )
    base = str(recipe.raw["base_model"])
    if Path(base).resolve() != Path(basis.base).resolve():
        raise RecipeError(
            "the basis was built over another base",
            where=f"{recipe.where}: base_model",
            got=base,
            allowed=basis.base,
        )
    for name in amounts:
        if name not in basis.tasks:
            raise RecipeError(
                "the basis has no such task", where=recipe.where, got=name, allowed=basis.tasks
            )
    vector = np.array([amounts.get(name, 0.0) for name in basis.tasks])
    weights = basis.fit.coefficients(vector)
    vectors = {
        str(folder / name): (Path(name).name, float(weight))
        for name, weight in zip(basis.vectors, weights, strict=True)
    }
    raw = addition_recipe(base, vectors, None, lambda_=scale)
    raw["parameters"]["head"] = head
    raw |= {key: recipe.raw[key] for key in ("dtype", "out_dtype") if key in recipe.raw}
    return dump_yaml(raw)


def _amounts(recipe: Recipe) -> tuple[dict[str, float], float]:
    """Task → a_t, and λ: the merge is θ₀ + λ Σ_t a_t Δ_t."""
    at_one = _at_one(recipe)
    coefficients = recipe_coefficients(at_one)
    config = recipe.configuration()
    is_moved = coefficients.start != str(config.base_model)
    if is_moved:  # the target's vector is not multiplied with λ
        coefficients = recipe_coefficients(recipe)
    if coefficients.lambdas is None:
        raise _no_sum(recipe)
    names = _names(recipe)
    amounts = dict.fromkeys(names.values(), 0.0)
    if is_moved:
        amounts[names[coefficients.start]] = 1.0
    for model, value in coefficients.lambdas.items():
        amounts[names[model]] += value
    scale = parameters_of(recipe.raw).get("lambda", 1.0)
    return amounts, 1.0 if is_moved else float(scale)


def _at_one(recipe: Recipe) -> Recipe:
    if isinstance(parameters_of(recipe.raw).get("lambda"), (list, dict)):
        raise _no_sum(recipe)
    return recipe.resolved().with_settings({"lambda": 1.0})


def _no_sum(recipe: Recipe) -> RecipeError:
    return RecipeError(
        "is not a sum of whole task vectors with one number each: no basis can stand for it",
        where=recipe.where,
        got=recipe.method,
        fix="leave out gradients, filters, density, sign_election and normalize: norm",
    )


def _names(recipe: Recipe) -> dict[str, str]:
    """Model → the name that `build_basis` gives it: its group, its role, or its folder's name."""
    names: dict[str, str] = {}
    for raw, item in zip(
        recipe.raw.get("models") or (), recipe.configuration().models or (), strict=True
    ):
        parameters = parameters_of(raw)
        model = str(raw["model"])
        name = str(parameters.get("group") or parameters.get("role") or Path(model).name)
        if name in names.values():
            raise RecipeError(
                "two models go by one name",
                where=recipe.where,
                got=name,
                fix="give each its parameters.group",
            )
        names[str(item.model)] = name
    return names
