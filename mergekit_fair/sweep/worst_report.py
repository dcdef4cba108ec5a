"""The evaluation by which `worst: auto` names a group: it must be of the target, and its rows'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.fingerprint import model_fingerprint
from mergekit_fair.errors import MeasurementError
from mergekit_fair.files import text_of
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.progress import Progress
from mergekit_fair.schema import parse_json


def load_checked_recipe(path: Path, progress: Progress) -> Recipe:
    """Read a recipe, and check the figures that its worst group is read from, if it is.

    Raises:
        ConfigError, RecipeError: as `Recipe.load`.
        MeasurementError, SweepError: as `check_worst_report`.
    """
    recipe = Recipe.load(path)
    if doubt := check_worst_report(recipe):
        progress.say(f"warning: {doubt}")
    return recipe


def check_worst_report(recipe: Recipe) -> str | None:
    """Check the figures that a recipe's worst group is read from, before it is.

    Returns:
        A sentence where they cannot be checked; None too where the recipe reads none.

    Raises:
        MeasurementError: figures that were changed, are not what their samples give, or are of
            another model than the recipe's target.
        SweepError: the same of a sweep's results.
    """
    block, report = recipe.raw.get("fairness"), None
    if isinstance(block, dict) and parameters_of(recipe.raw).get("worst") == "auto":
        report = block.get("report")
    content = _content(report)
    if content is None:  # whoever reads it says what is wrong
        return None
    from mergekit_fair.evaluation.evidence import checked_evaluation

    path = Path(str(report))
    if "points" in content:
        known, doubt = _measured_by_sweep(path)
    elif "fingerprint" in content:
        evaluation, doubt = checked_evaluation(path)
        known = {str(evaluation.fingerprint.model)} if evaluation.fingerprint else set()
    else:
        known, doubt = set[str](), f"{path} says nothing of what it was made of: not checked"
    if known:
        _require_target(recipe, path, known)
    return doubt


def _content(report: Any) -> dict[str, Any] | None:
    if not isinstance(report, str) or not Path(report).is_file():
        return None
    try:
        content = parse_json(text_of(Path(report)))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _measured_by_sweep(path: Path) -> tuple[set[str], str | None]:
    """Digests of the models that a sweep has read."""
    from mergekit_fair.sweep.checked_folder import checked_results
    from mergekit_fair.sweep.store import POINTS

    if path.name != "results.json" or not (path.parent / POINTS).is_file():
        return set(), f"{path} lies apart from the scores that it was made of: not checked"
    results, doubt = checked_results(path.parent)
    return set(results.inputs.values()), doubt


def _require_target(recipe: Recipe, path: Path, known: set[str]) -> None:
    """The recipe's target is among the models that were measured."""
    models = recipe.raw.get("models") or ()
    targets = [item["model"] for item in models if parameters_of(item).get("role") == "target"]
    for target in map(str, targets):
        if Path(target).is_dir() and model_fingerprint(target).digest not in known:
            raise MeasurementError(
                "is not of the recipe's target, or of that model before its files have changed",
                where=path,
                got=target,
                fix=f"evaluate {target}, or name the group in parameters.worst",
            )
