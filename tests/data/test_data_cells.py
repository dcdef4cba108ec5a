"""What a cell reads as: text, number or nothing, whatever type its column has."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from refusals import raises

from mergekit_fair.data.blocks import Source
from mergekit_fair.data.cells import column, missing, numbers, texts, variants
from mergekit_fair.data.table import read_table
from mergekit_fair.errors import DataError

NAN = float("nan")
WORDS = [
    "nan",
    "NaN",
    "NA",
    "N/A",
    "n/a",
    "null",
    "NULL",
    "None",
    "none",
    "<NA>",
    "NaT",
    "#N/A",
    " ",
]
DAY = datetime.date(2020, 1, 2)


def through_parquet(cells, tmp_path):
    """As a parquet file's column; its type is what pyarrow makes of the cells."""
    pd.DataFrame({"c": cells}).to_parquet(tmp_path / "a.parquet")
    return column(read_table(Source(path=str(tmp_path / "a.parquet"))), "c", "here")


@pytest.mark.parametrize(
    ("cells", "expected_texts", "expected_numbers", "gaps"),
    [
        (pd.array([1, None, 2], "Int64"), ["1", "", "2"], [1, NAN, 2], [1]),
        (pd.array([True, None, False], "boolean"), ["True", "", "False"], [1, NAN, 0], [1]),
        (pd.Categorical(["a", None, "2"]), ["a", "", "2"], [NAN, NAN, 2], [1]),
        (pd.Categorical([1, 3, None]), ["1", "3", ""], [1, 3, NAN], [2]),
        (np.array([1.5, np.nan, 2], np.float32), ["1.5", "", "2"], [1.5, NAN, 2], [1]),
        (
            [Decimal("1.50"), None, Decimal("20")],
            ["1.5", "", "20"],
            [1.5, NAN, 20],
            [1],
        ),
        ([DAY, None, DAY], ["2020-01-02", "", "2020-01-02"], [NAN] * 3, [1]),
        (
            pd.to_datetime(["2020-01-02", None]),
            ["2020-01-02 00:00:00", ""],
            [NAN] * 2,
            [1],
        ),
        (pd.to_timedelta([1, 2], "D"), ["1 days 00:00:00", "2 days 00:00:00"], [NAN] * 2, []),
        (["x", None, "1e3"], ["x", "", "1e3"], [NAN, NAN, 1000], [1]),
        (np.array([np.inf, -np.inf, 1]), ["inf", "-inf", "1"], [NAN, NAN, 1], []),
    ],
)
def test_types_of_parquet(tmp_path, cells, expected_texts, expected_numbers, gaps):
    found = through_parquet(cells, tmp_path)
    assert texts(found) == expected_texts
    assert np.array_equal(numbers(found), expected_numbers, equal_nan=True)
    assert np.flatnonzero(missing(found)).tolist() == gaps


def test_cells_of_several_types():
    cells = pd.Series(
        [1, "1", 1.0, True, np.float32(1), np.int64(1), Decimal(1), "true"], dtype=object
    )
    assert texts(cells) == ["1", "1", "1", "True", "1", "1", "1", "true"]
    assert numbers(cells).tolist() == [1.0] * 8


@pytest.mark.parametrize("cell", [10**400, "1e999", float("inf"), "Infinity", DAY, 1j, "1_0", b"1"])
def test_what_is_no_finite_number(cell):
    assert np.isnan(numbers(pd.Series([cell, 1], dtype=object))).tolist() == [True, False]


@pytest.mark.parametrize("kind", ["str", object])
def test_words_for_nothing(kind):
    cells = pd.Series([*WORDS, "no", "nobody", "-", "?"], dtype=kind)
    assert missing(cells).tolist() == [True] * len(WORDS) + [False] * 4
    assert texts(cells)[:2] == ["nan", "NaN"]  # a text stays what it is
    assert missing(pd.Series([np.str_("nan"), pd.NA, None, pd.NaT], dtype=object)).all()


@pytest.mark.parametrize("cell", [["a"], {"a": 1}, ("a",), b"a", np.array(["a"]), {"a"}])
def test_nested_cells_are_no_values(cell):
    frame = pd.DataFrame({"c": pd.Series([None, "x", cell], dtype=object)})
    with raises(DataError, "row 2", where="here, column 'c'"):
        column(frame, "c", "here")
    assert len(column(frame, "c", "here", nested=True)) == 3


def test_bytes_and_structs_of_parquet(tmp_path):
    for cells in ([b"f", b"m"], [{"sex": "f"}, {"sex": "m"}]):
        with raises(DataError, "row 0", where="here, column 'c'"):
            through_parquet(cells, tmp_path)


def test_a_named_index_is_a_column(tmp_path):
    frame = pd.DataFrame({"id": ["a", "b"], "n": [1, 2]})
    frame.set_index("id").to_parquet(tmp_path / "a.parquet")
    found = read_table(Source(path=str(tmp_path / "a.parquet")))
    assert found.to_dict("list") == {"id": ["a", "b"], "n": [1, 2]}


def test_columns_of_one_name_in_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "a.parquet")
    with raises(DataError, "(a)"):
        read_table(Source(path=str(tmp_path / "a.parquet")))


def test_column_names_that_are_numbers(tmp_path):
    frame = pd.DataFrame([[1, 2]])
    frame.columns = frame.columns.astype(str)
    frame.to_parquet(tmp_path / "a.parquet")
    found = read_table(Source(path=str(tmp_path / "a.parquet")))
    assert column(found, "1", "here").tolist() == [2]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(64) + b"PAR1"])
def test_what_is_no_parquet_file(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with raises(DataError, where=tmp_path / "a.parquet"):
        read_table(Source(path=str(tmp_path / "a.parquet")))


@pytest.mark.parametrize(
    "pair",
    [
        *[("Male", "male"), ("a b", "a\u00a0b"), ("é", "e\u0301"), ("x", " x"), ("x", "x\u200b")],
        *[("f", '"f"'), ("Straße", "STRASSE"), ("１", "1"), ("a  b", "a b"), ("ﬁ", "fi")],
        *[("1", "1.0"), ("1", "01"), ("0.5", ".50"), ("-2", "-2.0"), ("0", "-0")],
    ],
)
def test_variants_of_a_name(pair):
    assert variants({pair[0]: 2, pair[1]: 1, "other": 5}) == [list(pair)]


@pytest.mark.parametrize(
    "pair", [("1", "10"), ("1.2.3", "1.2.30"), ("1e3", "1000"), ("9" * 16, "9" * 15 + "8")]
)
def test_other_numbers_are_other_names(pair):
    assert variants({pair[0]: 2, pair[1]: 1}) == []
