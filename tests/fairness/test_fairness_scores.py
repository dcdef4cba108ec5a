"""Mean scores by group, against numpy; scores that are missing; what a row bootstrap can see."""

import json

import numpy as np
import pandas as pd
import pytest

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import measure_scores


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(2)
    groups = rng.choice(list("abc"), 300, p=[0.2, 0.3, 0.5])
    return rng.normal(size=300) + 0.5 * (groups == "a"), groups


def test_by_numpy(rows):
    scores, groups = rows
    result = measure_scores(*rows, draws=200).to_dict()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    means = {name: scores[groups == name].mean() for name in "abc"}
    assert result["means"] == pytest.approx(means)
    assert result["sizes"] == {name: (groups == name).sum() for name in "abc"}
    assert result["gap"]["value"] == pytest.approx(np.ptp(list(means.values())))
    assert 0 <= result["gap"]["low"] <= result["gap"]["value"] <= result["gap"]["high"]
    assert (result["n"], result["unanswered"], result["warnings"]) == (300, 0, [])


def test_groups_may_overlap():
    scores = np.array([0.0, 1.0, 2.0, 3.0])
    result = measure_scores(scores, [["a"], ["a", "b"], ["b"], []], draws=200)
    assert result.means == {"a": 0.5, "b": 1.5}
    assert result.gap.value == 1.0


def test_the_same_as_resampling_rows(rows):
    scores, groups = rows
    rng = np.random.default_rng(0)
    means = np.array([scores[groups == name].mean() for name in "abc"])
    gaps, errors = [], []
    for _ in range(1500):
        pick = rng.integers(0, 300, 300)
        drawn = np.array([scores[pick][groups[pick] == name].mean() for name in "abc"])
        gaps.append(np.ptp(drawn))
        errors.append(np.ptp(drawn - means))
    found = measure_scores(*rows).gap
    assert found.high == pytest.approx(np.quantile(gaps, 0.975), rel=0.05)
    assert found.low == pytest.approx(max(0, np.ptp(means) - np.quantile(errors, 0.975)), abs=0.03)


def test_no_order_matters(rows):
    scores, groups = rows
    first = measure_scores(*rows, draws=100).to_dict()
    order = np.random.default_rng(1).permutation(300)
    assert measure_scores(scores[order], groups[order], draws=100).to_dict() == first
    masks = {name: groups == name for name in "cba"}
    second = measure_scores(scores, masks, draws=100).to_dict()
    assert second["gap"] == pytest.approx(first["gap"], abs=1e-12)
    assert second["means"] == pytest.approx(first["means"], abs=1e-12)


@pytest.mark.parametrize(
    "missing",
    [
        lambda scores: [None, *scores[1:]],
        lambda scores: [np.inf, *scores[1:]],
        lambda scores: [pd.NA, *scores[1:]],
        lambda scores: pd.Series([pd.NA, *scores[1:]], dtype="Float64"),
        lambda scores: np.ma.array(scores, mask=np.arange(300) == 0),
    ],
)
def test_missing_scores_are_left_out_and_counted(rows, missing):
    scores, groups = rows
    result = measure_scores(missing(scores), groups, draws=100)
    name, size = groups[0], (groups == groups[0]).sum()
    assert result.unanswered == 1
    assert result.sizes[name] == size - 1
    assert result.means[name] == pytest.approx(scores[1:][groups[1:] == name].mean())
    assert result.gap.low is not None
    assert result.warnings == (
        f"group '{name}': 1 of {size} scores are not finite, left out of its mean",
    )


TOO_MANY = (
    "more than 5% of the scores of a group or of all rows are not finite: the gap is undefined"
)


def test_too_many_missing_scores(rows):
    scores, groups = rows
    of_a = scores.copy()
    of_a[np.flatnonzero(groups == "a")[:6]] = np.nan
    assert measure_scores(of_a, groups, draws=50).warnings[-1] == TOO_MANY
    assert measure_scores(of_a, groups, draws=50, exclude=["a"]).gap.value is not None
    result = measure_scores(np.full(300, np.nan), groups, draws=50).to_dict()
    assert result["gap"] == {"value": None, "low": None, "high": None}
    assert result["means"] == {"a": None, "b": None, "c": None}
    assert TOO_MANY in result["warnings"]
    outside = np.append(scores, [np.nan] * 30)
    assert TOO_MANY in measure_scores(outside, [*groups, *[None] * 30], draws=50).warnings


def test_one_usable_group(rows):
    scores, groups = rows
    for options in ({"exclude": ["a", "b"]}, {"min_group_size": 100}):
        result = measure_scores(scores, groups, draws=50, **options)
        assert result.gap.value is None
        assert result.warnings[-1] == "1 usable group(s), two are needed: the gap is undefined"


def test_a_group_that_cannot_show_its_error(rows):
    scores, groups = rows
    alone = groups.astype(object)
    alone[0] = "solo"
    result = measure_scores(scores, alone, draws=100)
    assert result.warnings[0] == (
        "all scores of group 'solo' are the same: how far its mean is off cannot be seen, and the "
        "interval is too narrow"
    )
    (warning,) = measure_scores(scores, alone, draws=100, min_group_size=2).warnings
    assert warning == "too few rows to decide the gap (min_group_size 2): 'solo' (1)"


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (["0.5", "1"], r"^scores: must be numbers\. Convert them, None where there is none\.$"),
        (["high", 1.0], r"^scores: must be numbers"),
        ([1j, 2j], r"^scores: must be numbers"),
        ([[0.1], [0.2, 0.3]], r"^scores: must be numbers"),
        ([[0.1, 0.2]], r"^scores: needs one score per row; got 'shape \(1, 2\)'"),
        ([], r"^scores: needs one score per row; got 'shape \(0,\)'"),
        ([0.5], r"^groups: needs one label"),
    ],
)
def test_messages(scores, message):
    with pytest.raises(MeasurementError, match=message):
        measure_scores(scores, ["a", "b"])
