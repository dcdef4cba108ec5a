"""`keep`: which rows of the source count."""

import json

import pytest
from refusals import raises

from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.errors import ConfigError, DataError

COLUMNS = ("text", "label", "group", "split", "score")
ROWS = [
    (f"text {i}", i % 2, "ab"[i // 2 % 2], ("train", "validation", "report")[i // 8], i)
    for i in range(24)
]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ([{"column": "score", "ge": 4}, {"column": "score", "lt": 20}], range(4, 20)),
        ([{"column": "group", "is": ["a", "b"]}], range(24)),
        ([{"column": "score", "not": [0, "1", 2.0]}], range(3, 24)),
        ([{"column": "group", "is": "a"}], [i for i in range(24) if i // 2 % 2 == 0]),
    ],
)
def test_rows_that_meet_every_condition(spec, keep, kept):
    rows = load_rows(spec(ROWS, COLUMNS, keep=keep))
    assert rows.ids.tolist() == list(kept)  # numbers in the source, not among the kept
    assert rows.inputs == tuple(f"text {i}" for i in kept)


def test_what_is_left_out_is_counted(spec):
    keep = [{"column": "score", "gt": 3}]
    assert load_rows(spec(ROWS, COLUMNS, keep=keep)).warnings == (
        "keep: 4 of 24 rows of the source are left out",
    )
    assert load_rows(spec(ROWS, COLUMNS, keep=[{"column": "score", "ge": 0}])).warnings == ()


def test_a_missing_cell_meets_no_threshold_and_is_the_empty_value(spec):
    rows = [(*row[:4], "" if row[4] < 2 else row[4]) for row in ROWS]
    for condition in ({"le": 100}, {"not": ""}):
        found = load_rows(spec(rows, COLUMNS, keep=[{"column": "score", **condition}]))
        assert found.ids.tolist() == list(range(2, 24))
    rows = [(*row[:4], "x") for row in ROWS]
    with raises(DataError, "24 of 24", "'x' (24)", where="keep.0, column 'score'"):
        load_rows(spec(rows, COLUMNS, keep=[{"column": "score", "le": 5}]))


def test_variants_of_a_named_value_are_other_values_and_said(spec):
    rows = [(*row[:4], ["en", "EN", "de", ""][row[4] // 2 % 4]) for row in ROWS]
    for condition, kept in (({"is": "en"}, 6), ({"not": ["en", ""]}, 12)):
        found = load_rows(spec(rows, COLUMNS, keep=[{"column": "score", **condition}]))
        assert len(found) == kept
        assert any("keep.0: 'EN' (6) are other values" in text for text in found.warnings)
    keep = [{"column": "score", "is": ["en", "EN"]}]
    warnings = load_rows(spec(rows, COLUMNS, keep=keep)).warnings
    assert not [text for text in warnings if "other values" in text]


def test_words_for_nothing_meet_no_threshold(spec):
    rows = [(*row[:4], "NA" if row[4] < 2 else row[4]) for row in ROWS]
    found = load_rows(spec(rows, COLUMNS, keep=[{"column": "score", "ge": 0}]))
    assert found.ids.tolist() == list(range(2, 24))


def test_complaints(spec):
    with raises(DataError, "'scores'", where="keep.0.column", allowed=list(COLUMNS)):
        load_rows(spec(ROWS, COLUMNS, keep=[{"column": "scores", "ge": 1}]))
    keep = [{"column": "score", "ge": 1}, {"column": "score", "lt": 0}]
    with raises(DataError, where="data set 'small', keep.1 (column 'score')"):
        load_rows(spec(ROWS, COLUMNS, keep=keep))
    rows = [(*row[:4], row[4]) for row in ROWS]
    rows[9] = ("", *rows[9][1:])
    with raises(DataError, "1 of 20", "row 5", where="among the 20 that count), text"):
        load_rows(spec(rows, COLUMNS, keep=[{"column": "score", "gt": 3}]))


@pytest.mark.parametrize("rule", [{}, {"is": "a", "not": "b"}, {"is": "a", "ge": 1}])
def test_one_rule_a_condition(block, rule):
    with raises(ConfigError, "keep.0: ", "is, not, ge, gt, le and lt", where="data"):
        load_spec(block(keep=[{"column": "label", **rule}]))


def test_an_empty_list_is_a_mistake_and_the_rest_reads_back(block):
    with raises(ConfigError, "keep: ", where="data"):
        load_spec(block(keep=[]))
    found = load_spec(block(keep=[{"column": "label", "not": -1}, {"column": "label", "le": 1}]))
    assert load_spec(json.loads(json.dumps(found.to_dict()))) == found
    assert "keep" not in load_spec(block()).to_dict()
