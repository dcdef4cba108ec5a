"""Predictive parity, FNR, and PPV by group: by hand, and where they are undefined.

`test_fairness_rows` compares them with a loop over rows.
"""

from __future__ import annotations

import pytest

from mergekit_fair.fairness import compare, measure


def test_without_predicted_positives_it_is_undefined_and_says_why() -> None:
    y_true, groups = [0, 1] * 20, ["a"] * 20 + ["b"] * 20
    result = measure(y_true, [0] * 40, groups, draws=30)
    assert result.metrics["predictive_parity"].value is None
    assert result.metrics["dpd"].value == 0
    assert result.groups["a"].ppv is result.groups["b"].ppv is None
    assert any(text.startswith("predictive_parity is undefined") for text in result.warnings)
    one = measure(y_true, [0, 1] * 10 + [0] * 20, groups, draws=30)
    assert one.metrics["predictive_parity"].value is None
    assert one.groups["a"].ppv == 1


def test_without_positive_labels_fnr_is_undefined() -> None:
    result = measure([0] * 20, [0, 1] * 10, ["a", "b"] * 10, draws=30)
    assert result.metrics["fnr"].value is None
    assert result.metrics["predictive_parity"].value is None or result.groups["b"].ppv == 0


def test_by_hand_with_its_interval_and_paired_difference() -> None:
    y_true = [1] * 30 + [0] * 10 + [1] * 10 + [0] * 30
    groups = ["a"] * 40 + ["b"] * 40
    found = measure(y_true, [1] * 80, groups)
    gap = found.metrics["predictive_parity"]
    assert gap.value == pytest.approx(0.75 - 0.25)
    assert gap.low is not None
    assert gap.high is not None
    assert 0 < gap.low < 0.5 < gap.high < 1
    assert found.metrics["fnr"].value == 0
    difference = compare(y_true, [1] * 80, y_true, groups, draws=100).metrics["predictive_parity"]
    assert difference.value == pytest.approx(-0.5)  # a perfect predictor has a PPV of 1
