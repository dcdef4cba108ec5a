"""Group membership: one column, several columns, lists; overlap; names; every complaint."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import raises

from mergekit_fair.data.blocks import GroupColumns
from mergekit_fair.data.group_columns import MAX_GROUPS, read_groups
from mergekit_fair.errors import DataError


def groups(table, **spec):
    return read_groups(pd.DataFrame(table), GroupColumns.model_validate(spec), "data set 'x'")


def members(found):
    """Group → row numbers."""
    return {
        name: np.flatnonzero(found.matrix[:, index]).tolist()
        for index, name in enumerate(found.names)
    }


COLUMN = {"g": ["b", "a", "", "other", "b"]}
SCORES = {"men": [0.9, 0.5, 0.0], "women": [0.6, 0.51, 0.2], "n": ["x", "", "1"]}
LISTS = {"ids": [["b", "a"], [], ["a"], ["c", "a"]]}


def test_one_column():
    found = groups(COLUMN, column="g", exclude=["other"])
    assert members(found) == {"a": [1], "b": [0, 4], "other": [3]}
    assert found.matrix.dtype == bool
    assert found.excluded == {"other"}
    assert found.warnings == ("groups: 1 of 5 rows name no group and belong to none",)


def test_only_and_rename():
    found = groups(COLUMN, column="g", only=["B", "a"], rename={"b": "B"})
    assert members(found) == {"B": [0, 4], "a": [1]}


def test_numbers_of_yaml_name_numbers_of_the_table():
    found = groups({"race": [0, 1, 0]}, column="race", rename={0: "White", "1": "Black"})
    assert members(found) == {"Black": [1], "White": [0, 2]}


def test_two_raw_names_may_become_one_group():
    found = groups(LISTS, list="ids", rename={"b": "c"})
    assert members(found) == {"a": [0, 2, 3], "c": [0, 3]}


def test_several_columns_keep_their_order():
    found = groups(SCORES, columns={"women": "women", "all men": "men"})
    assert members(found) == {"women": [0, 1], "all men": [0]}
    assert list(members(groups(SCORES, columns=["women", "men"], ge=0.5))) == ["women", "men"]


@pytest.mark.parametrize(
    ("bound", "expected"), [("ge", [0, 1]), ("gt", [0]), ("le", [1, 2]), ("lt", [2])]
)
def test_every_bound(bound, expected):
    assert members(groups(SCORES, columns=["men"], **{bound: 0.5})) == {"men": expected}


def test_truth_values_are_scores():
    table = {"a": ["True", "false", "TRUE"], "b": [False, True, True]}
    assert members(groups(table, columns=["a", "b"])) == {"a": [0, 2], "b": [1, 2]}


def test_lists_and_separated_text():
    expected = {"a": [0, 2, 3], "b": [0], "c": [3]}
    assert members(groups(LISTS, list="ids")) == expected
    arrays = {"ids": [np.array(ids) for ids in LISTS["ids"]]}
    assert members(groups(arrays, list="ids")) == expected
    text = {"ids": ["b, a", "", " a,, ", "c,a,a"]}
    assert members(groups(text, list="ids", separator=",")) == expected
    assert groups(text, list="ids", separator=",").warnings == ()


@given(
    st.lists(st.lists(st.floats(0, 1, width=16), min_size=3, max_size=3), min_size=1, max_size=12)
)
def test_overlapping_groups_equal_brute_force(scores):
    names = ["p", "q", "r"]
    carried = [
        [name for name, score in zip(names, row, strict=True) if score > 0.5] for row in scores
    ]
    expected = {name: [row for row, found in enumerate(carried) if name in found] for name in names}
    table = {name: [row[index] for row in scores] for index, name in enumerate(names)}
    if all(expected.values()):
        assert members(groups(table, columns=names)) == expected
    if any(expected.values()):
        listed = groups({"ids": carried}, list="ids")
        assert members(listed) == {name: rows for name, rows in expected.items() if rows}
        joined = groups({"ids": ["|".join(ids) for ids in carried]}, list="ids", separator="|")
        assert np.array_equal(joined.matrix, listed.matrix)


def test_a_missing_score_is_not_a_low_score():
    table = {"a": [0.9, None, None], "b": [0.1, 0.9, None]}
    where = "data set 'x', groups.columns, column 'a'"
    with raises(DataError, "2 of 3", "row 1", "`missing: outside`", where=where):
        groups(table, columns=["a", "b"])
    found = groups(table, columns=["a", "b"], missing="outside")
    assert members(found) == {"a": [0], "b": [1]}
    assert found.warnings == ("groups: 1 of 3 rows name no group and belong to none",)


@pytest.mark.parametrize(
    ("table", "spec", "where", "shows"),
    [
        (COLUMN, {"column": "grp"}, "data set 'x', groups.column", ["'grp'", "allowed: g."]),
        (SCORES, {"columns": ["mn"]}, "groups.columns", ["allowed: men, women, n.", "mean 'men'?"]),
        (SCORES, {"columns": {"a": "n"}}, "groups.columns, column 'n'", ["1 of 3", "'x'", "row 0"]),
        (SCORES, {"columns": ["men"], "gt": 0.9}, "column 'men'", ["empty", "gt 0.9"]),
        (COLUMN, {"column": "g", "exclude": ["othr"]}, "groups.exclude", ["mean 'other'?"]),
        (COLUMN, {"column": "g", "only": ["z"]}, "groups.only", ["'z'", "allowed: a, b, other"]),
        (COLUMN, {"column": "g", "rename": {"z": "Z"}}, "groups.rename", ["'z'", "allowed: "]),
        (COLUMN, {"column": "g", "only": ["a"], "exclude": ["a"]}, "groups", ["got ['a']"]),
        ({"g": ["", None]}, {"column": "g"}, "groups", ["no row belongs"]),
        ({"ids": [[], []]}, {"list": "ids"}, "groups", ["no row belongs"]),
        ({"ids": ["", "a,b"]}, {"list": "ids"}, "groups.list 'ids'", ["row 1", "got 'a,b'"]),
        ({"g": [*map(str, range(MAX_GROUPS + 1))]}, {"column": "g"}, "groups", ["201", "200"]),
    ],
)
def test_what_is_wrong_with_groups_is_said(table, spec, where, shows):
    with raises(DataError, *shows, where=where):
        groups(table, **spec)


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "NA", "n/a", "null", "None", "<NA>", np.str_("nan"), r"\N"]
)
def test_words_for_nothing_are_no_groups(word):
    table = {"g": ["f", "m", word, None, "f"], "ids": [["f"], ["m", word], [word], None, "f"]}
    found = groups(table, column="g")
    assert members(found) == {"f": [0, 4], "m": [1]}
    assert found.warnings[0].startswith("groups: 2 of 5 rows name no group")
    assert f"{str(word)!r} (1)" in found.warnings[1]
    listed = groups(table, list="ids", separator=",")
    assert members(listed) == {"f": [0, 4], "m": [1]}
    assert listed.warnings[0].startswith("groups: 2 of 5 rows name no group")
    assert f"{str(word)!r} (2)" in listed.warnings[1]


@pytest.mark.parametrize(
    "named", [{"only": ["NA", "m"]}, {"exclude": ["NA"]}, {"rename": {"NA": "Namibia"}}]
)
def test_a_group_that_is_called_so_is_named(named):
    table = {"g": ["NA", "m", "NaN", "NA"], "ids": [["NA"], ["m"], ["NaN"], ["NA", "m"]]}
    for source in ({"column": "g"}, {"list": "ids"}):
        found = groups(table, **source, **named)
        assert members(found)[named.get("rename", {}).get("NA", "NA")] == [0, 3]
        assert "'NaN' (1)" in found.warnings[1]


def test_missing_scores_by_word():
    table = {"a": ["0.9", "NA", "nan", "0"]}
    assert members(groups(table, columns=["a"], missing="outside")) == {"a": [0]}
    with raises(DataError, "2 of 4", "row 1"):
        groups(table, columns=["a"])


WRITTEN = {
    "json": '["f", "black"]',
    "python": "['f', 'black']",
    "numpy": "['f' 'black']",
    "tuple": "('f', 'black')",
    "set": "{'f', 'black'}",
    "frozenset": "frozenset({'f', 'black'})",
    "array": "array(['f', 'black'], dtype=object)",
    "gaps": "['f', None, 'black', nan]",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("separator", [None, ",", ";"])
def test_lists_that_went_through_text(text, separator):
    found = groups({"ids": [text, "[]", "['m']", "()", "set()"]}, list="ids", separator=separator)
    assert members(found) == {"black": [0], "f": [0], "m": [2]}
    assert not [note for note in found.warnings if "name no group" in note]


def test_names_in_brackets_without_quotes_are_separated():
    found = groups({"ids": ["[a, b]", "[b]", "[]"]}, list="ids", separator=",")
    assert members(found) == {"a": [0], "b": [0, 1]}


@pytest.mark.parametrize(
    "text", ["[a, b]", "['a' ... 'z']", "[['a']]", "{'a': 1}", "['a', b]", "['it''s']", "['a'"]
)
def test_what_is_no_list_as_text(text):
    with raises(DataError, "row 1", where="groups.list 'ids'", got=text):
        groups({"ids": ["['a']", text]}, list="ids")


@pytest.mark.parametrize("text", ["array([a, b])", "frozenset({a})", "array(['a', ..., 'z'])"])
@pytest.mark.parametrize("separator", [None, ","])
def test_no_separator_cuts_a_list_with_a_name(text, separator):
    with raises(DataError, "row 1", where="groups.list 'ids'", got=text):
        groups({"ids": ["a", text]}, list="ids", separator=separator or "a")


@pytest.mark.parametrize(
    "cell", [["a"], "['a', 'b']", '["a"]', "[]", np.array(["a"]), "set()", "frozenset({'a'})"]
)
def test_lists_are_not_read_as_one_category(cell):
    with raises(DataError, where="data set 'x', groups.column", fix="list"):
        groups({"g": pd.Series(["x", cell], dtype=object)}, column="g")


def test_a_name_in_brackets_is_a_name():
    assert members(groups({"g": ["[deleted]", "x"]}, column="g")) == {"[deleted]": [0], "x": [1]}


CROSSED = {"sex": ["f", "m", "f", "NA", "m"], "race": ["b", "b", "w", "w", None]}


def test_intersections():
    found = groups(CROSSED, column=["sex", "race"])
    assert members(found) == {"f & b": [0], "f & w": [2], "m & b": [1]}
    assert found.warnings[0].startswith("groups: 2 of 5 rows name no group")
    assert members(groups(CROSSED, column=["race", "sex"])) == {
        "b & f": [0],
        "b & m": [1],
        "w & f": [2],
    }


def test_names_of_intersections():
    spec = {"only": ["black women", "m & b"], "rename": {"f & b": "black women"}}
    assert members(groups(CROSSED, column=["sex", "race"], **spec)) == {
        "black women": [0],
        "m & b": [1],
    }
    assert groups(CROSSED, column=["sex", "race"], exclude="m & b").excluded == {"m & b"}
    assert members(groups(CROSSED, column=["sex", "race"], rename={"NA & w": "x"}))["x"] == [3]


def test_intersections_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    table = {name: rng.choice(["a", "b", ""], 60).tolist() for name in ("p", "q", "r")}
    expected = {}
    for row, names in enumerate(zip(*table.values(), strict=True)):
        if all(names):
            expected.setdefault(" & ".join(names), []).append(row)
    assert members(groups(table, column=["p", "q", "r"])) == dict(sorted(expected.items()))


def test_two_intersections_of_one_name():
    table = {"p": ["a & b", "a"], "q": ["c", "b & c"]}
    with raises(DataError, "'a & b & c'", where="groups.column"):
        groups(table, column=["p", "q"])


@pytest.mark.parametrize("columns", [["a"], ["a", "a"], [], "", 3, ["a", 3], ["a", ""]])
def test_two_or_more_columns_cross(columns):
    with pytest.raises(ValueError, match="column"):
        GroupColumns(column=columns)


def test_variants_of_a_group_are_warned_about_by_name():
    found = groups({"g": ["Male", "Male", "male ", "F", "F"]}, column="g", only=["Male", "F"])
    assert members(found) == {"F": [3, 4], "Male": [0, 1]}
    assert found.warnings == (
        "groups: 'Male' (2), 'male ' (1) look like one group; to make them one: "
        '`rename: {"male ": Male}`',
    )
    assert groups({"g": ["Male", "male "]}, column="g", rename={"male ": "Male"}).warnings == ()
    assert groups({"g": ["a&b", "a & b", "A & B"]}, column="g").warnings[0].count("'") == 4
