"""csv and tsv: quotes, rows of other length, headers; no cell swallows a row unseen."""

import csv
import io
import itertools

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refusals import raises

from mergekit_fair.data import load_rows
from mergekit_fair.data.blocks import Source
from mergekit_fair.data.cells import column
from mergekit_fair.data.table import read_table
from mergekit_fair.errors import DataError


@pytest.fixture
def table(tmp_path):
    """`table(text, name, **source)`: what a file with this text reads as."""

    def read(text, name="a.csv", **source):
        (tmp_path / name).write_bytes(text.encode())
        return read_table(Source(path=str(tmp_path / name), **source))

    return read


def cells(found):
    return found.to_numpy().tolist()


def written(rows, header=("text", "label", "group"), **dialect):
    stream = io.StringIO()
    csv.writer(stream, **dialect).writerows([header, *rows])
    return stream.getvalue()


def posts(*texts):
    """Rows of a text, a label and a group, as tables of posts have them."""
    return [(text, str(row % 2), "fm"[row // 2 % 2]) for row, text in enumerate(texts)]


PLAIN = posts(*(f"post {row}" for row in range(20)))

CELL = st.text(st.sampled_from("a\"\n\r,;\t' é😀\\"), max_size=8)
TABLES = st.integers(2, 4).flatmap(
    lambda columns: st.lists(
        st.lists(CELL, min_size=columns, max_size=columns), min_size=1, max_size=6
    )
)
QUOTING = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]


@given(TABLES, st.sampled_from(QUOTING), st.sampled_from(",;\t|"))
@settings(max_examples=150)
def test_what_python_writes_is_read_back(tmp_path_factory, rows, quoting, separator):
    file = tmp_path_factory.mktemp("tables") / "a.csv"
    header = [f"column {number}" for number in range(len(rows[0]))]
    text = written(rows, header, quoting=quoting, delimiter=separator)
    file.write_bytes(text.encode())
    found = read_table(Source(path=str(file), separator=separator, quotes="standard"))
    stripped = [[cell.strip() for cell in row] for row in rows]
    assert cells(found) == stripped


@pytest.mark.parametrize("header", ["text,label,group", "label,text,group", "label,group,text"])
def test_texts_of_several_lines_are_read_without_a_word(table, header):
    """Prose with as many commas as a row has, in the first, the middle and the last column."""
    texts = [
        "Dear sir,\nthank you",
        "one, two, three\nfour, five, six\n",
        '"Hi, you", she said,\nso',
    ]
    texts += ["a\n\nb", "x\r\ny, z", "1, two, g\nmore"]
    named = dict(
        zip(("text", "label", "group"), zip(*(PLAIN + posts(*texts)), strict=True), strict=True)
    )
    frame = pd.DataFrame(named)[header.split(",")]
    found = table(frame.to_csv(index=False))
    assert cells(found) == [[cell.strip() for cell in row] for row in frame.to_numpy().tolist()]
    assert found.attrs["notes"] == []


def lone(position, first, last, *, header="text,label,group"):
    """Plain rows, of which two begin and end with a quote that nobody meant as one."""
    rows = [list(row) for row in PLAIN]
    rows[first][0] = '"' + rows[first][0]
    rows[last][0] += '"'
    order = {"first": [0, 1, 2], "middle": [1, 0, 2], "last": [1, 2, 0]}[position]
    names = [header.split(",")[at] for at in order]
    lines = [names, *([row[at] for at in order] for row in rows)]
    return "".join(",".join(line) + "\n" for line in lines), lines[1:]


@pytest.mark.parametrize("position", ["first", "middle", "last"])
@pytest.mark.parametrize("ends", [*itertools.combinations([0, 1, 7, 19], 2)])
def test_a_cell_that_swallows_rows_is_refused(table, position, ends):
    """From a text that begins with a quote to one that ends with one, it looks well formed."""
    text, rows = lone(position, *ends)
    with raises(DataError, f"row {ends[0]} ", f"lines {ends[0] + 2} to", fix="`quotes: none`"):
        table(text)
    assert cells(table(text, quotes="none")) == rows
    found = table(text, quotes="standard")
    assert len(found) == 20 - (ends[1] - ends[0])
    assert len(found.attrs["notes"]) == 1


def test_what_standard_quotes_join_is_a_warning_of_the_data_set(spec, tmp_path):
    lines = [(f"t{row}", row % 2, "ab"[row // 2 % 2], "train") for row in range(12)]
    lines[3] = ('"t3', *lines[3][1:])
    lines[5] = ('t5"', *lines[5][1:])
    block = {"splits": {"column": "split", "names": {"train": "train"}}}
    file = tmp_path / "x.csv"
    text = "".join(
        ",".join(map(str, line)) + "\n" for line in [("text", "label", "group", "split"), *lines]
    )
    file.write_text(text)
    rows = load_rows(spec(source={"path": str(file), "quotes": "standard"}, **block))
    assert len(rows) == 10
    assert "lines 5 to 7" in rows.warnings[0]
    assert len(load_rows(spec(source={"path": str(file), "quotes": "none"}, **block))) == 12


@pytest.mark.parametrize(
    "lines",
    [
        ['0,",1,m', "1,a b,1,f", '2,1 ",0,f', '3,"",1,m', "4,c,0,m"],
        ["0,a,0,f", '1,",1,m', "2,b,1,f", '3,1 ",0,f'],
    ],
)
def test_most_of_a_small_table_swallowed(table, lines):
    with raises(DataError, "cells of 1 rows"):
        table("\n".join(["id,text,label,group", *lines, ""]))


def test_a_rare_value_among_those_swallowed(table):
    rows = [list(row) for row in PLAIN]
    rows[4] = ['"' + rows[4][0], "1", "nobody else"]
    rows[5][0] += '"'
    text = "text,label,group\n" + "".join(",".join(row) + "\n" for row in rows)
    with raises(DataError, "row 4", "lines 6 to 7"):
        table(text)


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ('a,b\n1,2\n"3,4\n5,6\n', ["row 1 ", "lines 3 to 4", "1 more line"]),
        ('a,b\n"1"x,2\n', ["row 0 (line 2)"]),
        ('a,b\n"1" ,2\n', ["row 0 (line 2)"]),
        ('a,b\n"1,2\n3,4\n5,"6"\n', ["row 0 ", "lines 2 to 4", "2 more lines"]),
        ('"a,b\n1,2\n', ["header"]),
        ('a,b\n"1,2\n3,4\nx",5,6\n', ["row 0 ", "3 columns", "header has 2"]),
    ],
)
def test_quotes_that_are_not_balanced(table, text, shows):
    with raises(DataError, *shows, fix="`quotes: none`"):
        table(text)


@given(
    st.lists(
        st.tuples(st.integers(0, 19), st.integers(0, 2), st.booleans()), min_size=1, max_size=4
    )
)
@settings(max_examples=150)
@example([(4, 0, True), (5, 0, False)])
@example([(4, 2, True), (9, 2, False)])
def test_stray_quotes_never_cost_a_row_unseen(tmp_path_factory, strays):
    """Quotes put at either end of any cells: every row is there, or none is."""
    rows = [list(row) for row in PLAIN]
    for row, at, opening in strays:
        rows[row][at] = '"' + rows[row][at] if opening else rows[row][at] + '"'
    file = tmp_path_factory.mktemp("strays") / "a.csv"
    file.write_text("text,label,group\n" + "".join(",".join(row) + "\n" for row in rows))
    assert cells(read_table(Source(path=str(file), quotes="none"))) == rows
    try:
        found = read_table(Source(path=str(file)))
    except DataError:
        return
    assert len(found) == len(rows)


@given(st.data(), st.sampled_from(QUOTING))
@settings(max_examples=200)
def test_damage_never_costs_a_row_unseen(tmp_path_factory, data, quoting):
    """A character of a written table lost, or a quote or separator more."""
    rows = posts(*(f"post, {row}" if row % 3 else f'he said "{row}"' for row in range(12)))
    text = written(rows, quoting=quoting, lineterminator="\n")
    body = range(text.index("\n") + 1, len(text) - 1)
    at = data.draw(st.sampled_from([at for at in body if text[at] != "\n"]))
    put = data.draw(st.sampled_from(["", '"', ","]))
    file = tmp_path_factory.mktemp("damaged") / "a.csv"
    file.write_text(text[:at] + put + text[at + (not put) :])
    try:
        found = read_table(Source(path=str(file)))
    except DataError:
        return
    assert len(found) == len(rows)


def test_another_character_that_quotes(table):
    text = "a,b\n'x, y',\"1\"\n'it''s',2\n"
    assert cells(table(text, quotes="'")) == [["x, y", '"1"'], ["it's", "2"]]


@pytest.mark.parametrize(
    ("text", "shows", "fix"),
    [
        ("a,b,c\n1,2,3\n4,5\n", ["row 1 (line 3)", "2 columns", "has 3"], "separator"),
        ("a,b\n1,2\n3,4,5\n", ["row 1 (line 3)", "3 columns", "has 2"], "separator"),
        ("a,b\n1,2,\n3,4,\n", ["row 0 (line 2)", "3 columns"], "ends"),
        ("a,b\n1,2\na,b\n3,4\n", ["row 1 (line 3)"], "joined"),
        ("a;b\n1;2\n3,4;5\n", ["row 1 (line 3)", "2 columns", "has 1"], "separator"),
        ("a,b\n1,\0\n", ["line 2", "NUL"], "`encoding: utf-16-le`"),
    ],
)
def test_rows_and_headers_that_do_not_fit(table, tmp_path, text, shows, fix):
    with raises(DataError, *shows, where=tmp_path / "a.csv", fix=fix):
        table(text)


def test_two_columns_of_one_name(table):
    """As in a file of ProPublica's: only who reads one of them has to know which."""
    assert column(table("a,b,a\n1,2,1\n2,3,2\n"), "a", "here").tolist() == ["1", "2"]
    found = table("a,b,a \n1,2,3\n")
    assert column(found, "b", "here").tolist() == ["2"]
    with raises(DataError, "'a'", where="here"):
        column(found, "a", "here")
    assert cells(table('a;b;a\n"1,5";2;3\n', separator=";", decimal=",")) == [["1.5", "2", "3"]]


def test_a_line_of_names_where_none_should_be(table):
    with raises(DataError, "row 0 (line 1)", fix="source.columns"):
        table("a,b\n1,2\n", columns=["a", "b"])


def test_separators_at_all_ends_and_nameless_columns(table):
    found = table(",a,b,\n0,1,2,\n1,3,4,\n")
    assert list(found.columns) == ["Unnamed: 0", "a", "b", "Unnamed: 3"]
    assert found["b"].tolist() == ["2", "4"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_and_blank_lines(table, end):
    text = end.join(["a,b", "", "1,2", "  ", '"x', 'y",4', ""])
    assert cells(table(text)) == [["1", "2"], [f"x{end}y", "4"]]


def test_texts_of_spreadsheets(table):
    assert cells(table('a,b\n="0012","=""f"""\n=x,="\n')) == [["0012", "f"], ["=x", '="']]


def test_long_cells(table):
    long = "x" * 300_000
    assert cells(table(f'a,b\n"{long}",1\n')) == [[long, "1"]]
    assert csv.field_size_limit() == 131_072


def test_more_rows_than_are_read_at_a_time(table, monkeypatch):
    monkeypatch.setattr("mergekit_fair.data.separated.CHUNK", 3)
    assert cells(table(written(PLAIN))) == [list(row) for row in PLAIN]


DECIMALS = "score;n;note\n0,5;1;1,5 kg\n;2;x\n-1,25e1;NA;1.5\n"


def test_numbers_with_a_decimal_comma(table):
    found = table(DECIMALS, separator=";", decimal=",")
    assert cells(found) == [["0.5", "1", "1,5 kg"], ["", "2", "x"], ["-1.25e1", "NA", "1.5"]]
    assert cells(table('a,b\n"1,5",2\n', decimal=",")) == [["1.5", "2"]]


def test_marks_between_thousands_are_not_decimal_points(table, tmp_path):
    with raises(DataError, "'n'", "'1.234'", where=tmp_path / "a.csv", got="decimal: ,"):
        table("n;m\n1.234;1\n12;1\n", separator=";", decimal=",")


@pytest.mark.parametrize("cell", ["1,234", "1 234", "1'234", "1_234", "0,7", "５", "inf", "1e999"])
def test_what_is_no_number_is_refused_where_one_is_needed(spec, cell):
    rows = [(f"t{row}", row % 2, 0.3 if row else cell, "train") for row in range(4)]
    options = {"splits": {"column": "split", "names": {"train": "train"}}}
    for change in (
        {"label": {"column": "group", "ge": 0.5}},
        {"groups": {"columns": ["group"], "gt": 0.2}},
        {"keep": [{"column": "group", "ge": 0}]},
    ):
        with raises(DataError, repr(cell)):
            load_rows(spec(rows, **options, **change))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"encoding": "utf8mb4"}, "no text encoding"),
        ({"encoding": "base64"}, "no text encoding"),
        ({"quotes": "never"}, "none, standard or one character"),
        ({"quotes": ","}, "quotes cannot be"),
        ({"decimal": "5"}, "decimal cannot be"),
        ({"separator": '"'}, "separator cannot be"),
        ({"format": "jsonl", "decimal": ","}, "decimal: only together with a csv or tsv file"),
        ({"format": "parquet", "encoding": "cp1252"}, "encoding: only together with"),
    ],
)
def test_keys_of_the_source(options, expected):
    options = {"separator": ",", **options} if "format" not in options else options
    with pytest.raises(ValueError, match=expected):
        Source(path="a.csv", **options)
