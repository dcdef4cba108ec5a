"""`weight`: what each row counts for, and the cells that are no weights."""

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.data import load_rows
from mergekit_fair.errors import DataError

SPLITS = ("train", "validation", "report")
COLUMNS = ("text", "label", "group", "split", "w")


def table(weights):
    """16 rows and their weights; splits in turn."""
    return [
        (f"text {row}", row % 2, "ab"[row // 2 % 2], SPLITS[row % 3], weight)
        for row, weight in enumerate(weights)
    ]


@pytest.fixture
def weighted(spec):
    return lambda weights, **changes: load_rows(
        spec(table(weights), COLUMNS, weight="w", **changes)
    )


def test_weights_go_with_their_rows(weighted):
    written = [*range(1, 14), "0.5", "1e-3", "0"]
    rows = weighted(written)
    assert rows.weights.dtype == np.float64
    assert rows.weights.tolist() == [float(weight) for weight in written]
    assert rows.take([3, 0]).weights.tolist() == [4.0, 1.0]
    assert rows.of("report").weights.tolist() == [3.0, 6.0, 9.0, 12.0, 0.001]
    assert rows.counts()[0]["n"] == 6  # rows, not weights


def test_without_the_key_there_are_none(spec):
    rows = load_rows(spec(table(range(16)), COLUMNS))
    assert rows.weights is None
    assert rows.of("report").weights is None


def test_a_fingerprint_covers_weights_where_there_are_any(weighted, spec):
    plain = load_rows(spec(table([1] * 16), COLUMNS)).fingerprint()
    prints = {plain, weighted([1] * 16).fingerprint(), weighted([2] * 16).fingerprint()}
    assert len(prints) == 3
    assert weighted([1] * 16).fingerprint() == weighted(["1.0"] * 16).fingerprint()


@pytest.mark.parametrize("cell", ["", "x", "nan", "inf", "1e999", "-1", "-0.1", "NA"])
def test_what_is_no_weight(weighted, cell):
    where = "data set 'small', weight column 'w'"
    with raises(DataError, "1 of 16", "row 5", where=where):
        weighted([1] * 5 + [cell] + [1] * 10)


@pytest.mark.parametrize("weight", [0, 1e308])
def test_a_split_weighs_something(weighted, weight):
    with raises(DataError, "'validation'", where="weight column 'w'"):
        weighted([weight if row % 3 == 1 else 1 for row in range(16)])


def test_an_unknown_column(spec):
    with raises(DataError, "'v'", where="data set 'small', weight", allowed=list(COLUMNS)):
        load_rows(spec(table([1] * 16), COLUMNS, weight="v"))


def test_rows_of_a_unit_have_one_weight_or_its_mean(spec):
    units = [
        (f"text {row // 2}", row // 2 % 2, "ab"[row % 4 // 2], "train", row) for row in range(8)
    ]
    options = {"splits": {"column": "split", "names": {"train": "train"}}, "weight": "w"}
    with raises(DataError, "'w'", "rows 0 and 1", where="one_row_per"):
        load_rows(spec(units, COLUMNS, one_row_per={"column": "text"}, **options))
    merged = load_rows(
        spec(units, COLUMNS, one_row_per={"column": "text", "mean": ["w"]}, **options)
    )
    assert merged.weights.tolist() == [0.5, 2.5, 4.5, 6.5]
