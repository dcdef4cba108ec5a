"""Evaluations that nobody has measured, complete enough to be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def interval(value: float | None, low: float | None = None, high: float | None = None) -> Any:
    return {"value": value, "low": low, "high": high}


def evaluation(metrics: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The JSON of an evaluation.

    Args:
        metrics: name → value, or JSON of an interval.
        changes: other keys in the place of those here.
    """
    gaps: dict[str, Any] = {"dpd": None, "eod": None}
    nothing = {"macro": None, "worst": None, "worst_group": None}
    return {
        **{"model": "m", "task": "t", "split": "validation", "n": 8, "unanswered": 0},
        **{"reference": "between_groups", "confidence": 0.95, "degenerate": False},
        "metrics": {
            name: value if isinstance(value, dict) else interval(value)
            for name, value in metrics.items()
        },
        "uncertainty": {},
        **{"between_groups": gaps, "to_overall": gaps},
        "one_vs_rest": {"dpd": nothing, "eod": nothing, "groups": {}},
        "labels": {"base_rate": 0.5, "dpd": None},
        **{"groups": {}, "warnings": [], "versions": {}},
        **changes,
    }
