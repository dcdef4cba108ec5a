"""`selected/` in a sweep's folder: the chosen point's recipe, and nothing of earlier choices."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.errors import SweepError
from mergekit_fair.escaping import one_line
from mergekit_fair.evaluation.evaluate import Evaluation
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.files import write_atomic
from mergekit_fair.progress import Progress
from mergekit_fair.schema import dump_yaml
from mergekit_fair.sweep.results import SweepResults

FOLDER = "selected"
HEADS = "heads"  # beside it: vectors of fair heads, and the features that they were fitted on
RECIPE = "recipe.yml"
MODEL = "model"
NOT_CHOSEN = "# NOT CHOSEN."  # how the recipe of a merge begins that is no choice
# What a merge writes beside the weights: the recipe that they were made by.
_MERGED_BY = "mergekit_config.yml"
_SHOWN = ("acc", "dpd", "eod", "selection_rate")


def selected_recipe(recipe: Mapping[str, Any], results: SweepResults) -> str:
    """The recipe of the chosen point, or of the best merge where none is chosen.

    A `fairness` block says how it was chosen and what it measured; of a merge that was not chosen
    the first line says so, too.

    Raises:
        SweepError: the point is a baseline.
    """
    chosen = results.selected
    point = next(p for p in results.points if p.id == (chosen.id or chosen.best_merge))
    if not recipe:
        raise SweepError("a baseline has no recipe", where=point.label)
    provenance: dict[str, Any] = {
        "tool": "mergekit-fair",
        "task": results.task,
        "rule": chosen.rule,
        "selected_on": results.selected_on,
        "feasible": chosen.feasible,
    }
    if chosen.id is None:
        provenance["not_chosen"] = chosen.sentence
    for split, measured in ((results.selected_on, results.points), ("report", results.report)):
        result = next((item for item in measured if item.id == point.id), None)
        if result is not None and result.evaluation is not None:
            is_binary = isinstance(result.evaluation, Evaluation)
            shown = _SHOWN if is_binary else MULTI_METRICS
            provenance[split] = {name: result.value(name) for name in shown}
    named = [recipe.get("base_model"), *(item["model"] for item in recipe.get("models") or ())]
    provenance |= {
        "point": point.id,
        "kind": point.kind,
        "measuring": results.measuring,
        "inputs": {str(model): results.inputs[str(model)] for model in named if model},
    }
    first = f"{NOT_CHOSEN} {one_line(chosen.sentence)}.\n" if chosen.id is None else ""
    seed = (recipe.get("fairness") or {}).get("random_seed")
    if seed is not None:
        provenance["random_seed"] = seed
        first += f"# Random numbers decide it: mergekit's own commands need --random-seed {seed}.\n"
    return first + dump_yaml({**recipe, "fairness": provenance})


def write_selected(
    folder: Path, recipe: Mapping[str, Any] | None, results: SweepResults, progress: Progress
) -> None:
    """Write `selected/recipe.yml`; without a recipe, put what an earlier run has selected aside."""
    selected = folder / FOLDER
    if recipe is None:
        put_aside(selected, progress)
        return
    selected.mkdir(exist_ok=True)
    write_atomic(selected / RECIPE, selected_recipe(recipe, results))


def put_aside(path: Path, progress: Progress) -> None:
    """Give what an earlier run has written another name, if there is any.

    `selected` becomes `selected-earlier`, or `selected-earlier-2` where that is taken.
    """
    if not path.exists():
        return
    names = itertools.chain(["earlier"], (f"earlier-{n}" for n in itertools.count(2)))
    others = (path.with_name(f"{path.name}-{name}") for name in names)
    other = path.rename(next(other for other in others if not other.exists()))
    progress.say(f"{path} is of an earlier run; it is now {other}")


def is_merged(selected: Path) -> bool:
    """Whether `selected/model` was made by the recipe beside it."""
    written, recipe = selected / MODEL / _MERGED_BY, selected / RECIPE
    return written.is_file() and recipe.is_file() and written.read_bytes() == recipe.read_bytes()
