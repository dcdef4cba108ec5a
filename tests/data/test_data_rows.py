"""A description becomes rows; what rows can do; leaks; inputs."""

import numpy as np
from refusals import raises

from mergekit_fair.data import load_rows
from mergekit_fair.errors import DataError

LEAKING = [
    ("same", 0, "a", "train"),
    ("one", 1, "b", "train"),
    ("same", 1, "a", "validation"),
    ("two", 0, "b", "validation"),
    ("same", 0, "a", "report"),
    ("two", 1, "b", "report"),
    ("three", 1, "a", "report"),
    ("four", 0, "b", "report"),
]


WHERE = "data set 'small'"


def test_rows_of_a_small_data_set(spec):
    rows = load_rows(spec())
    assert len(rows) == 16
    assert (rows.name, rows.kind, rows.inputs[3]) == ("small", "text", "text 3")
    assert rows.labels.dtype == np.int8
    assert rows.ids.dtype == np.int64
    assert rows.membership.shape == (16, 2)
    assert rows.group_names == ("a", "b")
    assert rows.excluded == frozenset()
    assert rows.warnings == ()


def test_of_take_and_in_group(spec):
    rows = load_rows(spec())
    report = rows.of("report")
    assert report.ids.tolist() == [12, 13, 14, 15]
    assert report.in_group("b").inputs == ("text 14", "text 15")
    assert rows.take([5, 0]).ids.tolist() == [5, 0]
    assert rows.take(rows.labels == 1).labels.all()
    assert len(rows.take([])) == 0


def test_unknown_and_empty_splits_and_groups(spec):
    rows = load_rows(spec())
    with raises(DataError, "'test'", where=WHERE, allowed=("train", "validation", "report")):
        rows.of("test")
    with raises(DataError, "'report'", where=WHERE, allowed=["train"]):
        rows.take(rows.split == "train").of("report")
    with raises(DataError, "'c'", where=WHERE, allowed=("a", "b")):
        rows.in_group("c")


def test_counts(spec):
    rows = load_rows(spec(groups={"column": "group", "exclude": ["b"]}))
    counts = rows.counts()
    assert [(record["split"], record["group"]) for record in counts[:4]] == [
        ("train", None),
        ("train", "a"),
        ("train", "b"),
        ("validation", None),
    ]
    assert counts[2] == {"split": "train", "group": "b", "n": 4, "n_pos": 2, "excluded": True}


def test_rows_outside_every_split_are_left_out_and_ids_stay(spec):
    rows = load_rows(
        spec(
            splits={
                "column": "split",
                "names": {"report": "report"},
                "ignore": ["train", "validation"],
            }
        )
    )
    assert rows.ids.tolist() == [12, 13, 14, 15]


def test_a_fingerprint_follows_the_content_and_not_the_name(spec):
    rows = load_rows(spec())
    assert rows.fingerprint() == load_rows(spec(name="other")).fingerprint()
    others = [
        {"text": "{text}."},
        {"label": {"column": "label", "positive": 0, "negative": 1}},
        {"groups": {"column": "group", "rename": {"a": "c"}}},
        {"groups": {"column": "group", "exclude": ["a"]}},
        {"groups": {"column": "group", "only": ["a"]}},
        {
            "splits": {
                "column": "split",
                "names": {"train": "report", "report": "train", "validation": "validation"},
            }
        },
    ]
    prints = [load_rows(spec(**change)).fingerprint() for change in others]
    prints += [rows.fingerprint(), rows.take(slice(0, 3).indices(3)).fingerprint()]
    assert len(set(prints)) == len(prints)


def test_a_template_renders_columns_and_gaps(spec):
    rows = [("39", "", "{x}", 1, "a", "train"), ("40", "none", "y", 0, "b", "train")]
    found = load_rows(
        spec(
            rows,
            ("age", "job title", "note", "label", "group", "split"),
            text="{age} years, {job title}; {{{note}}}",
            splits={"column": "split", "names": {"train": "train"}},
        )
    )
    assert found.inputs == ("39 years, ; {{x}}", "40 years, none; {y}")


def test_a_template_with_an_unknown_column(spec):
    allowed = ["text", "label", "group", "split"]
    with raises(DataError, where=f"{WHERE}, text.template", allowed=allowed, fix="'group'"):
        load_rows(spec(text="{text} by {grup}"))


def test_empty_texts_are_counted(spec):
    rows = [("a", 1, "a", "train"), (" ", 0, "a", "train"), ("", 0, "b", "train")]
    with raises(DataError, "2 of 3 texts", "row 1", where=f"{WHERE}, text"):
        load_rows(spec(rows))


def test_images_are_paths_and_hashed_by_content(spec, tmp_path):
    names = [f"{index}.png" for index in range(4)]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(name.encode())
    table = [(name, index % 2, "ab"[index // 2], "train") for index, name in enumerate(names)]

    def rows(folder):
        return load_rows(
            spec(
                table,
                ("file", "label", "group", "split"),
                text=None,
                image={"column": "file", "folder": str(tmp_path / folder)},
                splits={"column": "split", "names": {"train": "train"}},
            )
        )

    found = rows("one")
    assert found.kind == "image"
    assert found.inputs[0] == str(tmp_path / "one" / "0.png")
    assert found.fingerprint() == rows("two").fingerprint()
    (tmp_path / "two" / "0.png").write_bytes(b"changed")
    assert found.fingerprint() != rows("two").fingerprint()
    (tmp_path / "two" / "2.png").unlink()
    where = f"{WHERE}, image.folder {tmp_path / 'two'}"
    with raises(DataError, "1 of 4", "row 2", "'2.png'", where=where):
        rows("two")


def test_a_leak_is_a_warning(spec):
    rows = load_rows(spec(LEAKING))
    assert len(rows) == 8
    assert rows.warnings == (
        "identical inputs in two splits (validation rows in train: 1, report rows in train: 1, "
        "report rows in validation: 2): 50.0% of the validation rows and 50.0% of the report rows "
        "are affected; `on_leak: drop` leaves them out",
    )


def test_a_leak_can_be_an_error(spec):
    with raises(DataError, "50.0% of the report", where=f"{WHERE}, splits", fix="`on_leak: drop`"):
        load_rows(spec(LEAKING, splits={"column": "split", "on_leak": "error"}))


def test_leaking_rows_can_be_dropped(spec):
    rows = load_rows(spec(LEAKING, splits={"column": "split", "on_leak": "drop"}))
    assert rows.ids.tolist() == [0, 1, 3, 6, 7]
    assert rows.warnings[0].endswith("; these rows were dropped")
    seen = [set(rows.of(name).inputs) for name in ("train", "validation", "report")]
    assert len(set.union(*seen)) == sum(len(texts) for texts in seen)
    table = [("same", index % 2, "a", "train" if index < 2 else "report") for index in range(4)]
    names = {"train": "train", "report": "report"}
    block = spec(table, splits={"column": "split", "names": names, "on_leak": "drop"})
    with raises(DataError, "no row of report is left", where=f"{WHERE}, splits"):
        load_rows(block)


def test_groups_and_classes_that_a_split_lacks_are_warned_about(spec):
    rows = [("a", 1, "a", "train"), ("b", 0, "b", "train"), ("c", 1, "a", "report")]
    names = {"train": "train", "report": "report"}
    assert load_rows(spec(rows, splits={"column": "split", "names": names})).warnings == (
        "split 'report': all 1 rows have the label 1",
        "split 'report': the group 'b' has no rows",
    )


def test_nobody_in_any_group_of_the_splits(spec):
    rows = [("a", 1, "a", "train"), ("b", 0, "", "report")]
    splits = {"column": "split", "names": {"report": "report"}, "ignore": "train"}
    with raises(DataError, where=WHERE, fix="limits of the splits"):
        load_rows(spec(rows, splits=splits))


def test_codes_in_words(spec):
    values = {"group": {"a": "the first", "b": "the second"}}
    text = {"template": "{text} of {group}", "values": values}
    assert load_rows(spec(text=text)).inputs[:3] == (
        "text 0 of the first",
        "text 1 of the first",
        "text 2 of the second",
    )
    del values["group"]["b"]
    where = f"{WHERE}, text.values"
    with raises(DataError, "'group'", "'b' (8)", "row 2", where=where, allowed=["a"]):
        load_rows(spec(text=text))


def test_texts_that_programs_write_for_nothing_are_said(spec):
    texts = ["nan", "nan", "N/A", "N/A", "no", "x", "y", "z"]
    rows = [(text, i % 2, "ab"[i // 2 % 2], "train") for i, text in enumerate(texts)]
    found = load_rows(spec(rows, splits={"column": "split", "names": {"train": "train"}}))
    assert found.warnings == (
        "text: 'nan' (2), 'N/A' (2) are read as texts; `keep` can leave their rows out",
    )
    assert found.inputs[0] == "nan"


def test_gaps_in_a_template_are_said(spec):
    rows = [("" if i < 2 else f"t{i}", i % 2, "ab"[i // 2 % 2], "train") for i in range(8)]
    splits = {"column": "split", "names": {"train": "train"}}
    found = load_rows(spec(rows, splits=splits, text="{text} years old"))
    assert found.inputs[0] == " years old"
    assert "text: column 'text' is empty in 2 of 8 rows" in found.warnings


def test_what_is_known_of_rows_goes_with_them(spec):
    rows = [
        (f"t{i}", "yes" if i % 2 else "no", ["Male", "male", "f", "NA"][i // 2], "train")
        for i in range(8)
    ]
    label = {"column": "label", "positive": "yes", "negative": "*"}
    splits = {"column": "split", "names": {"train": "train"}}
    warnings = load_rows(spec(rows, label=label, splits=splits)).warnings
    for number, part in enumerate(["covers 'no' (4)", "2 of 8 rows", "'NA' (2)", "rename"]):
        assert part in warnings[number]
