"""Figures of AIF360 on random weighted tables, for tests/fairness/aif360_figures.json.

    pip install aif360==0.6.1
    python benchmarks/aif360_figures.py > tests/fairness/aif360_figures.json

AIF360 needs packages that the project does not, so that its figures are stored and not computed
in the tests. A table is rows by [group, y, ŷ, weight]: group b is the unprivileged one.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from aif360.datasets import BinaryLabelDataset
from aif360.metrics import ClassificationMetric

TABLES = 100
WEIGHTS = (0.5, 1.0, 2.75)


def frame(cells: np.ndarray) -> pd.DataFrame:
    """One line a row of cells (2, 2, 2, 3)."""
    at = np.repeat(np.arange(cells.size), cells.ravel())
    group, y, predicted, weight = np.unravel_index(at, cells.shape)
    columns = {"group": group, "y": y, "predicted": predicted, "w": np.take(WEIGHTS, weight)}
    return pd.DataFrame(columns, dtype=float)


def figures(cells: np.ndarray) -> dict[str, float]:
    """Group b (1) minus group a (0)."""
    rows = frame(cells)
    labelled, classified = (
        BinaryLabelDataset(
            df=rows[["group", column, "w"]],
            label_names=[column],
            protected_attribute_names=["group"],
            instance_weights_name="w",
        )
        for column in ("y", "predicted")
    )
    classified.label_names = labelled.label_names
    metric = ClassificationMetric(labelled, classified, [{"group": 1}], [{"group": 0}])
    ppv = [metric.positive_predictive_value(privileged=flag) for flag in (False, True)]
    return {
        "selection_rate": metric.statistical_parity_difference(),
        "disparate_impact": metric.disparate_impact(),
        "tpr": metric.equal_opportunity_difference(),
        "fpr": metric.false_positive_rate_difference(),
        "fnr": metric.false_negative_rate_difference(),
        "average_odds": metric.average_odds_difference(),
        "ppv": ppv[0] - ppv[1],
        "acc": -metric.error_rate_difference(),
    }


def main() -> None:
    """Write all tables with their figures."""
    rng = np.random.default_rng(0)
    tables: list[dict[str, Any]] = []
    for _ in range(TABLES):
        cells = rng.integers(1, rng.integers(3, 30), (2, 2, 2, 3))
        found = {name: float(value) for name, value in figures(cells).items()}
        tables.append({"cells": cells.tolist(), "figures": found})
    print(json.dumps({"aif360": version("aif360"), "weights": WEIGHTS, "tables": tables}))


if __name__ == "__main__":
    main()
