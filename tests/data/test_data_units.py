"""`one_row_per`: several annotators' rows become one."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import raises

from mergekit_fair.data import load_rows
from mergekit_fair.data.blocks import OneRowPer
from mergekit_fair.data.units import merge_units
from mergekit_fair.errors import DataError

COLUMNS = ("unit", "text", "label", "a", "b", "note")
SPLITS = {"shares": {"train": 0.5, "validation": 0.5}}


def annotated(units=20, annotators=3):
    """Unit u is about a in a third of the rows if u is even, about b in all of them if odd."""
    return [
        (
            f"u{unit}",
            f"text {unit}",
            unit // 2 % 2,
            (unit % 2 == 0) & (who == 0),
            unit % 2 == 1,
            who,
        )
        for who in range(annotators)
        for unit in range(units)
    ]


@pytest.fixture
def merged(spec):
    """`merged(rows, **changes)`: the rows of the small data set."""

    def build(rows=None, ge=0.3, **unit):
        return load_rows(
            spec(
                rows or annotated(),
                COLUMNS,
                one_row_per={"column": "unit", "mean": ["a", "b"], **unit},
                groups={"columns": ["a", "b"], "ge": ge},
                splits=SPLITS,
            )
        )

    return build


def test_one_row_a_unit_in_order_of_appearance(merged):
    rows = merged()
    assert rows.inputs == tuple(f"text {unit}" for unit in range(20))
    assert rows.ids.tolist() == list(range(20))  # each unit's first row in the source
    assert rows.labels.tolist() == [unit // 2 % 2 for unit in range(20)]
    assert rows.membership[:, 0].tolist() == [unit % 2 == 0 for unit in range(20)]


def test_the_mean_decides_membership(merged):
    with raises(DataError, "'a' is empty", "ge 0.5", where="groups.columns, column 'a'"):
        merged(ge=0.5)


def test_units_stay_in_one_split(merged):
    rows = merged()
    assert rows.warnings == ()
    assert not set(rows.of("train").inputs) & set(rows.of("validation").inputs)


def test_rows_of_a_unit_that_differ(merged):
    rows = annotated()
    rows[25] = (*rows[25][:2], 1 - rows[25][2], *rows[25][3:])
    fields = {"where": "one_row_per", "got": ["0", "1"], "fix": "`majority: [...]`"}
    with raises(DataError, "'label'", "rows 5 and 25", **fields):
        merged(rows)
    assert len({row[5] for row in annotated()}) == 3  # `note` differs too, but is not read


def test_keys_and_means_that_are_none(merged):
    rows = annotated()
    rows[7] = ("", *rows[7][1:])
    with raises(DataError, "1 of 60", "'unit'", "row 7", where="one_row_per"):
        merged(rows)
    rows = annotated()
    rows[7] = (*rows[7][:3], "x", *rows[7][4:])
    with raises(DataError, "1 of 60", "row 7", where="one_row_per.mean, column 'a'"):
        merged(rows)
    with raises(DataError, "'units'", where="one_row_per.column"):
        merged(column="units")


def test_after_keep(spec):
    rows = load_rows(
        spec(
            annotated(),
            COLUMNS,
            keep=[{"column": "note", "is": 1}],
            one_row_per={"column": "unit", "mean": ["b"]},
            groups={"columns": ["b"]},
            splits=SPLITS,
        )
    )
    assert rows.ids.tolist() == list(range(20, 40))


VOTES = [
    ("u0", "t0", "yes", "f"),
    ("u1", "t1", "no", "f"),
    ("u0", "t0", "no", "m"),
    ("u2", "t2", "yes", ""),
    ("u0", "t0", "yes", "f"),
    ("u1", "t1", "no", "NA"),
    ("u1", "t1", "", "m"),
    ("u1", "t1", "nan", "m"),
    ("u3", "t3", "yes", "m"),
    ("u3", "t3", "no", "m"),
    ("u4", "t4", "no", "m"),
]


@pytest.fixture
def voted(spec):
    """`voted(rows, **unit)`: units of votes for a label and a group."""

    def build(rows=VOTES, label=None, **unit):
        return load_rows(
            spec(
                [(*row, "train") for row in rows],
                ("unit", "text", "label", "group", "split"),
                label={"column": "label", **(label or {"positive": "yes", "negative": "no"})},
                one_row_per={"column": "unit", "majority": ["label", "group"], **unit},
                splits={"column": "split", "names": {"train": "train"}},
            )
        )

    return build


def test_the_majority_of_votes(voted):
    rows = voted()
    assert rows.inputs == ("t0", "t1", "t2", "t4")
    assert rows.ids.tolist() == [0, 1, 3, 10]
    assert rows.labels.tolist() == [1, 0, 1, 0]
    carried = [np.flatnonzero(row).tolist() for row in rows.membership]
    assert rows.group_names == ("f", "m")
    assert carried == [[0], [1], [], [1]]  # u2 has no vote, NA is none
    assert rows.warnings[0].startswith("one_row_per: 1 of 5 units")


def test_a_unit_without_a_vote_has_no_label(voted):
    with raises(DataError, "1 of 5", "'null'", where="label column"):
        voted([*VOTES, ("u5", "t5", "null", "f"), ("u5", "t5", "", "f")])


def test_values_that_are_called_so_have_votes(voted):
    rows = [(*row[:2], "none" if row[2] == "no" else row[2], row[3]) for row in VOTES]
    assert voted(rows, {"positive": "yes", "negative": "none"}).labels.tolist() == [1, 0, 1, 0]


def test_only_ties(voted):
    with raises(DataError, where="one_row_per.majority"):
        voted([("u0", "t", "yes", "f"), ("u0", "t", "no", "f")])


def test_variants_of_a_vote_are_counted_apart_and_said(voted):
    rows = voted([*VOTES, ("u4", "t4", "No", "m"), ("u4", "t4", "no", "m")])
    assert any("'no' and 'No'" in warning for warning in rows.warnings)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc ")), min_size=1, max_size=20))
def test_majorities_are_those_of_brute_force(votes):
    frame = pd.DataFrame(votes, columns=["unit", "v"])
    counts = {}
    for unit, value in votes:
        counts.setdefault(unit, Counter()).update([value] if value != " " else [])
    expected = {}
    for unit, found in counts.items():
        top = [value for value, count in found.items() if count == max(found.values())]
        if len(top) < 2:
            expected[unit] = top[0] if top else " "
    unit = OneRowPer(column="unit", majority=("v",))
    if not expected:
        return
    merged, first, notes = merge_units(frame, unit, ["v"], [], "x")
    assert dict(zip(merged["unit"], merged["v"], strict=True)) == expected
    assert [votes[row][0] for row in first] == list(expected)
    assert bool(notes) == (len(expected) < len(counts))


def test_missing_values_have_no_part_in_a_mean():
    frame = pd.DataFrame({"unit": [0, 0, 1, 1, 2], "v": ["1", "NA", "0.5", "1", None]})
    unit = OneRowPer(column="unit", mean=("v",))
    merged = merge_units(frame, unit, ["v"], [], "x")[0]
    assert np.array_equal(merged["v"], [1, 0.75, np.nan], equal_nan=True)


def test_a_unit_without_a_number_is_missing_where_it_is_needed(merged):
    rows = annotated()
    for who in range(3):
        rows[20 * who + 4] = (*rows[20 * who + 4][:3], "NA", *rows[20 * who + 4][4:])
    with raises(DataError, "1 of 20", "row 4", where="column 'a'"):
        merged(rows)


def test_a_column_is_merged_in_one_way():
    with pytest.raises(ValueError, match="'a'"):
        OneRowPer(column="u", mean=("a",), majority=("a",))
