"""Labels of many classes, and several labels a row: what is read, counted, dealt and refused."""

import numpy as np
import pandas as pd
import pytest
from refusals import raises

from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.data.label_column import read_labels
from mergekit_fair.data.label_rules import Label
from mergekit_fair.data.splits import stratify
from mergekit_fair.errors import DataError

SPEECH = {"hate": "0", "offensive": "1", "neither": "2"}
COLUMNS = ("text", "class", "toxicity", "threat", "group", "split")
ROWS = [
    (f"text {row}", row % 3, row % 4 / 4, "yn"[row // 2 % 2], "ab"[row // 4 % 2], split)
    for row, split in enumerate(["train"] * 12 + ["validation"] * 12 + ["report"] * 12)
]
LABELS = {
    "toxic": {"column": "toxicity", "ge": 0.5},
    "threat": {"column": "threat", "positive": "y", "negative": "n"},
}


def found(values, classes):
    frame = pd.DataFrame({"y": values})
    return read_labels(frame, Label(column="y", classes=classes), "data set 'x'")


def refuses(values, classes, *shows, **fields):
    with raises(DataError, *shows, where="data set 'x', label column 'y'", **fields):
        found(values, classes)


@pytest.fixture
def classes(spec):
    """`classes(rows, **changes)`: rows of three classes."""
    label = {"column": "class", "classes": SPEECH}
    return lambda rows=ROWS, **changes: load_rows(
        spec(rows, COLUMNS, **{"label": label, **changes})
    )


@pytest.fixture
def labels(spec):
    """`labels(rows, **changes)`: rows of two labels."""
    block = {"label": None, "labels": LABELS}
    return lambda rows=ROWS, **changes: load_rows(spec(rows, COLUMNS, **{**block, **changes}))


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["b", "c", "a", "b"], ["c", "b", "a"]),
        ([1, 0, 2, 1], SPEECH),
        ([1.0, 0.0, 2.0, 1.0], {"x": 0, "y": [1], "z": 2}),
        (["u", "low", "w", "v"], {"x": "low", "y": ["u", "v"], "z": ["w", "never"]}),
        (["u", "low", "w", "v"], {"x": "low", "y": ["u", "v"], "z": "*"}),
        ([1, 0, 2, 1], [0, 1, 2]),
        (pd.array([1, 0, 2, 1], dtype="Int64"), SPEECH),
        (["None", "no", "2", "None"], {"x": "no", "y": "None", "z": "*"}),
    ],
)
def test_a_class_is_the_number_of_its_place(values, classes):
    given = found(values, classes)
    assert given.values.dtype == np.int8
    assert given.values.tolist() == [1, 0, 2, 1]
    assert given.names == tuple(map(str, classes))


def test_two_classes_may_have_names_of_their_own(classes):
    rows = classes(label={"column": "threat", "classes": {"calm": "n", "threat": "y"}})
    assert (rows.label_kind, rows.label_names) == ("classes", ("calm", "threat"))
    assert rows.labels[:3].tolist() == [1, 1, 0]


def test_values_of_no_class_are_listed():
    refuses(["a", "b", "c", "c", ""], ["a", "b"], "3 of 5", "'c' (2)", "row 2", fix="'*'")
    for gap in (None, "", "nan", "NA"):
        refuses(["a", "b", gap], {"x": "a", "y": "b", "z": "*"}, "1 of 3", "row 2", fix="keep")
    refuses(["yes", "no"], {"x": True, "y": False}, "2 of 2", fix="YAML reads")


def test_the_rest_is_said_and_takes_no_variant_of_another_class():
    given = found(["a", "b", "c", "d", "d"], {"x": "a", "y": "b", "z": "*"})
    assert given.values.tolist() == [0, 1, 2, 2, 2]
    assert given.warnings == ("label: `z: '*'` covers 'd' (2), 'c' (1)",)
    refuses(["a", "b", "B "], {"x": "a", "y": "b", "z": "*"}, "'B '", "'b'", fix="`y:` or in `z:`")


def test_a_class_without_rows_is_refused():
    wrong = {"hate": "0", "offensive": "O", "neither": "2"}
    refuses([0, 2, 2, 0, 2], wrong, "'offensive'", got="'2' (3), '0' (2)", allowed=("O",))


def test_three_classes_without_a_rule_may_be_named(classes, labels):
    with raises(DataError, "3 classes", got=["0", "1", "2"], fix="`classes:`") as caught:
        classes(label={"column": "class"})
    assert "`positive:`" in caught.value.fix
    with raises(DataError, "3 classes", where="labels.a column 'class'") as caught:
        labels(labels={"a": {"column": "class"}})
    assert "`classes:`" not in caught.value.fix


def test_rows_of_classes(classes):
    rows = classes()
    assert (rows.label_kind, rows.label_names) == ("classes", tuple(SPEECH))
    assert (rows.spec.label_kind, rows.spec.label_names) == ("classes", tuple(SPEECH))
    assert rows.labels.tolist() == [row % 3 for row in range(36)]
    assert rows.take([4, 5]).labels.tolist() == [1, 2]
    assert rows.take([4, 5]).label_names == tuple(SPEECH)
    assert rows.having.tolist()[:2] == [[True, False, False], [False, True, False]]
    total, first = rows.counts()[:2]
    assert total["n_of"] == {"hate": 4, "offensive": 4, "neither": 4}
    kept = {"n_of": {"hate": 3, "offensive": 2, "neither": 3}, "excluded": False}
    assert first == {"split": "train", "group": "a", "n": 8, **kept}
    assert rows.warnings == ()


def test_rows_of_labels(labels):
    rows = labels()
    assert (rows.label_kind, rows.label_names) == ("labels", ("toxic", "threat"))
    assert (rows.spec.label_kind, rows.spec.label_names) == ("labels", ("toxic", "threat"))
    assert rows.labels.dtype == np.int8
    assert rows.labels[:5].tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [0, 1]]
    assert rows.take(rows.split == "report").labels.shape == (12, 2)
    assert rows.counts()[0]["n_of"] == {"toxic": 6, "threat": 6}
    alone = labels(labels={"toxic": LABELS["toxic"]})
    assert (alone.label_kind, alone.labels.shape) == ("labels", (36, 1))


def test_a_row_that_lacks_one_of_its_labels_is_refused(labels):
    lacks = [*ROWS, ("text 36", 0, "", "y", "a", "train")]
    where = "data set 'small', labels.toxic column 'toxicity'"
    with raises(DataError, "1 of 37", "row 36", where=where):
        labels(lacks)
    assert len(labels(lacks, keep=[{"column": "toxicity", "not": ""}])) == 36
    with raises(DataError, "'toxicty'", where="labels.toxic.column", fix="'toxicity'"):
        labels(labels={"toxic": {"column": "toxicty"}})
    with raises(DataError, "all 36", where="labels.toxic column"):
        labels(labels={"toxic": {"column": "toxicity", "ge": 5}})


def test_splits_that_lack_a_class_or_a_label_are_said(classes, labels):
    rows = [row for row in ROWS if not (row[-1] == "report" and row[1] == 0)]
    assert classes(rows).warnings == ("split 'report': none of 8 rows are 'hate'",)
    rows = [row for row in ROWS if row[-1] != "train" or row[3] == "y"]
    assert labels(rows).warnings == (
        "split 'train': none of 6 rows are 'toxic'",
        "split 'train': all of 6 rows are 'threat'",
    )


def test_fingerprints_follow_classes_and_labels(classes, labels):
    order = dict(reversed(SPEECH.items()))
    named = {"column": "class", "classes": {**SPEECH, "x": 2} | {}}
    del named["classes"]["neither"]
    one = {"toxic": LABELS["toxic"]}
    prints = [
        classes().fingerprint(),
        classes(label={"column": "class", "classes": order}).fingerprint(),
        classes(label=named).fingerprint(),
        classes(label={"column": "threat", "positive": "y", "negative": "n"}).fingerprint(),
        classes(label={"column": "threat", "classes": ["n", "y"]}).fingerprint(),
        labels().fingerprint(),
        labels(labels=dict(reversed(LABELS.items()))).fingerprint(),
        labels(labels=one).fingerprint(),
        labels(labels={"x": LABELS["toxic"]}).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)


def test_a_limit_takes_of_every_class_its_share(classes, labels):
    rows = [
        (f"t{row}", row % 3, row % 8 / 8, "yn"[row % 5 > 2], "a", "train") for row in range(240)
    ]
    splits = {"column": "split", "names": {"train": "train"}, "limit": {"train": 24}}
    assert np.bincount(classes(rows, splits=splits).labels).tolist() == [8, 8, 8]
    pairs = labels(rows, splits=splits).labels @ np.array([1, 2])
    whole = labels(rows, splits={"column": "split", "names": {"train": "train"}})
    share = np.bincount(whole.labels @ np.array([1, 2])) / 10
    assert (np.abs(np.bincount(pairs) - share) <= 1).all()


def test_strata_are_classes_and_combinations_of_labels():
    membership = np.ones((6, 1), dtype=bool)
    numbers = np.array([0, 1, 2, 1, 0, 2], dtype=np.int8)
    assert len(set(zip(numbers, stratify(numbers, membership), strict=True))) == 3
    labels = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 1], [0, 0]], dtype=np.int8)
    found = stratify(labels, membership)
    assert (len(set(found)), found[0], found[1]) == (4, found[5], found[4])


def test_votes_are_of_classes_and_of_labels(spec):
    columns = ("text", "class", "threat", "group", "split")
    votes = [("x", 0), ("x", 2), ("x", 2), ("y", 1), ("y", 1), ("z", 0), ("w", 0), ("w", 2)]
    rows = [(text, number, f"0.{number}", "a", "train") for text, number in votes]
    splits = {"column": "split", "names": {"train": "train"}}
    unit = {"column": "text", "majority": ["class"]}
    read = load_rows(
        spec(rows, columns, one_row_per=unit, splits=splits,
             label={"column": "class", "classes": SPEECH})
    )  # fmt: skip
    assert (read.inputs, read.labels.tolist()) == (("x", "y", "z"), [2, 1, 0])
    assert "1 of 4 units" in read.warnings[0]
    unit = {"column": "text", "mean": ["threat"], "majority": ["class"]}
    several = {
        "hard": {"column": "class", "positive": 2, "negative": "*"},
        "soft": {"column": "threat", "gt": 0.05},
    }
    read = load_rows(
        spec(rows, columns, one_row_per=unit, splits=splits, label=None, labels=several)
    )
    assert read.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    with raises(DataError, "'threat'", where="one_row_per"):
        load_rows(
            spec(rows, columns, splits=splits, label=None, labels=several,
                 one_row_per={"column": "text", "majority": ["class"]})
        )  # fmt: skip


def test_class_names_that_are_numbers_are_texts(block):
    spec = load_spec(block(label={"column": "label", "classes": [0, 1.0, "x"]}))
    assert spec.label_names == ("0", "1", "x")
