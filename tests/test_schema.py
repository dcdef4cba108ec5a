"""Strict YAML: what is refused names its place and keeps its cause."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from refusals import raises
from seals import edited

from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.schema import (
    Strict,
    dump_yaml,
    load_yaml,
    nearest,
    parse,
    parse_json,
    parse_yaml,
    read_sealed,
    sealed,
    suggestion,
)


class Inner(Strict):
    weight: float = 1.0


class Outer(Strict):
    inner: Inner = Inner()
    names: tuple[str, ...] = ()


def test_a_block_is_read() -> None:
    block = parse(Outer, {"inner": {"weight": 2}, "names": ["a"]}, "here")
    assert (block.inner.weight, block.names) == (2.0, ("a",))


def test_an_unknown_key_names_the_nearest() -> None:
    with raises(ConfigError, "inner: ", "'wieght'", "'weight'?", where="here") as caught:
        parse(Outer, {"inner": {"wieght": 2}}, "here")
    assert isinstance(caught.value.__cause__, ValidationError)


def test_all_problems_are_told_at_once() -> None:
    with raises(ConfigError, "inner.weight: ", "got 'x'; names: ", "got 3", where="here"):
        parse(Outer, {"inner": {"weight": "x"}, "names": 3}, "here")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a: [", yaml.YAMLError),
        ("a: 1\na: 2\n", yaml.YAMLError),
        ("a: &a [*a]\n", yaml.YAMLError),
        ("a: 2024-13-45\n", ValueError),
        ("a: " + "[" * 1000, RecursionError),
    ],
)
def test_text_that_is_not_yaml(text: str, cause: type[Exception]) -> None:
    with raises(ConfigError, "YAML", where="here") as caught:
        parse_yaml(text, "here")
    assert isinstance(caught.value.__cause__, cause)


@pytest.mark.parametrize(("text", "got"), [("", "nothing"), ("- a\n", "list"), ("a\n", "str")])
def test_the_top_level_is_a_mapping(text: str, got: str) -> None:
    with raises(ConfigError, where="here", got=got):
        parse_yaml(text, "here")


@pytest.mark.parametrize(
    ("content", "cause"), [(None, FileNotFoundError), (b"\x93", UnicodeDecodeError)]
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, content: bytes | None, cause: type[Exception]
) -> None:
    file = tmp_path / "a.yml"
    if content is not None:
        file.write_bytes(content)
    with raises(ConfigError, where=file) as caught:
        load_yaml(file)
    assert isinstance(caught.value.__cause__, cause)


def test_json_that_is_too_deep_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested") as caught:
        parse_json("[" * 100_000)
    assert isinstance(caught.value.__cause__, RecursionError)


def test_yaml_is_written_as_people_write_it() -> None:
    shared = ["λ"]
    assert dump_yaml({"b": shared, "a": shared}) == "b: [λ]\na: [λ]\n"


def test_the_nearest_name() -> None:
    assert nearest("Femal", ["Female", "Male"]) == "; did you mean 'Female'?"
    assert suggestion("Femal", ["Female", "Male"]) == "did you mean 'Female'?"
    assert (nearest("x", ["Female"]), suggestion("x", ["Female"])) == ("", None)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_sealed_file_is_refused_by_the_callers_error(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "some.json"
    if content is not None:
        path.write_bytes(content)
    with raises(SweepError, "thing", where=path, fix="make it again"):
        read_sealed(path, "thing", SweepError, fix="make it again")


def test_a_sealed_file_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps(sealed({"acc": 0.75})))
    assert read_sealed(path, "thing", SweepError, fix="") == {"acc": 0.75}
    edited(path, lambda content: content.update(acc=0.8))
    with raises(SweepError, where=path):
        read_sealed(path, "thing", SweepError, fix="")
    path.write_text(json.dumps({"acc": 0.8}))  # of an earlier version, or with its digest gone
    assert read_sealed(path, "thing", SweepError, fix="") == {"acc": 0.8}
    with raises(SweepError, "digest", where=path):
        read_sealed(path, "thing", SweepError, fix="", needs_seal=lambda found: found["acc"] > 0)
