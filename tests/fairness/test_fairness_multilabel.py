"""Several labels a row: every label by itself, their mean and their maximum."""

import json

import numpy as np
import pandas as pd
import pytest

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import measure, measure_labels


@pytest.fixture(scope="module")
def rows():
    """Two labels; predictions of `insult` are wrong together with those of `threat`."""
    rng = np.random.default_rng(8)
    y_true = {name: rng.integers(0, 2, 400) for name in ("threat", "insult")}
    wrong = rng.random(400) < 0.2
    y_pred = {name: np.where(wrong, 1 - y, y) for name, y in y_true.items()}
    return y_true, y_pred, [[g for g in "abc" if rng.random() < 0.5] for _ in range(400)]


def test_every_label_is_measured_by_itself(rows):
    y_true, y_pred, groups = rows
    result = measure_labels(*rows, draws=100, seed=1)
    assert list(result.views) == ["threat", "insult"]
    for name, found in result.views.items():
        assert found == measure(y_true[name], y_pred[name], groups, draws=100, seed=1)
    right = np.logical_and.reduce([y_true[name] == y_pred[name] for name in y_true])
    assert result.acc.value == right.mean()


def test_macro_and_worst(rows):
    result = measure_labels(*rows, draws=100)
    for key in ("dpd", "eod"):
        values = {name: view.metrics[key].value for name, view in result.views.items()}
        assert result.macro[key].value == pytest.approx(np.mean(list(values.values())))
        assert result.worst[key].value == max(values.values())
        assert result.worst_view[key] == max(values, key=values.get)
        assert result.macro[key].high <= result.worst[key].high + 1e-12


def test_one_label_is_a_measurement(rows):
    y_true, y_pred, groups = rows
    result = measure_labels({"threat": y_true["threat"]}, {"threat": y_pred["threat"]}, groups)
    alone = measure(y_true["threat"], y_pred["threat"], groups)
    assert result.acc == alone.metrics["acc"]
    for key in ("dpd", "eod"):
        assert result.macro[key] == result.worst[key]
        interval, expected = result.macro[key], alone.metrics[key]
        assert interval.value == expected.value
        assert interval.low == pytest.approx(expected.low, abs=0.02)
        assert interval.high == pytest.approx(expected.high, abs=0.02)


def test_copies_of_a_label_do_not_average_their_errors_away(rows):
    y_true, y_pred, groups = rows
    names = [f"copy {k}" for k in range(6)]
    copies = measure_labels(
        dict.fromkeys(names, y_true["threat"]), dict.fromkeys(names, y_pred["threat"]), groups
    )
    alone = measure(y_true["threat"], y_pred["threat"], groups)
    for key in ("dpd", "eod"):
        width = copies.macro[key].high - copies.macro[key].low
        expected = alone.metrics[key].high - alone.metrics[key].low
        assert width == pytest.approx(expected, rel=0.1)


def test_the_order_of_labels_and_rows_does_not_matter(rows):
    y_true, y_pred, groups = rows
    first = measure_labels(*rows, draws=100).to_dict()
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    order = np.random.default_rng(0).permutation(400)
    shuffled = (
        {name: y[order] for name, y in reversed(columns.items())} for columns in (y_true, y_pred)
    )
    second = measure_labels(*shuffled, [groups[row] for row in order], draws=100).to_dict()
    assert list(second["views"]) == ["insult", "threat"]
    assert second == first


def test_data_frames(rows):
    y_true, y_pred, groups = rows
    frames = (pd.DataFrame(columns, index=range(7, 407)) for columns in (y_true, y_pred))
    assert measure_labels(*frames, groups, draws=50) == measure_labels(*rows, draws=50)


def test_a_missing_prediction_spoils_its_label_only(rows):
    y_true, y_pred, groups = rows
    lost = {**y_pred, "insult": y_pred["insult"].astype(object)}
    lost["insult"][:50] = None
    result = measure_labels(y_true, lost, groups, draws=50)
    assert result.views["insult"].unanswered == 50
    assert result.views["threat"].unanswered == 0
    assert result.macro["dpd"].value == result.views["threat"].metrics["dpd"].value
    assert result.warnings[0] == "the dpd of 'insult' is undefined: left out of macro and worst"


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ({}, {}, r"^y_true: needs a mapping from label to column, with at least one label"),
        (np.ones((2, 2), int), {}, r"^y_true: needs a mapping from label to column.*got 'ndarray'"),
        ({"x": [0, 1]}, [[0, 1]], r"^y_pred: needs a mapping from label to column.*got 'list'"),
        ({1: [0, 1], "1": [0, 1]}, {}, r"^y_true: needs a mapping.*distinct names; got \[1, '1'\]"),
        ({"x": [0, 1]}, {"y": [0, 1]}, r"^y_pred: needs the labels of y_true; got \['y'\]"),
        ({"x": [0, 1]}, {"x": [0]}, r"^y_pred\['x'\]: differs in length from y_true; got 1"),
        ({"x": [0, 2]}, {"x": [0, 1]}, r"^y_true\['x'\]: labels must be binary integers; got 2"),
        ({"x": [0, 1]}, {"x": [0.1, 1]}, r"^y_pred\['x'\]: probabilities are not predictions"),
        (
            {"x": [0, 1], "y": [0, 1, 1]},
            {"x": [0, 1], "y": [0, 1, 1]},
            r"^y_true\['y'\]: differs in length from y_true; got 3",
        ),
    ],
)
def test_messages(y_true, y_pred, message):
    with pytest.raises(MeasurementError, match=message):
        measure_labels(y_true, y_pred, ["a", "b"])
