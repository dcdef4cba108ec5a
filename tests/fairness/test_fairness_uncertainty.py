"""Beside the interval of a gap: bias, standard error, other kinds, and whether it is one."""

import numpy as np
import pytest
from replicates import grouped, replicates

from mergekit_fair.fairness import CountTable, measure
from mergekit_fair.fairness.intervals import basic, bias_corrected, wilson
from mergekit_fair.fairness.metrics import HEADLINE_GAPS
from mergekit_fair.fairness.rates import gap_of
from mergekit_fair.fairness.settings import REFERENCES


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    n = 500
    groups = rng.choice(["a", "b", "c"], n)
    y_true = rng.integers(0, 2, n)
    shifted = rng.random(n) < np.where(groups == "a", 0.4, 0.95)
    return y_true, np.where(shifted, y_true, 1), groups


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", ["dpd", "eod"])
def test_numbers_of_the_replicates(rows, name, reference):
    table = CountTable.tally(*rows)
    result = measure(*rows, reference=reference, draws=300, seed=4)
    counts = grouped(replicates(table.cells, 300, seed=4), table.patterns)
    drawn = gap_of(HEADLINE_GAPS[name].rates, counts, np.ones(3, bool), reference)
    value, more = result.metrics[name].value, result.uncertainty[name]
    assert more.bias == pytest.approx(drawn.mean() - value, abs=1e-12)
    assert more.standard_error == pytest.approx(drawn.std(), abs=1e-12)
    for kind, found in ((basic, more.basic), (bias_corrected, more.bias_corrected)):
        low, high = kind(value, drawn, 0.95)
        assert found == pytest.approx((min(max(low, 0), value), max(min(high, 1), value)))


def test_plain_proportions_have_wilson_intervals(rows):
    y_true, y_pred, _ = rows
    found = measure(*rows, confidence=0.9, draws=50).to_dict()["metrics"]
    positive, negative = y_pred[y_true == 1], y_pred[y_true == 0]
    for name, hits in (
        ("acc", y_true == y_pred),
        ("selection_rate", y_pred),
        ("tpr", positive),
        ("fpr", negative),
    ):
        low, high = wilson(int(hits.sum()), len(hits), 0.9)
        assert found[name] == pytest.approx({"value": hits.mean(), "low": low, "high": high})


def test_a_real_gap_is_distinguishable_and_chance_is_not(rows):
    result = measure(*rows, draws=500)
    more = result.uncertainty["dpd"]
    assert result.metrics["dpd"].low > 0
    assert more.null.p_value == pytest.approx(1 / 501)
    assert more.null.high < result.metrics["dpd"].value
    assert more.distinguishable_from_0 is True
    rng = np.random.default_rng(0)
    luck = measure(*rows[:2], rng.permutation(rows[2]), draws=500)
    assert luck.uncertainty["dpd"].distinguishable_from_0 is False
    assert luck.uncertainty["dpd"].bias > 0


def test_it_takes_the_interval_and_the_permutations(rows):
    """At a confidence that one of the two cannot reach, nothing is called a gap."""
    strict = measure(*rows, draws=50, confidence=0.99)  # a p-value is at least 1/51
    assert strict.uncertainty["dpd"].null.p_value > 0.01
    assert strict.uncertainty["dpd"].distinguishable_from_0 is False
    assert strict.warnings == (
        "50 bootstrap draws are too few for a confidence of 0.99: use 200 or more",
    )


@pytest.mark.parametrize(("confidence", "draws"), [(0.95, 40), (0.999, 2000), (0.5, 4)])
def test_enough_draws(rows, confidence, draws):
    few = [
        "bootstrap draws are too few" in text
        for count in (draws, draws - 1)
        for text in [*measure(*rows, draws=count, confidence=confidence).warnings, ""][:1]
    ]
    assert few == [False, True]


def test_more_confidence_is_wider(rows):
    widths = []
    for confidence in (0.5, 0.9, 0.99, 0.999):
        interval = measure(*rows, confidence=confidence).metrics["eod"]
        widths.append(interval.high - interval.low)
    assert widths == sorted(widths)
    assert len(set(widths)) == 4


def test_limits_are_lists_in_the_json(rows):
    more = measure(*rows, draws=50).to_dict()["uncertainty"]["eod"]
    assert list(more) == [
        "bias", "standard_error", "basic", "bias_corrected", "band", "null",
        "distinguishable_from_0",
    ]  # fmt: skip
    assert all(len(more[name]) == 2 for name in ("basic", "bias_corrected", "band"))
    assert list(more["null"]) == ["high", "p_value"]


def test_of_an_undefined_gap_nothing_is_said():
    more = measure([0, 1] * 20, [0, 1] * 20, ["a"] * 40, draws=50).to_dict()["uncertainty"]
    assert set(more["dpd"].values()) == set(more["eod"].values()) == {None}
