"""Which groups decide: one function, the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import CountTable, MetricSettings, measure_scores
from mergekit_fair.fairness.eligible_groups import (
    EligibleGroups,
    eligible_groups,
    is_answered,
    worst_group,
)

NAMES = ("a", "b", "empty", "other")


@pytest.mark.parametrize(
    ("least", "exclude", "expected"),
    [
        (1, (), [True, True, False, True]),
        (5, (), [True, False, False, True]),
        (1, ("other",), [True, True, False, False]),
        (41, (), [False, False, False, False]),
    ],
)
def test_present_large_enough_and_not_excluded(least, exclude, expected):  # type: ignore[no-untyped-def]
    settings = MetricSettings(min_group_size=least, exclude=exclude)
    assert eligible_groups(NAMES, [40, 4, 0, 30], settings).tolist() == expected


def test_an_unknown_name_is_refused() -> None:
    with raises(MeasurementError, where="exclude", got="others", allowed=NAMES):
        eligible_groups(NAMES, [1, 1, 1, 1], MetricSettings(exclude=["others"]))


def test_five_percent_may_be_missing_and_no_row_more() -> None:
    for size in (20, 60, 100, 140, 1000):
        allowed = size // 20
        assert is_answered([allowed], [size])
        assert not is_answered([0, allowed + 1], [size, size])


def test_tables_and_scores_decide_alike() -> None:
    """One missing row of 20 is allowed, two are not; an excluded group may miss them all."""
    groups = ["a"] * 20 + ["b"] * 200 + ["c"] * 4
    for missing, exclude, comparable in (
        ([0], (), True),
        ([0, 1], (), False),
        ([220, 221], ("c",), True),
        ([220, 221], (), False),
    ):
        settings = MetricSettings(exclude=exclude)
        y_pred = [None if row in missing else row % 2 for row in range(224)]
        table = CountTable.tally([row % 2 for row in range(224)], y_pred, groups)
        assert EligibleGroups.of(table, settings).comparable.any() == comparable
        scores = measure_scores(y_pred, groups, exclude=exclude, draws=20)
        assert (scores.gap.value is not None) == comparable


def test_the_worst_group_is_eligible_too() -> None:
    gaps = {"a": 0.1, "b": 0.3, "empty": None, "other": 0.9}
    sizes = {"a": 40, "b": 4, "empty": 0, "other": 30}
    evaluation = {
        "one_vs_rest": {"groups": {name: {"dpd": gap, "eod": gap} for name, gap in gaps.items()}},
        "groups": {name: {"n": n} for name, n in sizes.items()},
    }
    options = {"candidates": NAMES, "excluded": ["other", "nobody"]}
    assert worst_group(evaluation, **options) == ("b", {"a": 0.1, "b": 0.3})
    assert worst_group(evaluation, **options, min_group_size=5) == ("a", {"a": 0.1})
    with raises(MeasurementError):
        worst_group(evaluation, candidates=["empty"])


def test_masks_are_numpy_of_groups() -> None:
    mask = eligible_groups((), [], MetricSettings())
    assert mask.shape == (0,)
    assert np.asarray(mask).dtype == bool
