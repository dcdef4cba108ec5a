"""safetensors headers that lie: each is one message, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest
from checkpoints import GROUPS

from mergekit_fair.errors import CheckpointError

NAME = "bert.pooler.dense.bias"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 99001\n"
)

FILES = {
    "empty": (b"", ["HERE/Male/model.safetensors", "(it is empty)"]),
    "short": (b"\x10\0", ["HERE/Male/model.safetensors", "(header length out of range)"]),
    "length-0": (b"\0" * 64, ["HERE/Male/model.safetensors", "(header length out of range)"]),
    "length-huge": (b"\xff" * 64, ["HERE/Male/model.safetensors", "(header length out of range)"]),
    "length-beyond": (
        (60).to_bytes(8, "little") + b" " * 56,
        ["HERE/Male/model.safetensors", "(header length out of range)"],
    ),
    "git-lfs": (
        POINTER,
        ["HERE/Male/model.safetensors", "(a pointer of Git LFS; `git lfs pull` gets the weights)"],
    ),
}


@pytest.mark.parametrize(("content", "expected"), FILES.values(), ids=FILES)
def test_files_that_are_none(scene, content, expected):
    (scene.here / "Male" / "model.safetensors").write_bytes(content)
    where, *shows = expected
    scene.refuses(CheckpointError, *shows, where=where)


def entry(**changes):
    """The header with another entry for one tensor."""

    def change(header, data):
        header[NAME] |= changes
        return header, data

    return change


def named(name):
    """The header with another name for one tensor."""
    return lambda header, data: (
        {name if key == NAME else key: header[key] for key in header},
        data,
    )


def twice(header, data):
    text = json.dumps(header)
    return f"{text[:-1]}, {json.dumps(NAME)}: {json.dumps(header[NAME])}}}".encode(), data


def without(header, data):
    return {key: header[key] for key in header if key != NAME}, data


HEADERS = {
    "not-json": (
        lambda _, data: (b"tensors", data),
        ["HERE/Male/model.safetensors", "(Expecting value: line 1 column 1 (char 0))"],
    ),
    "list": (
        lambda _, data: (b"[]", data),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "utf-16": (
        lambda header, data: (json.dumps(header).encode("utf-16"), data),
        [
            "HERE/Male/model.safetensors",
            "('utf-8' codec can't decode byte 0xff in position 0: invalid",
        ],
    ),
    "deep": (
        lambda _, data: (b'{"a":' * 100_000, data),
        ["HERE/Male/model.safetensors", "(it is nested too deeply)"],
    ),
    "twice": (twice, ["HERE/Male/model.safetensors", "(a name stands twice in the header)"]),
    "half-a-letter": (
        named("\ud800"),
        [
            "HERE/Male/model.safetensors",
            "('utf-8' codec can't encode character '\\ud800' in position",
        ],
    ),
    "metadata": (
        lambda header, data: (header | {"__metadata__": {"a": 1}}, data),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "negative": (
        entry(shape=[-32]),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "fraction": (
        entry(shape=[32.0]),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "truth": (
        entry(shape=[True]),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "no-shape": (
        entry(shape=None),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "no-dtype": (
        entry(dtype=None),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "one-offset": (
        entry(data_offsets=[89856]),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "huge": (
        entry(shape=[2**70]),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "overflow": (
        entry(shape=[2**32, 2**32]),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "hidden-overflow": (
        entry(shape=[0, 2**40, 2**40], data_offsets=[0, 0]),
        ["HERE/Male/model.safetensors", "(the header does not describe tensors)"],
    ),
    "large": (
        entry(shape=[2**40]),
        ["HERE/Male/model.safetensors", "allowed: 89856 to 4398046600960"],
    ),
    "few": (entry(shape=[31]), ["HERE/Male/model.safetensors", "allowed: 89856 to 89980"]),
    "overlap": (
        entry(data_offsets=[0, 128]),
        ["HERE/Male/model.safetensors", "allowed: 128 to 256"],
    ),
    "backwards": (
        entry(data_offsets=[89984, 89856]),
        ["HERE/Male/model.safetensors", "allowed: 89856 to 89984"],
    ),
    "beyond": (
        entry(data_offsets=[89856, 10**12]),
        ["HERE/Male/model.safetensors", "allowed: 89856 to 89984"],
    ),
    "gap": (without, ["HERE/Male/model.safetensors", "allowed: 89856 to 93952"]),
    "unknown-dtype": (
        entry(dtype="F24"),
        ["HERE/Male", "got 'F24'", "allowed: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL"],
    ),
    "8-bit": (
        entry(dtype="F8_E4M3", shape=[128]),
        ["HERE/Male", "(FP8: it holds"],
    ),
    "integers": (entry(dtype="I32"), ["HERE/Male", "(HERE/base)", "got 'I32'", "allowed: F32"]),
    "another-shape": (
        entry(shape=[4, 8]),
        ["HERE/Male", "(HERE/base)", "got (4, 8)", "allowed: (32,)"],
    ),
    "another-name": (
        named("bert.pooler.bias"),
        ["HERE/Male", f"(HERE/base): 1 missing ['{NAME}'], 1 more ['bert.pooler.bias']"],
    ),
    "no-tensors": (
        lambda *_: ({}, b""),
        ["HERE/Male", "(HERE/base): 41 missing ['bert.embeddings.LayerNorm.bias', ", "0 more []"],
    ),
}


@pytest.mark.parametrize(("change", "expected"), HEADERS.values(), ids=HEADERS)
def test_headers_that_lie(scene, change, expected):
    scene.header(change)
    where, *shows = expected
    scene.refuses(CheckpointError, *shows, where=where)


ALL = {
    "lines": (
        named("a\n\x1b[31mb"),
        ["HERE/base", "(tensors: 1 missing ['bert.pooler.dense.bias'])"],
    ),
    "dimensions": (
        entry(shape=[1] * 3 + [32]),
        ["HERE/base", "(tensors: 1 reshaped ['bert.pooler.dense.bias'"],
    ),
}


@pytest.mark.parametrize(("change", "expected"), ALL.values(), ids=ALL)
def test_headers_that_agree_on_something_else(scene, change, expected):
    for model in ("base", *GROUPS):
        scene.header(change, model)
    where, *shows = expected
    scene.refuses(CheckpointError, *shows, where=where)


def test_what_safetensors_takes_is_merged(scene):
    """No refusal by mistake: other orders, spaces and metadata are fine."""
    expected = scene.merged()
    (scene.here / "out").rename(scene.here / "first")

    def spaced(header, data):
        return json.dumps(dict(reversed(header.items())), indent=8).encode() + b"  ", data

    for model in ("base", *GROUPS):
        scene.header(spaced, model)
    found = scene.merged()
    assert all(bool((found[name] == expected[name]).all()) for name in expected)
