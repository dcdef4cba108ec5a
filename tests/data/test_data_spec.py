"""The YAML block: short forms, defaults, paths and every complaint about it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from refusals import raises

from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.errors import ConfigError


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("hub:owner/name", {"hub": "owner/name"}),
        ("package:skfair:data/a.csv", {"package": "skfair", "file": "data/a.csv"}),
        ("/x/a.tsv", {"path": "/x/a.tsv"}),
    ],
)
def test_a_source_has_a_short_form(block, short, long):
    assert load_spec(block(source=short)) == load_spec(block(source=long))


def test_a_text_with_a_brace_is_a_template(block):
    assert load_spec(block(text="{group}: {text}")).text.template == "{group}: {text}"
    assert load_spec(block(text="text")).text.column == "text"


def test_values_are_compared_as_text(block):
    label = load_spec(block(label={"column": "label", "positive": 1, "negative": [0.0, "x"]})).label
    assert (label.positive, label.negative) == (("1",), ("0", "x"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"text": {"template": "{text} {group}", "values": {"group": {1: "one"}}}},
        {"one_row_per": {"column": "text", "mean": ["label"]}},
        {"source": {"path": "/a.data", "format": "csv", "separator": " ", "columns": ["text"]}},
        {"source": "hub:a/b", "text": "{text}", "label": {"column": "label", "lt": 2}},
        {"groups": {"columns": ["b", "a"], "ge": 0.5, "missing": "outside", "exclude": "a"}},
        {"groups": {"list": "ids", "separator": ",", "rename": {0: "zero"}}},
        {"groups": {"column": ["group", "split"], "rename": {"a & train": "x"}}, "weight": "label"},
        {"one_row_per": {"column": "text", "mean": ["label"], "majority": ["group"]}},
        {"label": {"column": "label", "positive": "1", "negative": ["*", "none"]}},
        {"label": {"column": "label", "classes": {"b": [1, 2], "a": "*"}}},
        {"label": {"column": "label", "classes": ["x", 2]}},
        {"label": None, "labels": {"b": {"column": "label"}, "a": {"column": "label", "ge": 0.5}}},
        {"splits": {"column": "split", "names": {"train": "tr", "report": ["te", "x"]}}},
        {"splits": {"shares": {"train": 0.5, "report": 0.5}, "limit": {"train": 3}}},
        {"text": None, "image": {"column": "file", "folder": "pictures"}},
    ],
)
def test_to_dict_is_json_and_reads_back(block, changes):
    found = load_spec(block(**changes))
    assert load_spec(json.loads(json.dumps(found.to_dict()))) == found


def test_the_order_of_group_columns_is_kept(block):
    found = load_spec(block(groups={"columns": {"women": "f", "men": "m"}}))
    assert list(found.to_dict()["groups"]["columns"]) == ["women", "men"]


def test_paths_start_from_the_yaml_file(block, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "data.yaml"
    file.write_text(yaml.safe_dump(block(source="../rows.csv")), encoding="utf-8")
    monkeypatch.chdir("/")
    assert load_spec(file).source.path == str(tmp_path / "rows.csv")
    assert len(load_rows(load_spec(file))) == 16


def test_paths_of_a_mapping_start_from_the_folder(block, tmp_path):
    spec = load_spec(block(source="rows.csv"), folder=tmp_path)
    assert spec.source.path == str(tmp_path / "rows.csv")
    spec = load_spec(block(source="rows.csv"))
    assert spec.source.path == str(Path.cwd() / "rows.csv")


def test_environment_variables_and_home_in_paths(block, monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_HOME", str(tmp_path))
    assert load_spec(block(source="${DATA_HOME}/a.csv")).source.path == str(tmp_path / "a.csv")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_spec(block(source="~/a.csv")).source.path == str(tmp_path / "a.csv")


@pytest.mark.parametrize("value", [None, ""])
def test_an_unset_environment_variable_is_named(block, monkeypatch, value):
    monkeypatch.delenv("DATA_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("DATA_HOME", value)
    fields = {"got": "${DATA_HOME}/a.csv", "fix": "export DATA_HOME=..."}
    with raises(ConfigError, where="x.yaml: source.path", **fields):
        load_spec(block(source="${DATA_HOME}/a.csv"), where="x.yaml")
    with raises(ConfigError, where="data: image.folder", got="${DATA_HOME}"):
        load_spec(block(text=None, image={"column": "f", "folder": "${DATA_HOME}"}))


DEALT = {"column": "s", "deal": "a", "shares": {"train": 0.5}}


@pytest.mark.parametrize(
    ("changes", "shows"),
    [
        ({"lable": 1}, ["'lable'", "'label'?"]),
        ({"name": ""}, ["name: "]),
        ({"label": None}, ["label and labels; got none"]),
        ({"labels": {"a": {"column": "label"}}}, ["label and labels; got label and labels"]),
        ({"source": 3}, ["source: "]),
        ({"source": "a.dat"}, ["source: ", "'a.dat'", "csv, tsv"]),
        ({"source": "package:skfair"}, ["source: ", "'package:module:file'", "'package:skfair'"]),
        ({"source": {"package": "a"}}, ["source: package and file"]),
        ({"source": {"hub": "a/b", "path": "a.csv"}}, ["source: ", "got path and hub"]),
        ({"source": {}}, ["source: ", "path, hub and package; got none"]),
        ({"source": {"path": "a.csv", "revision": "main"}}, ["source: revision", "with hub"]),
        ({"source": {"hub": "a/b", "format": "csv"}}, ["source: format", "hub"]),
        ({"text": None}, ["text and image; got none"]),
        ({"text": {"column": "a", "template": "{a}"}}, ["text: ", "got column and template"]),
        ({"text": {"template": "no column"}}, ["text: ", "needs a column in braces"]),
        ({"text": "{a!r}"}, ["text: ", "and nothing else"]),
        ({"text": "{} years"}, ["text: ", "and nothing else"]),
        ({"text": "{a"}, ["text: ", "(expected '}' before end of string)"]),
        ({"label": {"column": "y", "ge": 1, "lt": 2}}, ["label: only one of ge, gt, le and lt"]),
        ({"label": {"column": "y", "ge": "high"}}, ["label.ge: ", "got 'high'"]),
        ({"label": {"column": "y", "positive": 1}}, ["label: positive and negative", "'*'"]),
        (
            {"label": {"column": "y", "positive": 1, "negative": 0, "ge": 1}},
            ["label: ", "threshold, not both"],
        ),
        ({"label": {"column": "y", "positive": [1, 2], "negative": [2]}}, ["label: ['2']"]),
        *(
            (
                {"label": {"column": "y", "classes": ["a", "b"], **other}},
                ["label: give classes, or"],
            )
            for other in ({"ge": 1}, {"positive": "a", "negative": "b"})
        ),
        *(
            ({"label": {"column": "y", "classes": classes}}, shows)
            for classes, shows in [
                ("a", ["label.classes: ", "list of classes", "got 'a'"]),
                ([["a"], ["b"]], ["label.classes: ", "list of classes"]),
                (["a"], ["label.classes: ", "at least 2"]),
                (list(range(101)), ["label.classes: ", "at most 100"]),
                (["a", "a"], ["label.classes: ", "twice", "'a'"]),
                ({1: "a", "1": "b"}, ["label.classes: ", "twice", "'1'"]),
                ({"a": 1, "b": [1.0, 2]}, ["label: classes: ['1']", "two classes"]),
                ({"a": "*", "b": ["c", "*"]}, ["label: classes: ['*']", "two classes"]),
                ({"a": 1, "b": []}, ["label.classes.b: ", "at least 1"]),
                ({"a": 1, "b": None}, ["label.classes.b: ", "got None"]),
                ({True: 1, False: 0}, ["label.classes: ", "YAML reads"]),
                ({"a": 1, " b": 2}, ["label: ' b'"]),
                ({"a": 1, "": 2}, ["label: ''"]),
                ({"Hate": 1, "hate": 2}, ["label: ", "case only", "'Hate', 'hate'"]),
            ]
        ),
        *(
            ({"label": None, "labels": labels}, shows)
            for labels, shows in [
                ({}, ["labels: ", "at least 1"]),
                ({"a": {"column": "y", "classes": ["x", "z"]}}, ["labels.a: ", "'classes'"]),
                ({"a": {"columm": "y"}}, ["labels.a: ", "'column'?"]),
                ({"a": {"column": "y"}, "A": {"column": "y"}}, ["case only", "'a', 'A'"]),
                ({" a": {"column": "y"}}, ["' a'"]),
            ]
        ),
        ({"label": {"column": "y", "positive": [], "negative": 0}}, ["label.positive: "]),
        ({"label": {"column": "y", "positive": [None], "negative": 0}}, ["label.positive: "]),
        ({"groups": {}}, ["groups: ", "column, columns and list; got none"]),
        ({"groups": {"column": "a", "list": "b"}}, ["groups: ", "got column and list"]),
        ({"groups": {"column": "a", "gt": 0.5}}, ["groups: gt", "with columns"]),
        ({"groups": {"column": "a", "separator": ","}}, ["groups: separator", "with list"]),
        ({"groups": {"columns": []}}, ["groups.columns: "]),
        ({"splits": {}}, ["splits: ", "column and shares; got none"]),
        ({"splits": {"shares": {"train": 0.9, "report": 0.2}}}, ["splits: ", "1.1"]),
        ({"splits": {"shares": {"train": 0}}}, ["splits.shares.train: ", "got 0"]),
        ({"splits": {"shares": {"test": 0.5}}}, ["splits.shares.test", "got 'test'"]),
        (
            {"splits": {"shares": {"train": 0.5}, "limit": {"report": 3}}},
            ["splits: ", "['report']", "['train']"],
        ),
        (
            {"splits": {"shares": {"train": 0.5}, "names": {"train": "a"}}},
            ["splits: names", "with column"],
        ),
        (
            {"splits": {"column": "s", "names": {"train": "a", "report": ["b", "a"]}}},
            ["splits: ['a']"],
        ),
        ({"splits": {"column": "s", "shares": {"train": 1}}}, ["splits: shares", "with deal"]),
        ({"splits": {"column": "s", "deal": "a"}}, ["splits: deal", "with shares"]),
        ({"splits": {"column": "s", "by": "t"}}, ["splits: by", "with shares"]),
        ({"splits": {"shares": {"train": 1}, "deal": "a"}}, ["splits: deal", "with column"]),
        (
            {"splits": {**DEALT, "names": {"train": "b"}}},
            ["splits: ['train'] cannot be named"],
        ),
        ({"splits": {**DEALT, "names": {"report": "a"}}}, ["splits: ['a']", "one and dealt"]),
        ({"splits": {**DEALT, "ignore": ["a"]}}, ["splits: ['a']", "one and dealt"]),
        ({"splits": {**DEALT, "deal": ["a", "*"]}}, ["splits: deal", "'*'"]),
        ({"splits": {**DEALT, "limit": {"report": 3}}}, ["splits: ", "['report']"]),
        ({"splits": {"column": "s", "on_leak": "fix"}}, ["splits.on_leak: ", "got 'fix'"]),
    ],
)
def test_what_is_wrong_with_a_block_is_said(block, changes, shows):
    with raises(ConfigError, *shows, where="data"):
        load_spec(block(**changes))


def test_an_error_names_the_file(tmp_path):
    file = tmp_path / "adult.yaml"
    file.write_text("name: adult\n", encoding="utf-8")
    with raises(ConfigError, "source: ", where=file):
        load_spec(file)
    with raises(ConfigError, where=tmp_path / "none.yaml", fix="path"):
        load_spec(tmp_path / "none.yaml")


def test_importing_the_package_is_cheap():
    code = (
        "import sys, mergekit_fair.data; heavy = {'torch', 'transformers', 'pandas', 'datasets'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_values_explain_columns_of_the_template(block):
    text = {"template": "{text}", "values": {"group": {"a": "x"}}}
    with raises(ConfigError, "text: ", "['group']", where="data"):
        load_spec(block(text=text))
    text = {"column": "text", "values": {"text": {"a": "x"}}}
    with raises(ConfigError, "text: values", "template", where="data"):
        load_spec(block(text=text))


def test_columns_that_are_read(block):
    found = load_spec(block(text="{text} {age}", splits={"shares": {"train": 1}}))
    assert found.columns_read == {"text", "age", "label", "group"}
    groups = {"columns": {"men": "male", "women": "female"}}
    found = load_spec(block(text=None, image={"column": "file"}, groups=groups))
    assert found.columns_read == {"file", "label", "male", "female", "split"}


README = Path(__file__).parents[2] / "recipes" / "README.md"


def documented():
    """Every key of the README's data descriptions, with its value."""
    text = README.read_text(encoding="utf-8").partition("## Writing your own")[2]
    text = text.partition("```yaml\nmodel:")[0]
    for block in text.split("```yaml\n")[1:]:
        for item in re.split(r"\n(?=\S)", block.partition("```")[0]):
            yield from yaml.safe_load(item).items()


@pytest.mark.parametrize(("key", "value"), [*documented()])
def test_what_the_readme_writes_is_read(block, key, value):
    spec = load_spec(block(**{"label": None} if key == "labels" else {}, **{key: value}))
    assert key == "name" or getattr(spec, key) != getattr(load_spec(block()), key)


@pytest.mark.parametrize(
    "source",
    [
        {"encoding": "latin-1", "decimal": ",", "quotes": "none", "separator": ";"},
        {"quotes": "standard"},
        {"quotes": "'"},
    ],
)
def test_how_a_csv_is_written_is_part_of_the_spec(block, source):
    found = load_spec(block(source={"path": "/a.csv.gz", **source}))
    assert load_spec(json.loads(json.dumps(found.to_dict()))) == found
