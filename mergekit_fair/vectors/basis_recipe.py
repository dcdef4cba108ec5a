"""A recipe over tasks becomes a recipe over basis vectors: arithmetic in coefficient space.

    Σ_t a_t v̂_t = S (W a) + μ Σ_t a_t

Tasks are found by name, never by place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.schema import dump_yaml
from mergekit_fair.vectors.basis_files import Basis

_METHODS = ("subgroup_task_addition", "task_negation", "worst_group_injection")


def apply_basis(basis: Basis, folder: Path, recipe: Recipe) -> str:
    """The recipe in which every task vector is replaced by its reconstruction.

    Its own models are neither opened nor needed. λ stays λ, except for an injection, whose λ is
    part of the weights.

    Args:
        basis: from `load_basis`.
        folder: where it lies; written into the recipe as it is given.
        recipe: `subgroup_task_addition` (`normalize: sum | mean`), `task_negation` or
            `worst_group_injection` over the basis's tasks.

    Returns:
        YAML of a `subgroup_task_addition`.

    Raises:
        RecipeError: another method or base, a task that the basis does not have, gradients,
            filters, sparsity, `normalize: norm`, or another treatment of heads.
    """
    amounts, scale = _amounts(recipe)
    _require_plain(recipe)
    head = str((recipe.raw.get("parameters") or {}).get("head", "merge"))
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
    coefficients = basis.fit.coefficients(vector)
    raw: dict[str, Any] = {
        "merge_method": "subgroup_task_addition",
        "base_model": base,
        "models": [
            {
                "model": str(folder / place),
                "parameters": {"group": Path(place).name, "weight": float(weight)},
            }
            for place, weight in zip(basis.vectors, coefficients, strict=True)
        ],
        "parameters": {"lambda": scale, "normalize": "sum", "head": head},
    }
    raw |= {key: recipe.raw[key] for key in ("dtype", "out_dtype") if key in recipe.raw}
    return dump_yaml(raw)


def _amounts(recipe: Recipe) -> tuple[dict[str, float], float]:
    """Task → a_t, and λ: the merge is θ₀ + λ Σ_t a_t Δ_t."""
    parameters = recipe.raw.get("parameters") or {}
    scale = _number(parameters.get("lambda", 1.0), recipe, "lambda")
    items = _items(recipe)
    if recipe.method == "subgroup_task_addition":
        weights = {
            name: _number(own.get("weight", parameters.get("weight", 1.0)), recipe, "weight")
            for name, own in items.items()
        }
        if parameters.get("normalize", "sum") == "mean":
            weights = {name: weight / len(weights) for name, weight in weights.items()}
        return weights, scale
    if recipe.method == "task_negation":
        return dict.fromkeys(items, -1.0), scale
    if recipe.method == "worst_group_injection":
        worst = str(parameters.get("worst"))
        target = next(name for name, own in items.items() if own.get("role") == "target")
        if worst not in items:
            raise RecipeError(
                "worst must be a group's name here",
                where=recipe.where,
                got=worst,
                fix="write the group that `mergekit-fair check` resolves it to",
            )
        found = {target: 1.0}
        found[worst] = found.get(worst, 0.0) + scale
        return found, 1.0
    raise RecipeError(
        "this method is no sum of task vectors that a basis can stand for",
        where=recipe.where,
        got=recipe.method,
        allowed=_METHODS,
    )


def _items(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Name → parameters of every model."""
    found: dict[str, dict[str, Any]] = {}
    for item in recipe.raw.get("models") or ():
        name = _name(item)
        if name in found:
            raise RecipeError(
                "two models go by one name",
                where=recipe.where,
                got=name,
                fix="give each its parameters.group",
            )
        found[name] = item.get("parameters") or {}
    return found


def _name(item: dict[str, Any]) -> str:
    """As `build_basis` names the model: its group, its role, or its folder's name."""
    own = item.get("parameters") or {}
    return str(own.get("group") or own.get("role") or Path(str(item["model"])).name)


def _number(value: Any, recipe: Recipe, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecipeError(
            "gradients and filters cannot go through a basis",
            where=f"{recipe.where}: {key}",
            got=value,
            allowed="a number",
        )
    return float(value)


def _require_plain(recipe: Recipe) -> None:
    """Nothing that looks at single elements or at the vectors' norms."""
    blocks = [recipe.raw.get("parameters") or {}]
    blocks += [item.get("parameters") or {} for item in recipe.raw.get("models") or ()]
    for block in blocks:
        for key, plain in (("density", 1), ("sign_election", "none"), ("normalize", None)):
            value = block.get(key, plain)
            if value != plain and not (key == "normalize" and value in ("sum", "mean")):
                raise RecipeError(
                    "a basis carries sums of vectors only",
                    where=f"{recipe.where}: {key}",
                    got=value,
                    fix=f"leave {key} out",
                )
