"""Which splits chose a model: figures on them are optimistic and have to say so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.schema import parse_yaml


def selections(model: str | Path) -> list[dict[str, Any]]:
    """The selections that a merged model's recipe tells of.

    A sweep writes into the recipe of its choice on what task, split and by what rule it was made;
    a recipe with `worst: auto` names the evaluation that its worst group was read from.

    Returns:
        Records with `task`, `split` and `rule`; empty for a model that nothing chose.
    """
    block = _fairness_block(Path(model))
    found = []
    if block.get("rule") and block.get("task"):
        split = block.get("selected_on", "validation")
        found.append({"task": block["task"], "split": split, "rule": block["rule"]})
    if isinstance(report := block.get("report"), str) and Path(report).is_file():
        evaluation = _json(Path(report))
        if isinstance(evaluation, Mapping) and evaluation.get("task"):
            found.append(
                {
                    "task": evaluation["task"],
                    "split": evaluation.get("split"),
                    "rule": "worst group of this evaluation",
                }
            )
    return found


def used_by(selected: list[dict[str, Any]], task: str, split: str) -> dict[str, Any] | None:
    """The selection that has used a task's split, or None.

    The task `fair_x` is the data set `x`, which sweeps call their task.
    """
    for record in selected:
        same = str(record["task"]).removeprefix("fair_") == task.removeprefix("fair_")
        if same and record["split"] == split:
            return record
    return None


def _fairness_block(model: Path) -> Mapping[str, Any]:
    path = model / "mergekit_config.yml"
    if not path.is_file():
        return {}
    recipe = parse_yaml(path.read_text(encoding="utf-8"), path)
    block = recipe.get("fairness") if isinstance(recipe, Mapping) else None
    return block if isinstance(block, Mapping) else {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it chose the model once; it need not be there for ever
        return None
