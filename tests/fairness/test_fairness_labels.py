"""Labels that no metric is defined on are refused with a message that says what to do."""

import numpy as np
import pytest

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.labels import binary_labels

FLOATS = (
    "allowed: the integers 0 and 1. Threshold scores with predict_at(scores, threshold), or cast "
    "labels with astype(int)."
)
BINARY = "allowed: 0, 1. Map the classes to 1 (the positive class) and 0 first."
MISSING = "allowed: 0, 1. Drop or complete rows without a value; NaN never counts as a negative."


def objects(*values):
    return np.array(values, dtype=object)


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, 1],
        [False, True, True],
        np.array([0, 1, 1], dtype=np.uint8),
        objects(0, True, np.int64(1)),
    ],
)
def test_integers_and_booleans_are_labels(values):
    assert binary_labels(values, "y_true").tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.2, 0.9], f"y_pred: probabilities are not predictions; got 0.2; {FLOATS}"),
        ([0.0, 1.0], f"y_pred: probabilities are not predictions; got 0.0; {FLOATS}"),
        ([0, np.nan], f"y_pred: missing value (NaN) in row 1; {MISSING}"),
        ([0, 1, None], f"y_pred: missing value (NaN) in row 2; {MISSING}"),
        (objects(1, 0.5), f"y_pred: probabilities are not predictions; got 0.5; {FLOATS}"),
        (objects(1, np.nan), f"y_pred: missing value (NaN) in row 1; {MISSING}"),
        (["0", "1"], f"y_pred: labels must be binary integers; got '0'; {BINARY}"),
        (objects("a", 1), f"y_pred: labels must be binary integers; got 'a'; {BINARY}"),
        ([0, 1, 2], f"y_pred: labels must be binary integers; got 2; {BINARY}"),
        ([-1, 1], f"y_pred: labels must be binary integers; got -1; {BINARY}"),
        ([0, 10**30], f"y_pred: labels must be binary integers; got {10**30}; {BINARY}"),
        ([], "y_pred: there are no rows. Check the split and the filters of the data."),
        (
            [[0, 1], [1, 0]],
            "y_pred: needs one value per row; got 'shape (2, 2)'; allowed: shape (n,). For class "
            "scores, take the predicted class of every row first.",
        ),
        ([[0], [1, 0]], "y_pred: rows differ in length; allowed: one 0 or 1 per row."),
    ],
)  # fmt: skip
def test_anything_else_is_an_error(values, message):
    with pytest.raises(MeasurementError) as caught:
        binary_labels(values, "y_pred")
    assert str(caught.value) == message


def test_the_error_names_the_argument_and_lengths_must_agree():
    with pytest.raises(MeasurementError, match=r"^y_true: labels must be binary"):
        CountTable.tally([0, 3], [0, 1], ["a", "b"])
    with pytest.raises(MeasurementError) as caught:
        CountTable.tally([0, 1], [0, 1, 1], ["a", "b"])
    assert str(caught.value) == (
        "y_pred: differs in length from y_true; got 3; allowed: 2. Pass one value per row, in the "
        "same order."
    )
