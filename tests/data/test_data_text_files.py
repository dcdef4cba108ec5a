"""Encodings, marks at a file's beginning, compressed files, and JSON that means two things."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest
from refusals import raises

from mergekit_fair.data.blocks import Source
from mergekit_fair.data.table import read_table
from mergekit_fair.errors import DataError
from mergekit_fair.evaluation.documents import replacement

TEXTS = ["café", "Zürich", "naïve", "ascii"]
CSV = "text,label\n" + "".join(f"{text},{row}\n" for row, text in enumerate(TEXTS))
JSONL = "".join(f'{{"text": "{text}", "label": {row}}}\n' for row, text in enumerate(TEXTS))


@pytest.fixture
def read(tmp_path):
    """`read(content, name, **source)`: the column `text` of a file with these bytes."""

    def build(content, name="a.csv", **source):
        (tmp_path / name).write_bytes(content)
        return read_table(Source(path=str(tmp_path / name), **source))["text"].tolist()

    return build


@pytest.mark.parametrize(("name", "text"), [("a.csv", CSV), ("a.jsonl", JSONL)])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_known_by_its_mark(read, name, text, codec):
    content = text.encode(codec)
    assert read(content, name) == TEXTS
    assert read(content, name, encoding=codec) == TEXTS


@pytest.mark.parametrize(("name", "text"), [("a.csv", CSV), ("a.jsonl", JSONL)])
@pytest.mark.parametrize("codec", ["cp1252", "latin-1", "utf-16-le", "mac-roman"])
def test_an_encoding_that_is_named(read, name, text, codec):
    assert read(text.encode(codec), name, encoding=codec) == TEXTS


def test_a_mark_is_taken_off_where_the_codec_leaves_it(read):
    assert read(b"\xff\xfe" + CSV.encode("utf-16-le"), encoding="utf-16-le") == TEXTS
    assert read(b"\xef\xbb\xbf" + CSV.encode(), encoding="utf-8") == TEXTS


@pytest.mark.parametrize(("name", "text"), [("a.csv", CSV), ("a.jsonl", JSONL)])
def test_another_encoding_is_one_error_with_what_it_may_be(read, tmp_path, name, text):
    line = 2 if name == "a.csv" else 1
    fields = {"where": tmp_path / name, "fix": "cp1252 reads '"}
    with raises(DataError, "UTF-8", f"line {line})", "café", **fields):
        read(text.encode("cp1252"), name)
    with raises(DataError, "UTF-8", **fields | {"fix": "gb18030 reads '"}):
        read(text.replace("é", "是").encode("gb18030"), name, encoding="utf-8")


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_wide_letters_without_a_mark(read, codec):
    with raises(DataError, "NUL", fix="encoding"):
        read("text,label\nplain,1\n".encode(codec))
    with raises(DataError, "UTF-16"):
        read(CSV.encode(codec), encoding="utf-16")


@pytest.mark.parametrize(
    ("codec", "text"),
    [("cp1252", CSV), ("latin-1", CSV), ("cp1251", CSV), ("gb18030", CSV.replace("é", "是非" * 9))],
)
def test_utf8_in_the_name_of_another_is_refused(read, codec, text):
    """It would not fail: every letter would become two others."""
    with raises(DataError, "UTF-8", got=codec, fix="leave `encoding` out"):
        read(text.encode(), encoding=codec)
    with raises(DataError, "UTF-8", got=codec, fix="leave `encoding` out"):
        read(text.encode("utf-8-sig"), encoding=codec)
    assert read(b"text,label\nplain,1\n", encoding=codec) == ["plain"]


def test_two_letters_of_another_codec_may_be_valid_utf8(read):
    content = b"text,label\n" + "模,1\n".encode("gb18030")
    content.decode("utf-8")
    assert read(content, encoding="gb18030") == ["模"]


def zipped(content, *names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("__MACOSX/._a.csv", b"x")
        for name in names or ("a.csv",):
            archive.writestr(name, content)
    return stream.getvalue()


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": zipped}


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize(
    ("kind", "text"), [("csv", CSV), ("tsv", CSV.replace(",", "\t")), ("jsonl", JSONL)]
)
def test_compressed_files(read, suffix, kind, text):
    assert read(PACKED[suffix](text.encode()), f"a.{kind}{suffix}") == TEXTS
    assert read(PACKED[suffix](text.encode("utf-16")), f"a.{kind}{suffix}") == TEXTS
    assert read(PACKED[suffix](text.encode("cp1252")), f"a.{kind}", encoding="cp1252") == TEXTS


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("damage", [lambda packed: packed[:-20], lambda packed: packed[:40]])
def test_compressed_files_that_are_cut_off(read, tmp_path, suffix, damage):
    text = "text,label\n" + "".join(f"{row * 7919 % 1000},{row}\n" for row in range(500))
    name = f"a.csv{suffix}"
    with raises(DataError, where=tmp_path / name, fix="copy it again"):
        read(damage(PACKED[suffix](text.encode())), name)


def test_an_archive_of_several_files(read, tmp_path):
    with raises(DataError, "2 files", where=tmp_path / "a.csv.zip", fix="unpack"):
        read(zipped(b"text\n1\n", "a.csv", "b.csv"), "a.csv.zip")


@pytest.mark.parametrize(
    ("line", "shows"),
    [
        ('{"text": 1, "text": 2}', "'text' stands twice"),
        ('{"text": 1, "more": {"a": 1, "a": 1}}', "'a' stands twice"),
        ('{"text": ' + "9" * 5000 + "}", "line 2"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"text": 1} {"text": 2}', "Extra data"),
        ('{"text": 1', "line 2"),
    ],
)
def test_lines_that_are_not_one_json_object(read, tmp_path, line, shows):
    with raises(DataError, "line 2", shows, where=tmp_path / "a.jsonl"):
        read(f'{{"text": 0}}\n{line}\n'.encode(), "a.jsonl")


def test_numbers_that_json_does_not_have(read):
    """Python writes them: NaN is a missing cell, and an infinite one no number (see labels)."""
    found = read(b'{"text": NaN}\n{"text": Infinity}\n{"text": 1e999}\n', "a.jsonl")
    assert found[0] != found[0]
    assert found[1:] == [float("inf")] * 2


def test_metadata_may_name_a_compressed_file(tmp_path):
    file = tmp_path / "a.csv.gz"
    file.write_bytes(gzip.compress(CSV.encode()))
    assert replacement(str(file), "task") == file
    (tmp_path / "a.txt.gz").write_bytes(b"")
    with raises(DataError, got=str(tmp_path / "a.txt.gz")):
        replacement(str(tmp_path / "a.txt.gz"), "task")


def test_half_a_character_is_named(read, tmp_path):
    whole = read(b'{"text": "\\ud83d\\ude00"}\n{"text": "\\\\ud83d"}\n', "a.jsonl")
    assert whole == ["\U0001f600", "\\ud83d"]
    for half in (b'"\\ud83d"', b'["\\uDE00 \\ud83d"]'):
        with raises(DataError, "line 2", where=tmp_path / "a.jsonl"):
            read(b'{"text": 0}\n{"text": ' + half + b"}\n", "a.jsonl")
