"""Missing predictions: how they may be written, and what follows from them."""

import numpy as np
import pandas as pd
import pytest

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import CountTable, compare, estimate, measure
from mergekit_fair.fairness.labels import UNANSWERED, binary_predictions

N = 200
GROUPS = ["a"] * 100 + ["b"] * 100


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, N), rng.integers(0, 2, N)


@pytest.mark.parametrize(
    "values",
    [
        [1, 0, None],
        [1.0, 0.0, np.nan],
        [True, False, None],
        [np.True_, np.float64(0), np.nan],
        np.array([1, 0, np.nan], dtype=np.float16),
        np.ma.array([1, 0, 1], mask=[False, False, True]),
        np.ma.array([1.0, 0.0, 0.7], mask=[False, False, True]),
        pd.Series([1, 0, None]),
        pd.Series([1, 0, pd.NA], dtype="Int64"),
        pd.Series([True, False, pd.NA], dtype="boolean"),
        pd.Series([1, 0, pd.NaT], dtype=object),
        pd.Series([1, 0, None], index=[7, 7, -1]),
    ],
)
def test_ways_to_write_them(values):
    assert binary_predictions(values, "y_pred").tolist() == [1, 0, UNANSWERED]


@pytest.mark.parametrize("values", [[1.0, 0.0], np.array([1, 0], dtype=np.float32), [1, 0.0]])
def test_a_column_that_could_have_held_nan(values):
    assert binary_predictions(values, "y_pred").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, np.nan], r"^y_pred: probabilities are not predictions; got 0.5"),
        ([0.5, None], r"^y_pred: probabilities are not predictions; got 0.5"),
        ([0.0, 0.5], r"^y_pred: probabilities are not predictions; got 0.5"),
        ([np.inf, None], r"^y_pred: probabilities are not predictions; got inf"),
        (["1", None], r"^y_pred: labels must be binary integers; got '1'"),
        ([2, None], r"^y_pred: labels must be binary integers; got 2"),
        ([[1], None], r"^y_pred: "),
        ([], r"^y_pred: there are no rows"),
    ],
)
def test_what_is_there_must_still_be_a_prediction(values, message):
    with pytest.raises(MeasurementError, match=message):
        binary_predictions(values, "y_pred")


@pytest.mark.parametrize(
    "labels",
    [
        [1, None],
        [1.0, np.nan],
        pd.Series([1, pd.NA], dtype="Int64"),
        pd.Series([True, pd.NA], dtype="boolean"),
        np.ma.array([1, 1], mask=[False, True]),
    ],
)
def test_labels_may_not_be_missing(labels):
    with pytest.raises(MeasurementError, match=r"^y_true: missing value \(NaN\) in row 1"):
        estimate(labels, [0, 1], ["a", "b"])


def without(y_pred, rows):
    found = y_pred.astype(object)
    found[list(rows)] = None
    return found


def test_they_are_a_column_of_their_own(rows):
    y_true, y_pred = rows
    table = CountTable.tally(y_true, without(y_pred, range(3)), GROUPS)
    assert table.cells[..., UNANSWERED].sum() == 3
    assert table.cells.sum() == N


def test_wrong_for_accuracy_and_left_out_of_rates(rows):
    y_true, y_pred = rows
    lost = [0, 1, 2, 150]
    kept = np.setdiff1d(np.arange(N), lost)
    found = estimate(y_true, without(y_pred, lost), GROUPS)
    answered = estimate(y_true[kept], y_pred[kept], [GROUPS[row] for row in kept])
    assert found["acc"] == (y_true == y_pred)[kept].sum() / N
    assert found["unanswered"] == 4 / N
    for name in ("selection_rate", "tpr", "fpr", "bal_acc", "dpd", "eod", "dp_ratio"):
        assert found[name] == answered[name], name


@pytest.mark.parametrize(("lost", "defined"), [(5, True), (6, False)])
@pytest.mark.parametrize("reference", ["between_groups", "one_vs_rest", "to_overall"])
def test_more_than_one_in_twenty_of_a_group_leaves_no_gap(rows, reference, lost, defined):
    y_true, y_pred = rows
    result = measure(
        y_true, without(y_pred, range(lost)), GROUPS, reference=reference, draws=50
    ).to_dict()
    for name in ("dpd", "eod", "equal_opportunity", "dp_ratio", "eo_ratio"):
        assert (result["metrics"][name]["value"] is not None) == defined
    for name in ("acc", "bal_acc", "worst_group_acc", "selection_rate"):
        assert result["metrics"][name]["low"] is not None
    assert result["unanswered"] == result["groups"]["a"]["unanswered"] == lost
    assert (result["uncertainty"]["dpd"]["null"] is not None) == defined
    assert result["warnings"][0] == (
        f"{lost} of 200 rows have no usable prediction (a {lost} of 100): wrong for accuracy, left "
        "out of rates"
    )
    if not defined:
        assert result["between_groups"] == result["to_overall"] == {"dpd": None, "eod": None}
        assert result["one_vs_rest"]["eod"]["worst"] is None
        assert result["warnings"][1] == (
            "predictions are missing for 6.0% of a group or of all rows, more than 5%: DPD, EOD, "
            "equal opportunity, FPR difference, accuracy difference, predictive parity and the "
            "ratios are undefined"
        )


def test_whose_missing_predictions_count(rows):
    y_true, y_pred = rows
    groups = ["a"] * 90 + ["b"] * 90 + ["c"] * 20
    two_of_c = without(y_pred, [198, 199])
    assert np.isnan(estimate(y_true, two_of_c, groups)["dpd"])
    # A group that decides nothing does not take the others' gap away ...
    for options in ({"exclude": ["c"]}, {"min_group_size": 21}):
        assert estimate(y_true, two_of_c, groups, **options)["dpd"] >= 0
    # ... unless it is 5 % of all rows.
    eleven_of_c = without(y_pred, range(189, 200))
    assert np.isnan(estimate(y_true, eleven_of_c, groups, exclude=["c"])["dpd"])


def test_nothing_answered(rows):
    result = measure(rows[0], [None] * N, GROUPS, draws=50).to_dict()
    assert result["unanswered"] == N
    assert result["degenerate"] is True
    values = {name: entry["value"] for name, entry in result["metrics"].items()}
    assert values.pop("acc") == values.pop("worst_group_acc") == 0.0
    assert set(values.values()) == {None}
    assert "no row has a usable prediction: every rate is undefined" in result["warnings"]
    assert "group 'b' has no usable prediction: its rates are undefined" in result["warnings"]


def test_the_few_positives_unanswered():
    y_true = [1, 1] + [0] * 98
    y_pred = [None, None] + [0, 1] * 49
    result = measure(y_true, y_pred, ["a", "b"] * 50, draws=50).to_dict()
    assert result["metrics"]["tpr"]["value"] is None
    assert result["groups"]["a"]["n_pos"] == 1
    assert (
        "no row with a positive label has a usable prediction: TPR and balanced accuracy are "
        "undefined" in result["warnings"]
    )
    assert (
        "group 'a' has no positives with a usable prediction: TPR undefined, and EOD with it if "
        "the group is large enough to decide" in result["warnings"]
    )
    assert (
        "EOD is undefined: TPR cannot be compared between two usable groups" in result["warnings"]
    )


def test_a_comparison_with_a_predictor_that_does_not_answer(rows):
    y_true, y_pred = rows
    result = compare(y_true, y_pred, without(y_pred, range(20)), GROUPS, draws=50)
    found = result.to_dict()
    assert found["dpd"] == {"value": None, "low": None, "high": None, "p_value": None}
    assert found["acc"]["value"] == pytest.approx(-(y_true == y_pred)[:20].sum() / N)
    assert "the difference in dpd is undefined" in result.warnings
