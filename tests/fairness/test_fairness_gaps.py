"""DPD and EOD equal fairlearn on partitions and a plain loop on overlapping groups."""

import itertools

import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference as fairlearn_dpd
from fairlearn.metrics import equalized_odds_difference as fairlearn_eod
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import raises

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import CountTable, estimate
from mergekit_fair.fairness.grouped import Grouped
from mergekit_fair.fairness.rates import DPD_RATES, EOD_RATES, against_rest, gap_of
from mergekit_fair.fairness.settings import REFERENCES

ALL = {"dpd": DPD_RATES, "eod": EOD_RATES}


def counted(y_true, y_pred, groups):
    return CountTable.tally(y_true, y_pred, groups).counts


def value(metric, counts, reference="between_groups", usable=None):
    usable = np.ones(len(counts.groups), dtype=bool) if usable is None else np.array(usable)
    return float(gap_of(ALL[metric], counts, usable, reference))


@st.composite
def partitions(draw):
    """Rows of two to five groups, each with both labels, so that every rate is defined."""
    y_true, y_pred, groups = [], [], []
    for group in range(draw(st.integers(2, 5))):
        for y in (0, 1):
            predictions = draw(st.lists(st.integers(0, 1), min_size=1, max_size=8))
            y_true += [y] * len(predictions)
            y_pred += predictions
            groups += [f"g{group}"] * len(predictions)
    return y_true, y_pred, groups


@settings(max_examples=20, deadline=None)
@given(partitions())
def test_equal_to_fairlearn(rows):
    y_true, y_pred, groups = rows
    counts = counted(*rows)
    for reference in ("between_groups", "to_overall"):
        options = {"sensitive_features": groups, "method": reference}
        expected = fairlearn_dpd(y_true, y_pred, **options)
        assert value("dpd", counts, reference) == pytest.approx(expected, abs=1e-12)
        expected = fairlearn_eod(y_true, y_pred, agg="worst_case", **options)
        assert value("eod", counts, reference) == pytest.approx(expected, abs=1e-12)


def brute_force(y_true, y_pred, members, reference):
    """DPD and EOD of overlapping groups, one membership at a time."""

    def share(rows):
        rows = list(rows)
        return sum(rows) / len(rows) if rows else None

    def rates(keep):
        kept = [
            (y, p) for index, (y, p) in enumerate(zip(y_true, y_pred, strict=True)) if keep(index)
        ]
        return (
            share(p for _, p in kept),
            share(p for y, p in kept if y == 1),
            share(p for y, p in kept if y == 0),
        )  # fmt: skip

    names = sorted(set(itertools.chain(*members)))
    inside = [rates(lambda i, g=g: g in members[i]) for g in names]
    outside = [rates(lambda i, g=g: g not in members[i]) for g in names]
    overall = rates(lambda _: True)
    parts = []
    for kind in range(3):
        if reference == "between_groups":
            pairs = itertools.combinations([rate[kind] for rate in inside], 2)
        elif reference == "one_vs_rest":
            pairs = [(a[kind], b[kind]) for a, b in zip(inside, outside, strict=True)]
        else:
            pairs = [(a[kind], overall[kind]) for a in inside]
        parts.append(max(abs(a - b) for a, b in pairs if a is not None and b is not None))
    return {"dpd": parts[0], "eod": max(parts[1:])}


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("seed", range(5))
def test_overlapping_groups_equal_a_loop(reference, seed):
    rng = np.random.default_rng(seed)
    members = [[g for g in "abcd" if rng.random() < 0.4] for _ in range(80)]
    y_true, y_pred = rng.integers(0, 2, (2, 80)).tolist()
    counts = counted(y_true, y_pred, members)
    expected = brute_force(y_true, y_pred, members, reference)
    for metric in ALL:
        assert value(metric, counts, reference) == pytest.approx(expected[metric], abs=1e-12)


@pytest.mark.parametrize("reference", REFERENCES)
def test_fewer_than_two_usable_groups_is_nan(reference):
    rows = [0, 1, 0, 1, 0], [0, 1, 1, 1, 1], ["a", "a", "b", "b", None]
    for metric in ALL:
        assert estimate(*rows, reference=reference)[metric] > 0
        for excluded in (["a"], ["a", "b"]):
            assert np.isnan(estimate(*rows, reference=reference, exclude=excluded)[metric])


def test_unusable_groups_decide_nothing():
    groups = ["a"] * 4 + ["b"] * 4 + ["c"]
    counts = counted([0, 0, 1, 1] * 2 + [0], [0, 0, 1, 1, 0, 0, 0, 1, 1], groups)
    assert value("dpd", counts) == 0.75
    assert value("dpd", counts, usable=[True, True, False]) == 0.25
    assert value("dpd", counts, "to_overall", [True, True, False]) == pytest.approx(4 / 9 - 1 / 4)


def test_undefined_rates_are_left_out_and_never_zero():
    # c has no positives: fairlearn gives it a TPR of 0 and an EOD of 1.
    rows = [0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0], ["a", "a", "b", "b", "c", "c"]
    assert value("eod", counted(*rows)) == 0.0
    # An FPR alone is no EOD, when a single group has positives ...
    rows = [0, 1, 0, 0], [0, 1, 1, 0], ["a", "a", "b", "b"]
    for reference in REFERENCES:
        assert np.isnan(estimate(*rows, reference=reference)["eod"])
    # ... nor when one group has positives only, the other negatives only.
    rows = [1, 1, 0, 0], [1, 0, 1, 0], ["a", "a", "b", "b"]
    for reference in REFERENCES:
        assert np.isnan(estimate(*rows, reference=reference)["eod"])


def test_one_vs_rest_per_group():
    counts = counted([0, 1, 0, 1], [1, 1, 0, 1], [["a"], ["a", "b"], ["b"], []])
    assert against_rest(DPD_RATES, counts).tolist() == [0.5, 0.5]
    assert against_rest(EOD_RATES, counts).tolist() == [1.0, 1.0]
    everyone = counted([0, 1], [0, 1], ["a", "a"])
    assert np.isnan(against_rest(DPD_RATES, everyone)).all()
    no_positive_in_b = counted([0, 1, 0, 0], [1, 1, 0, 1], ["a", "a", "b", "b"])
    assert np.isnan(against_rest(EOD_RATES, no_positive_in_b)).all()


def test_vectorised_over_replicates():
    rng = np.random.default_rng(2)
    groups = rng.integers(0, 4, (50, 3, 2, 2))
    overall = groups.sum(axis=1) + rng.integers(0, 4, (50, 2, 2))
    usable = np.array([True, True, False])
    for rates, reference in itertools.product(ALL.values(), REFERENCES):
        together = gap_of(rates, Grouped(groups, overall), usable, reference)
        alone = [
            gap_of(rates, Grouped(*draw), usable, reference)
            for draw in zip(groups, overall, strict=True)
        ]
        np.testing.assert_array_equal(together, alone)


def test_unknown_reference():
    with raises(MeasurementError, where="reference", got="overall", allowed=REFERENCES):
        value("dpd", counted([0, 1], [0, 1], ["a", "b"]), "overall")
