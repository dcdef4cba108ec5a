"""A grid of λ as files: one plain recipe a point."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mergekit_fair.files import staged_folder
from mergekit_fair.merging.manifest import versions
from mergekit_fair.merging.merge_inputs import require_apart
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.resolve import resolved
from mergekit_fair.merging.to_disk import point_name

MANIFEST = "manifest.json"


def write_grid(
    recipe: Recipe,
    lambdas: tuple[float, ...],
    out: Path,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write `lambda_<λ>.yml` for every λ, and `manifest.json`, to `out`.

    Args:
        recipe: λ in it is replaced; what it leaves open (`worst: auto`) is filled in, so that
            mergekit's own command runs every file.
        lambdas: the points.
        out: the folder to make; appears complete or not at all.
        overwrite: replace `out` if it exists.

    Returns:
        The recipe files.

    Raises:
        RecipeError: λ is a gradient or filter in the recipe, or whatever a merge refuses.
        ConfigError: `out` exists and may not be replaced.
    """
    recipe = resolved(recipe)
    require_apart(recipe, out)
    points = {point_name(value): recipe.with_settings({"lambda": value}) for value in lambdas}
    with staged_folder(out, overwrite=overwrite) as folder:
        entries = []
        for (name, point), value in zip(points.items(), lambdas, strict=True):
            text = point.text()
            (folder / f"{name}.yml").write_text(text, encoding="utf-8")
            entry: dict[str, Any] = {"recipe": f"{name}.yml", "settings": {"lambda": value}}
            entry["sha256"] = hashlib.sha256(text.encode()).hexdigest()
            entries.append(entry)
        content = {
            "recipe": recipe.where,
            "method": recipe.method,
            "notes": list(recipe.notes),
            "versions": versions(),
            "points": entries,
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    return [out / f"{name}.yml" for name in points]
