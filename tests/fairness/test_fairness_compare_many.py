"""Many predictors against one: Holm's correction, and what it needs to find anything."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import compare, compare_many, estimate, holm
from mergekit_fair.fairness.metrics import COMPARED


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(4)
    n = 500
    y_true = rng.integers(0, 2, n)
    base = np.where(rng.random(n) < 0.7, y_true, 1 - y_true)
    better = np.where(rng.random(n) < 0.5, y_true, base)
    other = np.where(rng.random(n) < 0.95, base, 1 - base)
    return y_true, {"base": base, "better": better, "other": other}, rng.choice(list("abc"), n)


def test_holm_by_the_textbook():
    # Holm 1979 as in R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=2), st.floats(0, 1), max_size=6))
def test_holm_steps_down(p_values):
    """Reject in order while p₍ᵢ₎ ≤ α / (m − i + 1): the same decisions at every α."""
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.1, 0.5):
        rejected = set()
        for rank, name in enumerate(sorted(p_values, key=p_values.get)):
            if (len(p_values) - rank) * p_values[name] > alpha:
                break
            rejected.add(name)
        assert {name for name, p in adjusted.items() if p <= alpha} == rejected


def test_the_json(rows):
    result = compare_many(*rows, baseline="base", draws=400)
    found = result.to_dict()
    assert list(found) == ["better", "other"]
    assert list(found["better"]) == list(COMPARED)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    metrics = {name: estimate(rows[0], p, rows[2]) for name, p in rows[1].items()}
    for name, metric in ((name, metric) for name in found for metric in COMPARED):
        entry = found[name][metric]
        assert list(entry) == ["value", "low", "high", "p_value", "adjusted_p_value"]
        expected = metrics[name][metric] - metrics["base"][metric]
        assert entry["value"] == pytest.approx(expected, abs=1e-12)
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert 0 < entry["p_value"] <= 1
        assert (entry["adjusted_p_value"] is not None) == (metric in ("acc", "dpd", "eod"))
    assert result.significant("better", "acc")
    assert not result.significant("better", "selection_rate")  # not among the tests
    assert not result.significant("nobody", "acc")


def test_adjusted_values_are_holm_of_the_headline(rows):
    result = compare_many(*rows, baseline="base", draws=400)
    p_values = {
        (name, metric): result.differences[name].metrics[metric].p_value
        for name in ("better", "other")
        for metric in ("acc", "dpd", "eod")
    }
    assert result.adjusted == holm(p_values)


def test_two_are_the_same_as_a_comparison(rows):
    y_true, predictions, groups = rows
    pair = {name: predictions[name] for name in ("base", "better")}
    many = compare_many(y_true, pair, groups, baseline="base", draws=300, seed=3)
    alone = compare(y_true, *pair.values(), groups, draws=300, seed=3)
    assert many.differences == {"better": alone}


def test_the_order_of_predictors_does_not_matter(rows):
    y_true, predictions, groups = rows
    backwards = dict(reversed(predictions.items()))
    first = compare_many(y_true, predictions, groups, baseline="base", draws=100)
    second = compare_many(y_true, backwards, groups, baseline="base", draws=100)
    assert first.to_dict() == second.to_dict()


def test_the_same_as_resampling_rows(rows):
    """Accuracy is no extreme: its interval is that of rows that are drawn one by one."""
    y_true, predictions, _ = rows
    found = compare_many(*rows, baseline="base").differences["better"].metrics["acc"]
    rng = np.random.default_rng(0)
    right = [(predictions[name] == y_true).astype(int) for name in ("base", "better")]
    picks = rng.integers(0, len(y_true), (2000, len(y_true)))
    low, high = np.quantile((right[1] - right[0])[picks].mean(axis=1), [0.025, 0.975])
    assert found.high - found.low == pytest.approx(high - low, rel=0.1)
    assert found.low == pytest.approx(low, abs=0.15 * (high - low))


def test_many_tests_need_no_more_draws(rows):
    """Tails below what draws show are those of a distribution: a third one changes nothing."""
    y_true, predictions, groups = rows
    copies = {f"copy {k}": predictions["better"] for k in range(12)}
    everyone = {"base": predictions["base"], **copies}
    found = compare_many(y_true, everyone, groups, baseline="base", draws=200)
    assert all(found.significant(name, "acc") for name in copies)
    alone = compare(y_true, predictions["base"], predictions["better"], groups, draws=200)
    assert found.differences["copy 7"] == alone


def test_predictors_that_cannot_be_compared_take_no_share(rows):
    y_true, predictions, groups = rows
    silent = [None] * len(y_true)
    result = compare_many(
        y_true, {**predictions, "silent": silent}, groups, baseline="base", draws=100
    )
    assert ("silent", "dpd") not in result.adjusted
    assert ("silent", "acc") in result.adjusted
    assert result.to_dict()["silent"]["dpd"]["adjusted_p_value"] is None


@pytest.mark.parametrize(
    ("names", "baseline", "message"),
    [
        (
            ["base", "other"],
            "fft",
            'predictions: needs the baseline and at least one other predictor; got "baseline '
            "'fft'\"; allowed: base, other.",
        ),
        (
            ["base"],
            "base",
            'predictions: needs the baseline and at least one other predictor; got "baseline '
            "'base'\"; allowed: base.",
        ),
    ],
)
def test_messages(rows, names, baseline, message):
    y_true, predictions, groups = rows
    with pytest.raises(MeasurementError) as caught:
        compare_many(y_true, {n: predictions[n] for n in names}, groups, baseline=baseline)
    assert str(caught.value) == message


def test_an_error_names_the_predictor(rows):
    y_true, predictions, groups = rows
    with pytest.raises(MeasurementError, match=r"^short: differs in length from y_true; got 2"):
        compare_many(y_true, {**predictions, "short": [0, 1]}, groups, baseline="base")
