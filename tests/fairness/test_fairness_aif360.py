"""Signed differences and gaps equal AIF360's figures on random weighted tables.

`benchmarks/aif360_figures.py` has written them; their version stands in the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mergekit_fair.fairness import estimate, measure

FIGURES = json.loads(Path(__file__).with_name("aif360_figures.json").read_text(encoding="utf-8"))
GAPS = {
    "dpd": "selection_rate",
    "equal_opportunity": "tpr",
    "fpr_gap": "fpr",
    "predictive_parity": "ppv",
    "acc_gap": "acc",
}


def rows_of(cells: Any) -> tuple[Any, ...]:
    """Group, y, ŷ and weight of every row of [group, y, ŷ, weight]."""
    cells = np.array(cells)
    at = np.repeat(np.arange(cells.size), cells.ravel())
    group, y, predicted, weight = np.unravel_index(at, cells.shape)
    return np.array(["a", "b"])[group], y, predicted, np.take(FIGURES["weights"], weight)


def test_a_hundred_tables() -> None:
    assert FIGURES["aif360"] == "0.6.1"
    assert len(FIGURES["tables"]) == 100
    for table in FIGURES["tables"]:
        groups, y, predicted, weights = rows_of(table["cells"])
        theirs = table["figures"]
        result = measure(y, predicted, groups, weights=weights, against="a", draws=1)
        assert result.against is not None
        ours = {name: interval.value for name, interval in result.against.groups["b"].items()}
        for name in ("selection_rate", "tpr", "fpr", "fnr", "ppv", "acc"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-12), name
        average = ((ours["tpr"] or 0) + (ours["fpr"] or 0)) / 2
        assert average == pytest.approx(theirs["average_odds"], abs=1e-12)
        found = estimate(y, predicted, groups, weights=weights)
        for gap, rate in GAPS.items():
            assert found[gap] == pytest.approx(abs(theirs[rate]), abs=1e-12), gap
        impact = theirs["disparate_impact"]
        assert found["dp_ratio"] == pytest.approx(min(impact, 1 / impact), abs=1e-12)
