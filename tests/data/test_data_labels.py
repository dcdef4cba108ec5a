"""The label rule, and the values that it says nothing about."""

import numpy as np
import pandas as pd
import pytest
from refusals import raises

from mergekit_fair.data.label_column import read_labels
from mergekit_fair.data.label_rules import Label
from mergekit_fair.errors import DataError


def labels(values, **rule):
    return found(values, **rule).values


def found(values, **rule):
    return read_labels(pd.DataFrame({"y": values}), Label(column="y", **rule), "data set 'x'")


def refuses(values, *shows, **rule):
    with raises(DataError, *shows, where="data set 'x', label column 'y'"):
        labels(values, **rule)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([">50K", "<=50K", ">50K"], {"positive": ">50K", "negative": "<=50K"}),
        (["a", "c", "b"], {"positive": ["a", "b"], "negative": ["c", "d"]}),
        (["a", "c", "a"], {"positive": "a", "negative": "*"}),
        ([1, 2, 1], {"positive": 1, "negative": 2}),
        ([1.0, 2.0, 1.0], {"positive": "1", "negative": "2"}),
        ([True, False, True], {"positive": True, "negative": False}),
        (["4", "3.4", "3.5"], {"ge": 3.5}),
        ([4, 3.5, 3.6], {"gt": 3.5}),
        (["-1", "1e3", "0"], {"le": 0}),
        ([-1.0, 0.0, -2.0], {"lt": 0}),
        ([1, 0, 1], {}),
        (["1", "0.0", "1.0"], {}),
        (["True", "false", "true"], {}),
        ([True, False, True], {}),
        (pd.Series(["1", "0", "1"], dtype="category"), {}),
        (pd.array([1, 0, 1], dtype="Int64"), {}),
        (np.array([1, 0, 1], dtype=np.float32), {}),
    ],
)
def test_every_rule(values, rule):
    given = labels(values, **rule)
    assert given.dtype == np.int8
    assert given.tolist() == [1, 0, 1]


def test_a_missing_column_names_the_nearest():
    frame = pd.DataFrame({"label": [1], "text": ["a"]})
    where = "data set 'x', label.column"
    with raises(DataError, "'labl'", where=where, allowed=["label", "text"], fix="'label'"):
        read_labels(frame, Label(column="labl"), "data set 'x'")


def test_unknown_values_are_counted_and_listed():
    values = ["yes", "no", *"aaabbccdefg"]
    listed = "'a' (3), 'b' (2), 'c' (2), 'd' (1), 'e' (1) and 2 more; first at row 2"
    refuses(values, "11 of 13", listed, positive="yes", negative="no")


def test_a_missing_label_is_never_negative():
    for gap in ("", None, " ", "nan", "NA", "n/a", "null", "None", np.str_("nan"), pd.NA):
        refuses(["yes", "no", gap], "1 of 3", "row 2", positive="yes", negative="*")


def test_the_yes_of_yaml_is_explained():
    refuses(["yes", "no"], "YAML reads", positive=True, negative=False)


@pytest.mark.parametrize("value", ["", "high", None, "nan"])
def test_a_threshold_needs_numbers(value):
    refuses(["4", "3", value], f"1 of 3 values are not numbers: {value or ''!r}", "row 2", ge=3.5)


def test_a_column_without_a_rule_is_0_or_1():
    refuses([0, 2, 2], "2 of 3", "'2' (2); first at row 1", "`positive:` and `negative:`")
    refuses([0, 1, 2, 2], "3 classes", "'0', '1', '2'", "`positive:`", "`negative: '*'`")
    refuses([number / 30 for number in range(30)], "29 of 30", "`ge:`")


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_is_no_label(value):
    refuses([value] * 3, f"all 3 rows have the label {value}")


def test_a_label_that_is_called_so_is_named():
    values = ["racism", "none", "none", "sexism", "None"]
    rule = {"positive": ["racism", "sexism"], "negative": ["*", "none", "None"]}
    assert labels(values, **rule).tolist() == [1, 0, 0, 1, 0]
    assert labels(values, positive=["none", "None"], negative="*").tolist() == [0, 1, 1, 0, 1]
    refuses(values, "1 of 5", "'None'", positive=["racism", "sexism"], negative=["*", "none"])


def test_what_the_rest_covers_is_said():
    given = found(["yes", "no", "no", "?"], positive="yes", negative="*")
    assert given.values.tolist() == [1, 0, 0, 0]
    assert given.warnings == ("label: `negative: '*'` covers 'no' (2), '?' (1)",)
    assert found(["yes", "no"], positive="yes", negative="no").warnings == ()


@pytest.mark.parametrize("value", ["YES", " yes", "yes\u00a0", "'yes'", "y\u200bes"])
def test_the_rest_does_not_cover_a_variant_of_a_positive(value):
    refuses(["yes", "no", value], repr(value), "(1 rows)", positive="yes", negative="*")
    rule = {"positive": "yes", "negative": ["*", value]}
    assert labels(["yes", "no", value], **rule).tolist() == [1, 0, 0]


def test_nor_another_writing_of_a_positive_number():
    refuses(["1", "0", "1.0"], "'1.0'", "(1 rows)", positive="1", negative="*")


@pytest.mark.parametrize("value", [float("inf"), "inf", "1e999", 10**400])
def test_a_threshold_needs_finite_numbers(value):
    refuses([4, 3, value], "1 of 3 values are not numbers", "row 2", ge=3.5)


def test_lists_are_no_labels():
    with raises(DataError, "row 1", where="column 'y'"):
        labels(["hate", ["hate"], "no"], positive="hate", negative="*")
