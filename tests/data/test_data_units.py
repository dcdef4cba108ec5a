"""`one_row_per`: several annotators' rows become one."""

import pytest
from refusals import raises

from mergekit_fair.data import load_rows
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
    fields = {"where": "one_row_per", "got": ["0", "1"], "fix": "`mean: [...]`"}
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
