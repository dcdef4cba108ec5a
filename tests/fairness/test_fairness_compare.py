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


def test_same_predictions_differ_by_nothing_that_can_be_seen(rows):
    """n rows of which none differs do not show that none ever will: the rule of three."""
    y_true, a, _, groups = rows
    result = compare(y_true, a, a, groups, draws=400).to_dict()
    for found in result.values():
        assert (found["value"], found["p_value"]) == (0.0, 1.0)
        assert found["low"] == -found["high"] < 0
    assert 0.5 / len(a) < result["acc"]["high"] < 6 / len(a)
    assert result["dpd"]["high"] < 0.03


@pytest.mark.parametrize("changed", [3, 4, 5, 8])
def test_a_few_rows_that_differ_are_no_proof(changed):
    """All to one side: as the sign test says, 2 / 2**changed, and not the share of draws."""
    y_true = np.ones(600, dtype=int)
    worse = np.ones(600, dtype=int)
    worse[:changed] = 0
    found = compare(y_true, y_true, worse, ["a", "b"] * 300).metrics["acc"]
    sign_test = 2 / 2**changed
    assert 0.7 * sign_test <= found.p_value <= 4 * sign_test
    assert (found.high < 0) == (found.p_value <= 0.05) == (sign_test <= 0.05)


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


@pytest.mark.parametrize("reference", ["between_groups", "one_vs_rest", "to_overall"])
def test_limits_and_p_value_are_one_test(reference):
    """p ≤ 1 − confidence exactly where the interval leaves out 0, for every metric."""
    rng = np.random.default_rng(3)
    for trial in range(6):
        n = int(rng.integers(40, 900))
        y_true, groups = (
            rng.integers(0, 2, n),
            rng.choice(list("abcd"), n, p=[0.5, 0.3, 0.15, 0.05]),
        )
        a = np.where(rng.random(n) < 0.8, y_true, rng.integers(0, 2, n))
        b = np.where(
            rng.random(n) < 0.2 + 0.05 * trial, rng.random(n) < 0.2 + 0.3 * (groups == "b"), a
        )
        for confidence in (0.8, 0.95):
            options = {"reference": reference, "confidence": confidence, "draws": 200}
            for name, found in compare(y_true, a, b.astype(int), groups, **options).metrics.items():
                if found.low is not None:
                    leaves_out_0 = found.low > 0 or found.high < 0
                    assert leaves_out_0 == (found.p_value <= 1 - confidence), (name, found)


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


def test_without_an_interval_the_share_of_draws_without_a_group_is_said() -> None:
    groups = ["a"] * 60 + ["b"] * 60 + ["c"]
    y = [0, 1] * 60 + [0]
    found = compare(y, [0, 1, 1] * 40 + [1], [1, 0, 0] * 40 + [0], groups).metrics["dpd"]
    assert (found.value is None, found.low, found.p_value) == (False, None, None)
    # A row is in none of n draws from n with chance 1/e.
    assert found.dropped == pytest.approx(np.exp(-1), abs=0.05)
