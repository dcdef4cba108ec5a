"""Whatever the rows are: no traceback, no NaN in the JSON, values in range, a reason for None."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import (
    Groups,
    compare,
    compare_many,
    estimate,
    measure,
    measure_classes,
    measure_labels,
    measure_scores,
)
from mergekit_fair.fairness.settings import REFERENCES

few_rows = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([0, 1, None]),
        st.sampled_from([0, 1, 1, 1, None]),
        st.frozensets(st.sampled_from("abc")),
    ),
    min_size=1,
    max_size=10,
)
options = st.fixed_dictionaries(
    {
        "reference": st.sampled_from(REFERENCES),
        "confidence": st.sampled_from([0.5, 0.95, 0.999, 1 - 1e-16]),
        "min_group_size": st.sampled_from([1, 2, 5]),
        "draws": st.sampled_from([1, 2, 30]),
    }
)


def columns(rows):
    y_true, a, b, groups = zip(*rows, strict=True)
    return list(y_true), list(a), list(b), [sorted(g) for g in groups]


def numbers(value):
    """All numbers of a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


@settings(max_examples=60, deadline=None)
@given(few_rows, options)
def test_measure(rows, how):
    y_true, y_pred, _, groups = columns(rows)
    result = measure(y_true, y_pred, groups, **how).to_dict()
    json.dumps(result, allow_nan=False)
    for interval in result["metrics"].values():
        low, value, high = interval["low"], interval["value"], interval["high"]
        assert (low is None) == (high is None)
        assert low is None or 0 <= low <= value <= high <= 1
    for more in result["uncertainty"].values():
        for ends in (more["basic"], more["bias_corrected"], more["band"]):
            assert ends is None or 0 <= ends[0] <= ends[1] <= 1
        assert more["null"] is None or 0 < more["null"]["p_value"] <= 1
    undefined = [name for name, interval in result["metrics"].items() if interval["value"] is None]
    assert not undefined or result["warnings"]
    point = estimate(
        y_true,
        y_pred,
        groups,
        reference=how["reference"],
        min_group_size=how["min_group_size"],
    )
    assert set(undefined) == {name for name, value in point.items() if np.isnan(value)}


@settings(max_examples=40, deadline=None)
@given(few_rows, options)
def test_comparisons(rows, how):
    y_true, a, b, groups = columns(rows)
    first = compare(y_true, a, b, groups, **how)
    many = compare_many(y_true, {"a": a, "b": b, "c": a}, groups, baseline="a", **how)
    for found in (first.to_dict(), many.to_dict()):
        json.dumps(found, allow_nan=False)
        assert all(-1 <= number <= 1 for number in numbers(found))
    assert many.to_dict()["c"]["acc"]["value"] == 0.0


@settings(max_examples=25, deadline=None)
@given(few_rows, options)
def test_classes_labels_and_scores(rows, how):
    y_true, a, b, groups = columns(rows)
    labels = measure_labels({"x": y_true, "y": y_true}, {"x": a, "y": b}, groups, **how)
    classes = measure_classes(y_true, a, groups, classes=[0, 1, 2], **how)
    del how["reference"]
    scores = measure_scores([0.3 if s is None else s for s in a], groups, **how)
    nothing = measure_scores(a, groups, **how)
    for found in (labels, classes, scores, nothing):
        json.dumps(found.to_dict(), allow_nan=False)


N = 120
Y = np.tile([0, 1, 1], 40)
HALVES = np.repeat(["a", "b"], 60)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "groups", "how", "warning"),
    [
        (Y, Y, [None] * N, {}, "no usable group: worst-group accuracy is undefined"),
        (Y, Y, ["a"] * N, {}, "group 'a' holds every row: its one-vs-rest gaps are undefined"),
        (
            Y,
            Y,
            HALVES,
            {"exclude": ["a", "b"]},
            "no usable group: worst-group accuracy is undefined",
        ),
        (
            Y,
            Y,
            ["solo"] + ["a"] * 119,
            {"min_group_size": 2},
            "too few rows to decide a gap (min_group_size 2): ",
        ),
        (
            Y,
            Y,
            ["solo"] + ["a"] * 119,
            {},
            "too few rows to decide a gap (min_group_size 1): ",
        ),
        (Y * 0, Y, HALVES, {}, "there are no positive labels: TPR and balanced accuracy are "),
        (Y * 0 + 1, Y, HALVES, {}, "there are no negative labels: FPR and balanced accuracy are "),
        (Y, Y * 0, HALVES, {}, "predictions are (nearly) constant"),
        (Y, Y * 0, HALVES, {}, "dp_ratio is undefined: no row of any group is predicted positive"),
        (Y, Y * 0, HALVES, {}, "eo_ratio is undefined: TPR and FPR are 0 in every group that has "),
        (Y, np.where(HALVES == "a", np.nan, Y), HALVES, {}, "predictions are missing for 100.0%"),
        (Y, [None] * N, HALVES, {}, "no row has a usable prediction: every rate is undefined"),
        ([1], [1], ["a"], {}, "1 usable group(s), two are needed: DPD, EOD, equal opportunity, "),
        ([1], [None], [[]], {}, "0 usable group(s), two are needed"),
        (Y, Y, HALVES, {"draws": 1}, "1 bootstrap draws are too few for a confidence of 0.95: use"),
    ],
)
@pytest.mark.parametrize("reference", REFERENCES)
def test_a_reason_is_given(y_true, y_pred, groups, how, warning, reference):
    result = measure(y_true, y_pred, groups, reference=reference, **{"draws": 50, **how}).to_dict()
    json.dumps(result, allow_nan=False)
    assert any(text.startswith(warning) for text in result["warnings"]), result["warnings"]


def test_groups_of_other_rows_are_refused():
    groups = Groups.of(HALVES[:10], 10)
    calls = (
        lambda: measure(Y, Y, groups),
        lambda: compare(Y, Y, Y, groups),
        lambda: measure_classes(Y, Y, groups),
        lambda: measure_scores(Y, groups),
    )
    for call in calls:
        with pytest.raises(MeasurementError) as caught:
            call()
        assert str(caught.value) == (
            "groups: are of other rows; got '10 rows'; allowed: 120 rows. Pass the groups of the "
            "same rows as y_true, in the same order."
        )


def test_copies_of_rows_cannot_be_told_from_rows():
    """A limit, not a feature: counts do not know that rows are copies, so intervals shrink."""
    once = measure(Y, 1 - Y[::-1], HALVES).metrics["acc"]
    twice = measure(np.tile(Y, 2), np.tile(1 - Y[::-1], 2), np.tile(HALVES, 2)).metrics["acc"]
    assert twice.value == once.value
    assert (twice.high - twice.low) < 0.75 * (once.high - once.low)
    assert "Rows are taken to be independent" in measure.__doc__
