"""Every way to name groups gives the same membership; unusable ways are refused."""

import numpy as np
import pandas as pd
import pytest

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import Groups, compare, cross, measure


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
        (
            np.array(["a", np.nan]),  # of texts
            2,
            f"groups: missing group label in row 1; got 'nan'. {NAN_FIX}",
        ),
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


def test_a_data_frame_of_boolean_columns_is_a_mapping():
    frame = pd.DataFrame({"z": [True, False], "a": [True, True]}, index=[5, 5])
    groups = Groups.of(frame, 2)
    assert groups.names == ("z", "a")
    assert groups.membership.tolist() == [[1, 1], [0, 1]]
    with pytest.raises(MeasurementError, match=r"^groups\['sex'\]: a mask must be boolean"):
        Groups.of(pd.DataFrame({"sex": ["men", "women"]}), 2)


@pytest.mark.parametrize(
    "labels",
    [
        pd.Series(["x", pd.NA], dtype="string"),
        pd.Series(["x", None]).astype("category"),
        np.ma.array(["x", "y"], mask=[False, True]),
        [["x"], ["x", None]],
    ],
)
def test_a_missing_label_is_an_error_in_every_kind_of_column(labels):
    with pytest.raises(MeasurementError, match=r"^groups: missing group label in row 1"):
        Groups.of(labels, 2)


@pytest.mark.parametrize(
    "mask",
    [pd.array([True, pd.NA], dtype="boolean"), np.ma.array([True, True], mask=[False, True])],
)
def test_a_mask_with_holes_is_an_error(mask):
    with pytest.raises(MeasurementError, match=r"^groups\['a'\]: a mask must be boolean"):
        Groups.of({"a": mask}, 2)


@pytest.mark.parametrize(
    ("names", "membership", "message"),
    [
        (
            ("a",),
            np.ones((2, 2), dtype=bool),
            "membership: needs one boolean column per name; got 'shape (2, 2), dtype bool'; "
            "allowed: shape (n, 1), dtype bool.",
        ),
        (
            ("a",),
            np.ones((2, 1)),
            "membership: needs one boolean column per name; got 'shape (2, 1), dtype float64'; "
            "allowed: shape (n, 1), dtype bool.",
        ),
        (
            ("a", "a"),
            np.ones((2, 2), dtype=bool),
            "groups: two groups have the same name; got ('a', 'a'). Rename one.",
        ),
    ],
)
def test_groups_made_by_hand_are_checked(names, membership, message):
    with pytest.raises(MeasurementError) as caught:
        Groups(names, membership)
    assert str(caught.value) == message


def test_cross():
    gender = Groups.of(["men", "women", ["men", "women"], None, "men"], 5)
    race = Groups.of({"x": [True, True, True, True, False], "y": [True] + [False] * 4}, 5)
    found = cross(gender, race)
    assert found.names == ("men × x", "men × y", "women × x")  # women × y does not occur
    assert found.membership.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_cross_is_the_intersection_of_every_pair():
    rng = np.random.default_rng(0)
    first, second = (Groups(tuple(n), rng.random((50, 3)) < 0.4) for n in ("abc", "xyz"))
    found = cross(first, second)
    assert len(found.names) == 9
    for name, column in zip(found.names, found.membership.T, strict=True):
        a, b = name.split(" × ")
        pair = first.membership[:, "abc".index(a)] & second.membership[:, "xyz".index(b)]
        assert (column == pair).all()


def test_cross_of_nothing():
    nobody = Groups.of([None, None], 2)
    assert cross(nobody, Groups.of(["a", "b"], 2)).membership.shape == (2, 0)


def test_cross_refuses_what_is_ambiguous():
    with pytest.raises(MeasurementError) as caught:
        cross(Groups.of(["a"], 1), Groups.of(["a", "b"], 2))
    assert str(caught.value) == (
        "groups: attributes of different rows cannot be crossed; got '1 and 2 rows'."
    )
    first = Groups.of([["a", "a × b"]], 1)
    second = Groups.of([["b × c", "c"]], 1)
    with pytest.raises(MeasurementError, match="two groups have the same name"):
        cross(first, second)


@pytest.mark.parametrize("name", ["None", "<NA>", "NaT", "", "null", "nan"])
def test_a_group_called_as_nothing_is_warned_about(name):
    y, groups = [0, 1, 0, 1], ["a", "b", name, "a"]
    for found in (measure(y, y, groups, draws=50), compare(y, y, y, groups, draws=50)):
        assert any(warning.startswith(f"group {name!r} is called") for warning in found.warnings)
