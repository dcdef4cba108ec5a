"""`keep`: which rows of the source count."""

import json

import pytest

from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.errors import ConfigError, DataError

COLUMNS = ("text", "label", "group", "split", "score")
ROWS = [
    (f"text {i}", i % 2, "ab"[i // 2 % 2], ("train", "validation", "report")[i // 8], i)
    for i in range(24)
]


def complaint(spec, keep, rows=ROWS):
    with pytest.raises(DataError) as caught:
        load_rows(spec(rows, COLUMNS, keep=keep))
    return str(caught.value)


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
    text = complaint(spec, [{"column": "score", "le": 5}], [(*row[:4], "x") for row in ROWS])
    assert "keep.0, column 'score': 24 of 24 values are not numbers: 'x' (24)" in text


def test_complaints(spec):
    assert "keep.0.column: no column 'scores'; allowed" in complaint(
        spec, [{"column": "scores", "ge": 1}]
    )
    assert complaint(spec, [{"column": "score", "ge": 1}, {"column": "score", "lt": 0}]) == (
        "data set 'small', keep.1 (column 'score'): no row is left. "
        "Check the condition against the column's values."
    )
    rows = [(*row[:4], row[4]) for row in ROWS]
    rows[9] = ("", *rows[9][1:])
    text = complaint(spec, [{"column": "score", "gt": 3}], rows)
    assert "(numbers of rows: among the 20 that count), text: 1 of 20 texts are empty" in text
    assert "first at row 5" in text


@pytest.mark.parametrize("rule", [{}, {"is": "a", "not": "b"}, {"is": "a", "ge": 1}])
def test_one_rule_a_condition(block, rule):
    with pytest.raises(ConfigError, match="needs exactly one of is, not, ge, gt, le and lt"):
        load_spec(block(keep=[{"column": "label", **rule}]))


def test_an_empty_list_is_a_mistake_and_the_rest_reads_back(block):
    with pytest.raises(ConfigError, match="keep"):
        load_spec(block(keep=[]))
    found = load_spec(block(keep=[{"column": "label", "not": -1}, {"column": "label", "le": 1}]))
    assert load_spec(json.loads(json.dumps(found.to_dict()))) == found
    assert "keep" not in load_spec(block()).to_dict()
