"""Recipes of the two methods, as mappings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def addition_recipe(folder: Path, groups: Iterable[str]) -> dict[str, Any]:
    """Subgroup task addition over the family in `folder`, at λ = 0.2.

    A relative folder gets a `./`: stock mergekit would look for `a/b` on the Hub.
    """
    place = str(folder) if folder.is_absolute() else f"./{folder}"
    models = [
        {"model": f"{place}/groups/{name}", "parameters": {"group": name, "weight": 1.0}}
        for name in groups
    ]
    return {
        "merge_method": "subgroup_task_addition",
        "base_model": f"{place}/base",
        "models": models,
        "parameters": {"lambda": 0.2, "normalize": "sum"},
        "dtype": "float32",
    }


def injection_recipe(
    base: str,
    target: str,
    candidates: dict[str, str],
    worst: str,
    dtype: str | None,
    *,
    lambda_: float = 0.2,
) -> dict[str, Any]:
    """Injection of one group's vector into `target`; candidates: group → model."""
    models: list[dict[str, Any]] = [{"model": target, "parameters": {"role": "target"}}]
    models += [
        {"model": model, "parameters": {"role": "candidate", "group": name}}
        for name, model in candidates.items()
    ]
    recipe: dict[str, Any] = {
        "merge_method": "worst_group_injection",
        "base_model": base,
        "models": models,
        "parameters": {"lambda": lambda_, "worst": worst},
    }
    return recipe | ({"dtype": dtype} if dtype else {})


def injections_recipe(
    base: str,
    target: str,
    name: str,
    added: dict[str, tuple[str, float]],
    dtype: str | None,
) -> dict[str, Any]:
    """Several groups' vectors on `target`: θ₀ + 1 · (θ_target − θ₀) + Σ_g λ_g (θ_g − θ₀).

    Args:
        base, target: models.
        name: of the target, as a group.
        added: model → (group, λ).
        dtype: of the result.
    """
    parts = {target: (name, 1.0), **added}
    models = [
        {"model": model, "parameters": {"group": group, "weight": weight}}
        for model, (group, weight) in parts.items()
    ]
    recipe: dict[str, Any] = {
        "merge_method": "subgroup_task_addition",
        "base_model": base,
        "models": models,
        "parameters": {"lambda": 1.0, "normalize": "sum"},
    }
    return recipe | ({"dtype": dtype} if dtype else {})
