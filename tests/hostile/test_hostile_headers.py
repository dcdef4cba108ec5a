"""safetensors headers that lie: each is one message, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest
from checkpoints import GROUPS

AGAIN = "Copy or train the model again."
FILE = "HERE/Male/model.safetensors"
UNREADABLE = f"{FILE}: is not a readable safetensors file"
RANGE = f"{UNREADABLE} (header length out of range). {AGAIN}"
SHAPELESS = f"{UNREADABLE} (the header does not describe tensors). {AGAIN}"
NAME = "bert.pooler.dense.bias"
PLACE = f"{FILE}: is damaged: its header gives tensor {NAME} bytes"
DTYPES = (
    "allowed: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL. Save the model in bfloat16, "
    "float16 or float32 first."
)
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 99001\n"
)

FILES = {
    "empty": (b"", f"{UNREADABLE} (it is empty). {AGAIN}"),
    "short": (b"\x10\0", RANGE),
    "length-0": (b"\0" * 64, RANGE),
    "length-huge": (b"\xff" * 64, RANGE),
    "length-beyond": ((60).to_bytes(8, "little") + b" " * 56, RANGE),
    "git-lfs": (
        POINTER,
        f"{UNREADABLE} (a pointer of Git LFS; `git lfs pull` gets the weights). {AGAIN}",
    ),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_files_that_are_none(scene, content, message):
    (scene.here / "Male" / "model.safetensors").write_bytes(content)
    assert scene.refused() == message


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
        f"{UNREADABLE} (Expecting value: line 1 column 1 (char 0)). {AGAIN}",
    ),
    "list": (lambda _, data: (b"[]", data), SHAPELESS),
    "utf-16": (
        lambda header, data: (json.dumps(header).encode("utf-16"), data),
        f"{UNREADABLE} ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte). "
        f"{AGAIN}",
    ),
    "deep": (
        lambda _, data: (b'{"a":' * 100_000, data),
        f"{UNREADABLE} (it is nested too deeply). {AGAIN}",
    ),
    "twice": (twice, f"{UNREADABLE} (a name stands twice in the header). {AGAIN}"),
    "half-a-letter": (
        named("\ud800"),
        f"{UNREADABLE} ('utf-8' codec can't encode character '\\ud800' in position 1658: "
        f"surrogates not allowed). {AGAIN}",
    ),
    "metadata": (lambda header, data: (header | {"__metadata__": {"a": 1}}, data), SHAPELESS),
    "negative": (entry(shape=[-32]), SHAPELESS),
    "fraction": (entry(shape=[32.0]), SHAPELESS),
    "truth": (entry(shape=[True]), SHAPELESS),
    "no-shape": (entry(shape=None), SHAPELESS),
    "no-dtype": (entry(dtype=None), SHAPELESS),
    "one-offset": (entry(data_offsets=[89856]), SHAPELESS),
    "huge": (entry(shape=[2**70]), SHAPELESS),
    "overflow": (entry(shape=[2**32, 2**32]), SHAPELESS),
    "hidden-overflow": (entry(shape=[0, 2**40, 2**40], data_offsets=[0, 0]), SHAPELESS),
    "large": (entry(shape=[2**40]), f"{PLACE} 89856 to 89984; allowed: 89856 to 4398046600960. "
        f"{AGAIN}"),
    "few": (entry(shape=[31]), f"{PLACE} 89856 to 89984; allowed: 89856 to 89980. {AGAIN}"),
    "overlap": (entry(data_offsets=[0, 128]), f"{PLACE} 0 to 128; allowed: 128 to 256. {AGAIN}"),
    "backwards": (entry(data_offsets=[89984, 89856]), f"{PLACE} 89984 to 89856; allowed: 89856 to "
        f"89984. {AGAIN}"),
    "beyond": (entry(data_offsets=[89856, 10**12]), f"{PLACE} 89856 to 1000000000000; allowed: "
        f"89856 to 89984. {AGAIN}"),
    "gap": (without, f"{FILE}: is damaged: its header gives tensor bert.pooler.dense.weight bytes "
        f"89984 to 94080; allowed: 89856 to 93952. {AGAIN}"),
    "unknown-dtype": (entry(dtype="F24"), f"HERE/Male: tensor {NAME} has a dtype that cannot be "
        f"merged; got 'F24'; {DTYPES}"),
    "8-bit": (entry(dtype="F8_E4M3", shape=[128]), f"HERE/Male: tensor {NAME} has a dtype that "
        f"cannot be merged; got 'F8_E4M3'; {DTYPES}"),
    "integers": (entry(dtype="I32"), f"HERE/Male: tensor {NAME} has another kind of dtype than the "
        "base's (HERE/base); got 'I32'; allowed: F32. Merge models of one architecture, fine-tuned "
        "from this base."),
    "another-shape": (entry(shape=[4, 8]), f"HERE/Male: tensor {NAME} has another shape than the "
        "base's (HERE/base); got (4, 8); allowed: (32,)."),
    "another-name": (named("bert.pooler.bias"), f"HERE/Male: its tensors are not the base's "
        f"(HERE/base): 1 missing ['{NAME}'], 1 more ['bert.pooler.bias']. Merge models of one "
        "architecture, fine-tuned from this base."),
    "no-tensors": (lambda *_: ({}, b""), "HERE/Male: its tensors are not the base's (HERE/base): "
        "41 missing ['bert.embeddings.LayerNorm.bias', 'bert.embeddings.LayerNorm.weight', "
        "'bert.embeddings.position_embeddings.weight'], 0 more []. Merge models of one "
        "architecture, fine-tuned from this base."),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HEADERS.values(), ids=HEADERS)
def test_headers_that_lie(scene, change, message):
    scene.header(change)
    assert scene.refused() == message


UNFIT = (
    "HERE/base: transformers does not load these tensors into the architecture of config.json whole"
)
SAVE = "Load and save the model with transformers once, as the class that you use it with."
EXTRA = {"dtype": "F32", "shape": [0], "data_offsets": [94344, 94344]}

ALL = {
    "more": (lambda header, data: (header | {"more": EXTRA}, data), f"{UNFIT} (tensors: 1 "
        f"unexpected ['more']). {SAVE}"),
    "lines": (named("a\n\x1b[31mb"), f"{UNFIT} (tensors: 1 missing ['{NAME}'], 1 unexpected "
        f"['a\\n\\x1b[31mb']). {SAVE}"),
    "dimensions": (entry(shape=[1] * 3 + [32]), f"{UNFIT} (tensors: 1 of another shape "
        f"[\"('{NAME}', torch.Size([1, 1, 1, 32]), torch.Size([32]))\"]). {SAVE}"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), ALL.values(), ids=ALL)
def test_headers_that_agree_on_something_else(scene, change, message):
    for model in ("base", *GROUPS):
        scene.header(change, model)
    assert scene.refused() == message


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
