"""Paired differences: b minus a, on the same rows."""

import numpy as np
import pytest
from replicates import replicates

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import compare, measure
from mergekit_fair.fairness.metric_kinds import Gap
from mergekit_fair.fairness.metrics import COMPARED, METRICS


@pytest.fixture(scope="module")
def rows():
    """Two predictors that agree on nine rows of ten."""
    rng = np.random.default_rng(8)
    n = 1000
    y_true = rng.integers(0, 2, n)
    a = np.where(rng.random(n) < 0.8, y_true, 1 - y_true)
    b = np.where(rng.random(n) < 0.9, a, 1 - a)
    return y_true, a, b, rng.choice(["x", "y", "z"], n)


@pytest.mark.parametrize("reference", ["between_groups", "one_vs_rest", "to_overall"])
def test_values_are_differences_of_measurements(rows, reference):
    y_true, a, b, groups = rows
    options = {"reference": reference, "draws": 50}
    difference = compare(y_true, a, b, groups, **options).to_dict()
    assert list(difference) == list(COMPARED)
    first = measure(y_true, a, groups, **options).to_dict()["metrics"]
    second = measure(y_true, b, groups, **options).to_dict()["metrics"]
    for name, interval in difference.items():
        expected = second[name]["value"] - first[name]["value"]
        assert interval["value"] == pytest.approx(expected, abs=1e-12)
        assert interval["low"] <= interval["value"] <= interval["high"]


def test_pairing_narrows_the_interval(rows):
    y_true, a, b, groups = rows
    paired = compare(y_true, a, b, groups).to_dict()["acc"]
    right_a, right_b = (np.array([(y_true != p).sum(), (y_true == p).sum()]) for p in (a, b))
    unpaired = replicates(right_b, 2000, 1)[:, 1] - replicates(right_a, 2000, 2)[:, 1]
    width = np.subtract(*np.quantile(unpaired / len(y_true), [0.975, 0.025]))
    assert paired["high"] - paired["low"] < 0.85 * width


def test_same_predictions_differ_by_exactly_nothing(rows):
    y_true, a, _, groups = rows
    result = compare(y_true, a, a, groups, draws=50)
    assert all(
        value == {"value": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
        for value in result.to_dict().values()
    )
    assert "acc is the same in every bootstrap draw: its interval has no width" in result.warnings


def test_swapping_flips_the_sign_and_row_order_is_free(rows):
    y_true, a, b, groups = rows
    forward = compare(y_true, a, b, groups, draws=50).to_dict()
    backward = compare(y_true, b, a, groups, draws=50).to_dict()
    for name, found in forward.items():
        assert found["value"] == -backward[name]["value"]
        assert (found["low"], found["high"]) == (-backward[name]["high"], -backward[name]["low"])
        assert found["p_value"] == backward[name]["p_value"]
    order = np.random.default_rng(1).permutation(len(y_true))
    shuffled = compare(y_true[order], a[order], b[order], groups[order], draws=50)
    assert shuffled.to_dict() == forward


def test_undefined_differences(rows):
    y_true, a, b, _ = rows
    result = compare(y_true, a, b, ["all"] * len(a), draws=50)
    assert result.to_dict()["dpd"] == {"value": None, "low": None, "high": None, "p_value": None}
    gaps = [name for name in COMPARED if isinstance(METRICS[name], Gap)]
    assert result.warnings == tuple(f"the difference in {name} is undefined" for name in gaps)


def test_errors_name_the_predictor():
    with pytest.raises(MeasurementError, match=r"^y_pred_b: probabilities are not predictions"):
        compare([0, 1], [0, 1], [0.1, 0.9], ["a", "b"])
    with pytest.raises(MeasurementError, match=r"^y_pred_a: differs in length from y_true; got 3"):
        compare([0, 1], [0, 1, 1], [0, 1], ["a", "b"])
    with pytest.raises(MeasurementError, match=r"^exclude: no such group"):
        compare([0, 1], [0, 1], [0, 1], ["a", "b"], exclude=["c"])
