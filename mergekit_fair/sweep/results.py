"""What a sweep writes about its points: JSON, one line of text, the selected recipe."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mergekit_fair.errors import SweepError
from mergekit_fair.schema import dump_yaml

if TYPE_CHECKING:
    from mergekit_fair.sweep.points import Point

Line = dict[str, Any]


def to_json(value: dict[str, Any]) -> str:
    """Indented JSON; NaN is refused, for no number stands for "unknown"."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def public(line: Line, refused: str | None = None) -> Line:
    """A point without its seconds: results do not depend on the machine's speed.

    Args:
        line: of points.jsonl.
        refused: why it may not be chosen, if so.
    """
    shown = {key: value for key, value in line.items() if key != "seconds"}
    return shown if refused is None else {**shown, "refused": refused}


def one_line(line: Line) -> str:
    """`λ=0.2 validation: acc 0.841, dpd 0.181, eod 0.128, selected 0.214` and its marks."""
    head = f"{line['label']} {line['split']}: "
    if "evaluation" not in line:
        return head + str(line["error"])
    metrics = line["evaluation"]["metrics"]
    shown = [
        f"{name} {_number(metrics[key]['value'])}"
        for key, name in (
            ("acc", "acc"),
            ("dpd", "dpd"),
            ("eod", "eod"),
            ("selection_rate", "selected"),
        )
    ]
    return head + ", ".join([*shown, *marks(line)])


def marks(line: Line) -> list[str]:
    """`degenerate`, `saturated`: what forbids or qualifies a reading of DPD and EOD."""
    evaluation = line.get("evaluation", {})
    found = [name for name in ("degenerate", "saturated") if evaluation.get(name)]
    return [*found, *([line["refused"]] if "refused" in line else [])]


def selected_recipe(point: Point, results: dict[str, Any]) -> str:
    """The chosen point's recipe; a `fairness` block says how it was chosen and what it measured."""
    if point.recipe is None:
        raise SweepError("a baseline has no recipe", where=point.label)
    provenance: dict[str, Any] = {
        "tool": "mergekit-fair",
        "task": results["task"],
        "rule": results["selected"]["rule"],
        "selected_on": results["selected_on"],
        "feasible": results["selected"]["feasible"],
    }
    for split, lines in (
        (results["selected_on"], results["points"]),
        ("report", results["report"]),
    ):
        line = next(item for item in lines if item["id"] == point.id)
        if "evaluation" in line:
            metrics = line["evaluation"]["metrics"]
            provenance[split] = {
                key: metrics[key]["value"] for key in ("acc", "dpd", "eod", "selection_rate")
            }
    return dump_yaml({**point.recipe.raw, "fairness": provenance})


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
