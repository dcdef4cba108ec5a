"""Classes: every class against the others, and their mean and maximum."""

import json

import numpy as np
import pandas as pd
import pytest

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import estimate, measure, measure_classes

CLASSES = ("cat", "dog", "fox")


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(5)
    y_true = rng.choice(CLASSES, 400)
    y_pred = np.where(rng.random(400) < 0.7, y_true, rng.choice(CLASSES, 400))
    return y_true, y_pred, rng.choice(list("abc"), 400, p=[0.2, 0.4, 0.4])


def test_every_class_is_measured_as_a_binary_label(rows):
    y_true, y_pred, groups = rows
    result = measure_classes(*rows, draws=100, seed=2)
    assert list(result.views) == list(CLASSES)
    for name, found in result.views.items():
        assert found == measure(
            (y_true == name).astype(int), (y_pred == name).astype(int), groups, draws=100, seed=2
        )
    assert result.acc.value == (y_true == y_pred).mean()
    assert result.warnings == ()


@pytest.mark.parametrize("reference", ["between_groups", "one_vs_rest", "to_overall"])
def test_macro_is_the_mean_and_worst_the_maximum(rows, reference):
    y_true, y_pred, groups = rows
    result = measure_classes(*rows, reference=reference, draws=100)
    for key in ("dpd", "eod"):
        values = {
            name: estimate(
                (y_true == name).astype(int),
                (y_pred == name).astype(int),
                groups,
                reference=reference,
            )[key]
            for name in CLASSES
        }
        assert result.macro[key].value == pytest.approx(np.mean(list(values.values())))
        assert result.worst[key].value == pytest.approx(max(values.values()))
        assert values[result.worst_view[key]] == max(values.values())
        for interval in (result.macro[key], result.worst[key]):
            assert 0 <= interval.low <= interval.value <= interval.high <= 1
        # A mean cannot be further off than its parts are when all err together.
        highs = [view.metrics[key].high for view in result.views.values()]
        assert result.macro[key].high <= np.mean(highs) + 0.01


def test_two_classes_are_one_binary_label(rows):
    y_true, y_pred = (column == "cat" for column in rows[:2])
    names = np.array(["no", "yes"])
    result = measure_classes(names[y_true.astype(int)], names[y_pred.astype(int)], rows[2])
    binary = measure(y_true, y_pred, rows[2])
    for key in ("dpd", "eod"):
        value = binary.metrics[key].value
        assert result.views["yes"].metrics[key] == binary.metrics[key]
        assert result.views["no"].metrics[key].value == pytest.approx(value)
        for found in (result.macro[key], result.worst[key]):
            assert found.value == pytest.approx(value)
            # The same question twice: nothing averages out, and little is added.
            assert found.low == pytest.approx(binary.metrics[key].low, abs=0.03)
            assert found.high == pytest.approx(binary.metrics[key].high, abs=0.03)
    assert result.acc == binary.metrics["acc"]


def test_the_json(rows):
    result = measure_classes(*rows, draws=100).to_dict()
    assert list(result) == [
        "kind",
        "n",
        "unanswered",
        "reference",
        "confidence",
        "degenerate",
        "acc",
        "macro",
        "worst",
        "worst_view",
        "views",
        "warnings",
    ]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_order_of_rows_groups_and_classes_does_not_matter(rows):
    first = measure_classes(*rows, draws=100).to_dict()
    order = np.random.default_rng(1).permutation(400)
    assert measure_classes(*(column[order] for column in rows), draws=100).to_dict() == first
    masks = {name: rows[2] == name for name in "cab"}
    assert measure_classes(*rows[:2], masks, draws=100).to_dict() == first


def test_macro_and_worst_are_resampled_by_whole_rows(rows):
    y_true, y_pred, groups = rows
    result = measure_classes(*rows, draws=2000)
    rng = np.random.default_rng(3)
    slow = []
    for _ in range(300):
        pick = rng.integers(0, 400, 400)
        slow.append([
            estimate(y_true[pick] == name, y_pred[pick] == name, groups[pick])["dpd"]
            for name in CLASSES
        ])  # fmt: skip
    upper = np.quantile(slow, 0.975, axis=0)
    assert max(upper) <= result.worst["dpd"].high + 0.02
    # The upper limits are those of the row bootstrap, or of the smoothed table if it is larger.
    for found, drawn in (
        (result.macro["dpd"].high, np.mean(slow, axis=1)),
        (result.worst["dpd"].high, np.max(slow, axis=1)),
    ):
        expected = np.quantile(drawn, 0.975)
        assert expected - 0.02 <= found <= expected + 0.06


def test_integers_are_sorted_as_numbers():
    values = [10, 9, 2] * 20
    result = measure_classes(values, values, ["a", "b"] * 30, draws=50)
    assert list(result.views) == ["2", "9", "10"]
    named = measure_classes(values, values, ["a", "b"] * 30, classes=[9, 10, 2, 7], draws=50)
    assert list(named.views) == ["9", "10", "2", "7"]


@pytest.mark.parametrize(
    "predictions",
    [
        [1, 2, None] * 10,
        [1.0, 2.0, np.nan] * 10,
        pd.Series([1, 2, pd.NA] * 10, dtype="Int64"),
        np.ma.array([1, 2, 3] * 10, mask=[False, False, True] * 10),
    ],
)
def test_missing_predictions(predictions):
    result = measure_classes([1, 2, 3] * 10, predictions, ["a", "b"] * 15, draws=50)
    assert result.acc.value == pytest.approx(2 / 3)
    assert all(view.unanswered == 10 for view in result.views.values())
    assert result.macro["dpd"].value is result.worst_view["eod"] is None
    assert "the dpd of '1' is undefined: left out of macro and worst" in result.warnings


def test_predictions_that_are_no_class_are_said_to_be():
    y_true, y_pred = ["x", "y"] * 50, ["x", "y"] * 49 + ["z", "q"]
    result = measure_classes(y_true, y_pred, ["a", "b"] * 50, draws=50)
    assert result.views["x"].unanswered == 2
    assert result.warnings[0] == (
        "2 predictions are not a class ('z', 'q'): counted as no usable prediction; name them in "
        "`classes` if they are"
    )
    named = measure_classes(y_true, y_pred, ["a", "b"] * 50, classes="xyzq", draws=50)
    assert named.views["x"].unanswered == 0
    assert not any("no class" in text for text in named.warnings)


def test_a_class_without_gaps_is_left_out():
    y_true = ["x"] * 50 + ["y"] * 50
    result = measure_classes(y_true, y_true, ["a", None] * 50, draws=50)
    assert result.macro["dpd"].to_dict() == {"value": None, "low": None, "high": None}
    assert len(result.warnings) == 4


@pytest.mark.parametrize(
    ("y_true", "y_pred", "options", "message"),
    [
        (["x"] * 2, ["x"] * 2, {}, r"^classes: needs two or more classes with distinct names"),
        ([1, "1"], [1, "1"], {}, r"^classes: needs two or more classes with distinct names"),
        (["x", "y"], ["x"], {}, r"^y_pred: differs in length from y_true; got 1; allowed: 2\.$"),
        (["y"], ["y"], {"classes": "xz"}, r"^y_true: is not a class; got 'y'; allowed: x"),
        (["x", None], ["x", "y"], {}, r"^y_true: missing class in row 1\. Drop the row\.$"),
        ([1.0, 2.0], [1, 2], {}, r"^y_true: scores are not classes \(row 0\); got 1.0\. Take"),
        ([1, 2], [1, 0.5], {}, r"^y_pred: scores are not classes \(row 1\); got 0.5"),
        ([1, 2], [np.float32(0.5), 1], {}, r"^y_pred: scores are not classes \(row 0\); got 0.5"),
        ([[1], [2, 3]], [1, 2], {}, r"^y_true: is not a class \(row 0\); got \[1\]"),
        ([[1, 2]], [1], {}, r"^y_true: needs one class per row; got 'shape \(1, 2\)'"),
        ([], [], {}, r"^y_true: needs one class per row; got 'shape \(0,\)'"),
        (["x", "y"], ["x", "y"], {"draws": 0}, r"^draws: must be an integer, at least 1"),
        (["x", "y"], ["x", "y"], {"exclude": ["q"]}, r"^exclude: no such group; got 'q'"),
    ],
)
def test_messages(y_true, y_pred, options, message):
    with pytest.raises(MeasurementError, match=message):
        measure_classes(y_true, y_pred, ["a", "b"][: len(y_true)], **options)
