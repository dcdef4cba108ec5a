"""Every way to name groups gives the same membership; unusable ways are refused."""

import numpy as np
import pandas as pd
import pytest

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import Groups


def test_one_label_per_row():
    groups = Groups.of(["women", "men", None, "men"], 4)
    assert groups.names == ("men", "women")  # sorted, and never by character
    assert groups.membership.tolist() == [[0, 1], [1, 0], [0, 0], [1, 0]]


@pytest.mark.parametrize("collection", [list, tuple, set, frozenset, np.array])
def test_a_collection_of_labels_per_row(collection):
    rows = [collection(labels) for labels in (["b", "a"], [], ["a"])]
    groups = Groups.of(rows, 3)
    assert groups.names == ("a", "b")
    assert groups.membership.tolist() == [[1, 1], [0, 0], [1, 0]]


def test_masks_keep_their_order():
    groups = Groups.of({"z": np.array([True, False]), "a": [True, True]}, 2)
    assert groups.names == ("z", "a")
    assert groups.membership.tolist() == [[1, 1], [0, 1]]


def test_labels_are_compared_as_strings():
    assert Groups.of(np.array([10, 9, 10]), 3).names == ("10", "9")
    assert Groups.of(pd.Series(["x", "y"], index=[7, 3]), 2).names == ("x", "y")


def test_no_groups_at_all():
    assert Groups.of([None, []], 2).membership.shape == (2, 0)
    assert Groups.of({}, 2).names == ()


def test_membership_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        Groups.of(["a"], 1).membership[0, 0] = False


NAN_FIX = "Use None or an empty list for a row in no group, or name it, e.g. 'unknown'."


@pytest.mark.parametrize(
    ("groups", "n", "message"),
    [
        (
            ["a"],
            2,
            "groups: needs one label, or one collection of labels, per row; got '1 rows'; "
            "allowed: 2 rows. Pass the groups of the same rows as y_true, in the same order.",
        ),
        (
            "ab",
            2,
            "groups: is not one entry per row; got 'ab'; allowed: labels per row, collections of "
            "labels per row, or a mapping name -> mask.",
        ),
        (["a", np.nan], 2, f"groups: missing group label in row 1; got 'nan'. {NAN_FIX}"),
        (["a", pd.NA], 2, f"groups: missing group label in row 1; got '<NA>'. {NAN_FIX}"),
        ([["a", float("nan")]], 1, f"groups: missing group label in row 0; got 'nan'. {NAN_FIX}"),
        ([["a", None]], 1, f"groups: missing group label in row 0. {NAN_FIX}"),
        (
            {"a": [1, 0]},
            2,
            "groups['a']: a mask must be boolean; got 'dtype int64'; allowed: dtype bool. Write a "
            "condition such as column == 'value', or cast with astype(bool).",
        ),
        (
            {"a": [True]},
            2,
            "groups['a']: a mask needs one value per row; got 'shape (1,)'; allowed: shape (2,).",
        ),
        (
            {1: [True], "1": [True]},
            1,
            "groups: two masks have the same name; got ['1', '1']. Rename one.",
        ),
        (
            np.eye(2),
            2,
            "groups: a matrix does not name its groups; got 'shape (2, 2), dtype float64'. Pass a "
            "mapping name -> boolean mask.",
        ),
        ([], 0, "groups: there are no rows. Check the split and the filters of the data."),
    ],
)
def test_messages(groups, n, message):
    with pytest.raises(MeasurementError) as caught:
        Groups.of(groups, n)
    assert str(caught.value) == message
