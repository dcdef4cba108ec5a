"""Every metric that fairlearn has, against fairlearn, on groups that partition the rows."""

import fairlearn.metrics as fl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from mergekit_fair.fairness import estimate, measure


@st.composite
def partitions(draw):
    """Two to five groups with both labels and, under each label, both predictions or not."""
    y_true, y_pred, groups = [], [], []
    for group in range(draw(st.integers(2, 5))):
        for y in (0, 1):
            predictions = draw(st.lists(st.integers(0, 1), min_size=1, max_size=6))
            y_true += [y] * len(predictions)
            y_pred += predictions
            groups += [f"g{group}"] * len(predictions)
    return np.array(y_true), np.array(y_pred), np.array(groups)


def check(rows, reference):
    y_true, y_pred, groups = rows
    found = estimate(*rows, reference=reference)
    options = {"sensitive_features": groups, "method": reference}
    expected = {
        "acc": accuracy_score(y_true, y_pred),
        "bal_acc": balanced_accuracy_score(y_true, y_pred),
        "selection_rate": fl.selection_rate(y_true, y_pred),
        "tpr": fl.true_positive_rate(y_true, y_pred),
        "fpr": fl.false_positive_rate(y_true, y_pred),
        "dpd": fl.demographic_parity_difference(y_true, y_pred, **options),
        "eod": fl.equalized_odds_difference(y_true, y_pred, agg="worst_case", **options),
        "equal_opportunity": fl.equal_opportunity_difference(y_true, y_pred, **options),
        "unanswered": 0.0,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@settings(max_examples=12, deadline=None)
@given(partitions())
def test_differences(rows):
    check(rows, "between_groups")


@settings(max_examples=8, deadline=None)
@given(partitions())
def test_differences_to_overall(rows):
    check(rows, "to_overall")


@pytest.mark.parametrize("seed", range(3))
def test_ratios(seed):
    rng = np.random.default_rng(seed)
    y_true, y_pred = rng.integers(0, 2, (2, 300))
    groups = rng.choice(["a", "b", "c", "d"], 300)
    found = estimate(y_true, y_pred, groups)
    for name, metric in (
        ("dp_ratio", fl.demographic_parity_ratio),
        ("eo_ratio", fl.equalized_odds_ratio),
    ):
        expected = metric(y_true, y_pred, sensitive_features=groups)
        assert found[name] == pytest.approx(expected, abs=1e-12)


def test_a_ratio_of_zeros_is_undefined_where_nobody_is_selected():
    rows = [0, 1, 0, 1], [0, 0, 0, 0], ["a", "a", "b", "b"]
    assert np.isnan(estimate(*rows)["dp_ratio"])
    assert np.isnan(estimate(*rows)["eo_ratio"])
    rows = [0, 1, 0, 1], [0, 0, 0, 1], ["a", "a", "b", "b"]
    assert estimate(*rows)["dp_ratio"] == 0.0
    assert estimate(*rows)["eo_ratio"] == 0.0  # FPR is 0 everywhere: left out


def test_rates_by_group_are_those_of_a_metric_frame():
    rng = np.random.default_rng(9)
    y_true, y_pred = rng.integers(0, 2, (2, 250))
    groups = rng.choice(["a", "b", "c"], 250)
    frame = fl.MetricFrame(
        metrics={
            "n": fl.count,
            "selection_rate": fl.selection_rate,
            "tpr": fl.true_positive_rate,
            "fpr": fl.false_positive_rate,
            "acc": accuracy_score,
            "bal_acc": balanced_accuracy_score,
        },
        y_true=y_true,
        y_pred=y_pred,
        sensitive_features=groups,
    )
    result = measure(y_true, y_pred, groups, draws=50).to_dict()
    for name, expected in frame.by_group.to_dict("index").items():
        found = {key: result["groups"][name][key] for key in expected}
        assert found == pytest.approx(expected, abs=1e-12)
    worst = frame.group_min()["acc"]
    assert result["metrics"]["worst_group_acc"]["value"] == pytest.approx(worst, abs=1e-12)


def test_excluded_groups_count_overall_but_are_never_compared():
    rng = np.random.default_rng(4)
    y_true, y_pred = rng.integers(0, 2, (2, 300))
    groups = rng.choice(["a", "b", "other"], 300, p=[0.45, 0.45, 0.1])
    found = estimate(y_true, y_pred, groups, exclude=["other"])
    kept = groups != "other"
    expected = fl.equalized_odds_difference(
        y_true[kept], y_pred[kept], sensitive_features=groups[kept]
    )
    assert found["eod"] == pytest.approx(expected, abs=1e-12)
    assert found["acc"] == accuracy_score(y_true, y_pred)
