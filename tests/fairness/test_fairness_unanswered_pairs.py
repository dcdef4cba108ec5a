"""Rows that one of two predictors alone has answered are no certainty where they are few."""

from __future__ import annotations

import numpy as np
import pytest

from mergekit_fair.fairness import compare


@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("clusters", [False, True])
def test_a_few_rows_that_one_has_not_answered(n: int, clusters: bool) -> None:
    y, nothing = np.ones(n, dtype=int), [None] * n
    one_each = np.arange(n) // 2 if clusters and n > 2 else None
    how = {"clusters": one_each, "draws": 500}
    for metric in ("acc", "worst_group_acc"):
        found = compare(y, y, nothing, ["x"] * n, **how).metrics[metric]
        wrong = compare(y, y, 1 - y, ["x"] * n, **how).metrics[metric]
        assert found.value == wrong.value == -1.0
        assert found.p_value is not None
        assert found.high is not None
        assert found.high > -0.95
        assert found.p_value > 1e-7
        back = compare(y, nothing, y, ["x"] * n, **how).metrics[metric]
        assert (back.low, back.high, back.p_value) == (-found.high, -found.low, found.p_value)


@pytest.mark.parametrize("n", [6, 10])
def test_a_few_answers_that_agree_among_many_rows(n: int) -> None:
    """One answers all rows, the other a few: its rates are as unsure as those of a few rows."""
    y = np.tile([0, 1], 30)
    groups = np.repeat(["x", "z"], 30)
    all_right, few = y.astype(object), y.astype(object)
    few[n:] = None
    found = compare(y, all_right, few, groups, draws=500).metrics["selection_rate"]
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 0.4
