"""Rates on counts: by hand, and NaN where there is nothing to divide by."""

import numpy as np
import pytest

from mergekit_fair.fairness import rates
from mergekit_fair.fairness.eligible_groups import EligibleGroups, GroupSizes
from mergekit_fair.fairness.grouped import Grouped
from mergekit_fair.fairness.metrics import METRICS

COUNTS = np.array([[50, 10], [20, 20]])  # [y, ŷ]
EMPTY = np.zeros((2, 2), dtype=np.int64)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (rates.accuracy, 0.7),
        (rates.selection_rate, 0.3),
        (rates.base_rate, 0.4),
        (rates.true_positive_rate, 0.5),
        (rates.false_positive_rate, 1 / 6),
        (rates.balanced_accuracy, (0.5 + 5 / 6) / 2),
    ],
)
def test_rates(metric, expected):
    assert metric(COUNTS) == pytest.approx(expected, abs=1e-15)
    assert np.isnan(metric(EMPTY))
    stacked = metric(np.stack([[COUNTS, EMPTY], [EMPTY, COUNTS]]))
    assert stacked.shape == (2, 2)
    assert np.isnan(stacked).tolist() == [[False, True], [True, False]]


def test_rates_without_one_class():
    no_positives = np.array([[3, 1], [0, 0]])
    assert np.isnan(rates.true_positive_rate(no_positives))
    assert np.isnan(rates.balanced_accuracy(no_positives))
    assert rates.false_positive_rate(no_positives) == 0.25
    assert np.isnan(rates.false_positive_rate(no_positives[::-1]))


def test_worst_group_accuracy():
    groups = np.stack([COUNTS, EMPTY, np.array([[1, 9], [0, 0]])])

    def worst(groups, *deciding):
        excluded = ~np.array(deciding, dtype=bool)
        rows = groups.sum(axis=-1)
        sizes = GroupSizes(tuple("abc")[: len(groups)], rows, rows, excluded, 0)
        eligible = EligibleGroups(sizes, groups, is_answered=True)
        counts = Grouped(groups, groups.sum(axis=0))
        return METRICS["worst_group_acc"].values(counts, eligible, "between_groups")

    assert worst(groups, True, True, True) == 0.1
    assert worst(groups, True, True, False) == 0.7
    assert np.isnan(worst(groups, False, True, False))
    assert np.isnan(worst(groups[:0]))


def test_max_min_gap_largest_and_mean_leave_nan_out():
    nan = np.nan
    values = np.array([[0.1, nan, 0.4], [nan, nan, 0.4], [nan, nan, nan]])
    assert rates.max_min_gap(values) == pytest.approx([0.3, nan, nan], nan_ok=True)
    assert rates.largest(values) == pytest.approx([0.4, 0.4, nan], nan_ok=True)
    assert rates.mean(values) == pytest.approx([0.25, 0.4, nan], nan_ok=True)


@pytest.mark.parametrize(
    ("counts", "degenerate"),
    [
        ([[60, 0], [40, 0]], True),  # never positive
        ([[0, 60], [0, 40]], True),  # always positive
        ([[600, 0], [399, 1]], True),  # 0.1 % predicted, 40 % true
        ([[600, 0], [381, 19]], True),  # 1.9 % < 0.05 · 40 %
        ([[600, 0], [380, 20]], False),  # exactly 0.05 · 40 %
        ([[990, 5], [5, 0]], False),  # a rare class, rarely predicted
        ([[50, 10], [20, 20]], False),
        ([[3, 1], [0, 0]], False),  # labels constant, predictions not
    ],
)
def test_degenerate(counts, degenerate):
    assert rates.is_degenerate(np.array(counts)) == degenerate
