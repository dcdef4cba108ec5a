"""Gaps under permuted group labels are what permuting the rows' groups gives."""

import numpy as np
import pytest

from mergekit_fair.fairness import CountTable, MetricSettings, measure, measure_table
from mergekit_fair.fairness.rates import DPD_RATES, EOD_RATES, deviations, gap
from mergekit_fair.fairness.settings import REFERENCES
from mergekit_fair.fairness.uncertainty import permuted, permuted_gap


@pytest.fixture(scope="module")
def rows():
    """Overlapping groups, 4 % of predictions missing."""
    rng = np.random.default_rng(3)
    n = 120
    y_true = rng.integers(0, 2, n)
    y_pred = np.where(rng.random(n) < 0.6, y_true, 1 - y_true).astype(object)
    y_pred[rng.choice(n, 4, replace=False)] = None
    masks = {name: rng.random(n) < share for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.2))}
    return y_true, y_pred, masks


def by_hand(rows, metric, reference, draws):
    """Gaps after shuffling rows of memberships: all rows for DPD, those of equal y for EOD."""
    y_true, y_pred, masks = rows
    rng = np.random.default_rng(8)
    found = []
    for _ in range(draws):
        order = np.arange(len(y_true))
        blocks = [order] if metric == "dpd" else [np.flatnonzero(y_true == y) for y in (0, 1)]
        for block in blocks:
            order[block] = rng.permutation(block)
        shuffled = {name: mask[order] for name, mask in masks.items()}
        table = CountTable.tally(y_true, y_pred, shuffled)
        rates = DPD_RATES if metric == "dpd" else EOD_RATES
        found.append(gap_of(table.counts, rates, reference))
    return np.array(found, dtype=float)


def gap_of(counts, rates, reference):
    usable = np.ones(counts.groups.shape[-3], dtype=bool)
    return gap(deviations(rates, counts, usable, reference), reference)


@pytest.mark.parametrize("metric", ["dpd", "eod"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_the_same_as_shuffling_rows(rows, metric, reference):
    table = CountTable.tally(*rows)
    counts = permuted(table, 4000, seed=1, within_labels=metric != "dpd")
    rates = DPD_RATES if metric == "dpd" else EOD_RATES
    fast = gap_of(counts, rates, reference)
    slow = by_hand(rows, metric, reference, 600)
    assert fast.mean() == pytest.approx(slow.mean(), abs=4 * slow.std() / np.sqrt(len(slow)))
    assert fast.std() == pytest.approx(slow.std(), rel=0.12)
    assert np.quantile(fast, 0.9) == pytest.approx(np.quantile(slow, 0.9), rel=0.12)


@pytest.mark.parametrize("reference", REFERENCES)
def test_what_measure_says_is_from_these_permutations(rows, reference):
    table = CountTable.tally(*rows)
    result = measure(*rows, reference=reference, confidence=0.9, draws=200, seed=5)
    for name, rates in (("dpd", DPD_RATES), ("eod", EOD_RATES)):
        counts = permuted(table, 200, seed=5, within_labels=name == "eod")
        drawn = gap_of(counts, rates, reference)
        expected = permuted_gap(result.metrics[name].value, drawn, 0.9)
        assert result.uncertainty[name].null == expected


@pytest.mark.parametrize("within_labels", [False, True])
def test_totals_are_kept_in_blocks_of_any_size(rows, within_labels, monkeypatch):
    table = CountTable.tally(*rows)
    drawn = permuted(table, 50, seed=2, within_labels=within_labels)
    groups, overall = table.counts.groups, table.counts.overall
    assert (drawn.groups >= 0).all()
    if within_labels:
        assert (drawn.overall == overall).all()
        assert (drawn.groups.sum(axis=3) == groups.sum(axis=2)).all()
    else:
        assert (drawn.overall.sum(axis=1) == overall.sum(axis=0)).all()
        assert (drawn.groups.sum(axis=(2, 3)) == groups.sum(axis=(1, 2))).all()
    monkeypatch.setattr("mergekit_fair.fairness.uncertainty._AT_ONCE", 1)
    again = permuted(table, 50, seed=2, within_labels=within_labels)
    assert (drawn.groups == again.groups).all()
    assert (drawn.overall == again.overall).all()


def test_p_value_and_limit_by_hand():
    drawn = np.arange(100) / 100
    found = permuted_gap(0.9, drawn, 0.95)
    assert found.p_value == (1 + 10) / 101
    assert found.high == pytest.approx(np.quantile(drawn, 0.95))
    assert permuted_gap(0.9, np.append(drawn, np.nan), 0.95) == found
    assert permuted_gap(np.nan, drawn, 0.95) is None
    assert permuted_gap(0.9, np.array([np.nan]), 0.95) is None


def test_a_fair_model_is_rarely_called_unfair():
    rng = np.random.default_rng(11)
    found = {"dpd": 0, "eod": 0}
    trials = 150
    for trial in range(trials):
        groups = rng.choice(list("abcde"), 250, p=[0.05, 0.15, 0.2, 0.3, 0.3])
        y_true = rng.integers(0, 2, 250)
        y_pred = np.where(rng.random(250) < 0.8, y_true, 1 - y_true)
        result = measure(y_true, y_pred, groups, draws=99, seed=trial)
        for name in found:
            found[name] += result.uncertainty[name].distinguishable_from_0
    assert max(found.values()) / trials <= 0.08  # 5 % and three standard errors


def test_different_base_rates_are_no_unequal_odds():
    """Groups that differ in y alone: DPD is real, EOD is not, and the nulls tell them apart."""
    rng = np.random.default_rng(6)
    groups = np.repeat(["a", "b"], 1000)
    y_true = (rng.random(2000) < np.where(groups == "a", 0.2, 0.7)).astype(int)
    y_pred = np.where(rng.random(2000) < 0.85, y_true, 1 - y_true)
    result = measure(y_true, y_pred, groups, draws=400)
    assert result.uncertainty["dpd"].distinguishable_from_0 is True
    assert result.uncertainty["eod"].distinguishable_from_0 is False
    assert result.uncertainty["eod"].null.high < result.uncertainty["dpd"].null.high + 0.1


def test_a_billion_rows_are_measured_without_it():
    cells = np.array([[[5, 3, 0], [3, 3, 0]], [[5, 3, 0], [3, 4, 0]]]) * 10**13
    result = measure_table(
        CountTable(("a", "b"), np.eye(2, dtype=bool), cells), MetricSettings(draws=100)
    )
    assert result.uncertainty["dpd"].null is None
    assert result.uncertainty["dpd"].distinguishable_from_0 is None
    low, value, high = (getattr(result.metrics["dpd"], key) for key in ("low", "value", "high"))
    assert 0 < value - low < 1e-6
    assert 0 < high - value < 1e-6
    assert result.warnings == (
        "1,000,000,000 rows or more: gaps under permuted group labels are not drawn",
    )


def test_just_below_a_billion_rows_it_is_drawn():
    cells = np.array([[[5, 3, 0], [3, 3, 0]], [[5, 3, 0], [3, 4, 0]]]) * (10**9 // 29 - 1)
    result = measure_table(
        CountTable(("a", "b"), np.eye(2, dtype=bool), cells), MetricSettings(draws=100)
    )
    assert result.uncertainty["dpd"].null.p_value == pytest.approx(1 / 101)
