"""The label rule, and the values that it says nothing about."""

import numpy as np
import pandas as pd
import pytest

from mergekit_fair.data.blocks import Label
from mergekit_fair.data.label_column import read_labels
from mergekit_fair.errors import DataError


def labels(values, **rule):
    return read_labels(pd.DataFrame({"y": values}), Label(column="y", **rule), "data set 'x'")


def complaint(values, **rule):
    with pytest.raises(DataError) as caught:
        labels(values, **rule)
    return str(caught.value)


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
    found = labels(values, **rule)
    assert found.dtype == np.int8
    assert found.tolist() == [1, 0, 1]


def test_a_missing_column_names_the_nearest():
    with pytest.raises(DataError) as caught:
        read_labels(pd.DataFrame({"label": [1], "text": ["a"]}), Label(column="labl"), "data 'x'")
    assert str(caught.value) == (
        "data 'x', label.column: no column 'labl'; allowed: label, text. Did you mean 'label'?"
    )


def test_unknown_values_are_counted_and_listed():
    values = ["yes", "no", *"aaabbccdefg"]
    text = complaint(values, positive="yes", negative="no")
    assert text.startswith(
        "data set 'x', label column 'y': 11 of 13 values are neither positive nor negative: "
        "'a' (3), 'b' (2), 'c' (2), 'd' (1), 'e' (1) and 2 more; first at row 2 (the first data "
        "row is 0). Name them in `positive:` or `negative:`"
    )


def test_a_missing_label_is_never_negative():
    for gap in ("", None, " "):
        text = complaint(["yes", "no", gap], positive="yes", negative="*")
        assert "1 of 3 values are neither positive nor negative" in text
        assert "first at row 2" in text


def test_the_yes_of_yaml_is_explained():
    text = complaint(["yes", "no"], positive=True, negative=False)
    assert "YAML reads yes, no, on and off as true and false unless they are quoted" in text


@pytest.mark.parametrize("value", ["", "high", None, "nan"])
def test_a_threshold_needs_numbers(value):
    shown = value or ""
    assert complaint(["4", "3", value], ge=3.5) == (
        f"data set 'x', label column 'y': 1 of 3 values are not numbers: {shown!r} (1); first at "
        "row 2 (the first data row is 0). `ge: 3.5` needs a number in every row: remove or repair "
        "these rows."
    )


def test_a_column_without_a_rule_is_0_or_1():
    text = complaint([0, 1, 2, 2])
    assert "2 of 4 values are neither 0 nor 1: '2' (2); first at row 2" in text
    assert "`positive:` and `negative:`" in text


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_is_no_label(value):
    assert complaint([value] * 3).startswith(
        f"data set 'x', label column 'y': all 3 rows have the label {value}. A classifier"
    )
