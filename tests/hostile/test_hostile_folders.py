"""Model folders that are none, or none of this family: each is one message."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import pytest

from mergekit_fair.errors import CheckpointError

KIND = "BertForSequenceClassification"


def names(scene, name):
    """The recipe with another place for its second model."""
    raw = scene.addition()
    raw["models"][1]["model"] = name
    scene.write(raw)


PLACES = {
    "HERE/nowhere": ["HERE/nowhere", "no such model folder"],
    "HERE/Mael": ["HERE/Mael", "'Male'?"],
    "HERE/Male/config.json": ["HERE/Male/config.json", "no such model folder"],
    "a/b/c": ["a/b/c", "no such model folder"],
}


@pytest.mark.parametrize(("name", "expected"), PLACES.items())
def test_places_where_no_model_is(scene, name, expected):
    names(scene, name.replace("HERE", str(scene.here)))
    where, *shows = expected
    scene.refuses(CheckpointError, *shows, where=where)


def test_a_mistyped_relative_place(scene, monkeypatch):
    monkeypatch.chdir(scene.here)
    names(scene, "Mael")
    scene.refuses(CheckpointError, "mean 'Male'?", where="Mael")


CONFIGS = {
    "empty": (b"", ["HERE/Male", "(Expecting value: line 1 column 1 (char 0))"]),
    "cut": (
        b'{"model_type": "be',
        ["HERE/Male", "(Unterminated string starting at: line 1 column 16 (char 15))"],
    ),
    "list": (b"[]", ["HERE/Male", "(not a mapping)"]),
    "binary": (
        b"\xff\xfe{",
        ["HERE/Male", "('utf-8' codec can't decode byte 0xff in position 0: invalid"],
    ),
    "deep": (b"[" * 100_000, ["HERE/Male", "(it is nested too deeply)"]),
    "nothing": (b"{}", ["HERE/Male", "(HERE/base)", "allowed: BertForSequenceClassification"]),
}


@pytest.mark.parametrize(("content", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_configs_that_are_none(scene, content, expected):
    (scene.here / "Male" / "config.json").write_bytes(content)
    where, *shows = expected
    scene.refuses(CheckpointError, *shows, where=where)


def test_no_config(scene):
    for model in ("Male", "base"):
        (scene.here / model / "config.json").unlink()
        scene.refuses(CheckpointError, "(no such file)", where=f"HERE/{model}")
    os.mkfifo(scene.here / "base" / "config.json")  # it would be waited for
    scene.refuses(CheckpointError, "(no such file)", where="HERE/base")


def has(**changes):
    return lambda config: config.update(changes)


OTHER = {
    "architecture": (
        has(architectures=["BertForMaskedLM"]),
        [
            "HERE/Male",
            "(HERE/base)",
            "got ['BertForMaskedLM']",
            "allowed: BertForSequenceClassification",
        ],
    ),
    "model-type": (
        has(model_type="roberta"),
        ["HERE/Male", "(HERE/base)", "got 'roberta'", "allowed: bert"],
    ),
    "heads": (has(num_attention_heads=2), ["HERE/Male", "(HERE/base)", "got 2", "allowed: 4"]),
    "labels": (
        has(id2label={"0": "1", "1": "0"}),
        ["HERE/Male", "(HERE/base)", "got {'0': '1', '1': '0'}", "allowed: {'0': '0', '1': '1'}"],
    ),
    "no-labels": (has(id2label=["0", "1"]), ["HERE/Male", "got ['0', '1']"]),
    "quantized": (
        has(quantization_config={"quant_method": "gptq"}),
        ["HERE/Male", "(GPTQ)"],
    ),
}


@pytest.mark.parametrize(("change", "expected"), OTHER.values(), ids=OTHER)
def test_models_of_another_kind(scene, change, expected):
    scene.config(change, "Male")
    where, *shows = expected
    scene.refuses(CheckpointError, *shows, where=where)


PART, PARTS = "bert.encoder.layer.{}.attention.output.{}", (
    "LayerNorm.bias", "LayerNorm.weight", "dense.bias"
)  # fmt: skip

COMMON = {
    "no-architecture": (
        lambda config: config.pop("architectures"),
        ["HERE/base", "its config.json must name one architecture"],
    ),
    "two": (
        has(architectures=[KIND, "BertModel"]),
        ["HERE/base", "got ['BertForSequenceClassification', 'BertModel']"],
    ),
    "word": (has(architectures=KIND), ["HERE/base", "got 'BertForSequenceClassification'"]),
    "number": (has(architectures=[5]), ["HERE/base", "got [5]"]),
    "unknown-type": (has(model_type=[]), ["HERE/base", "(unhashable type: 'list')"]),
    "wrong-type": (
        has(hidden_size="32"),
        ["HERE/base", "(Validation error for field 'hidden_size': TypeError: Field"],
    ),
    "fewer-layers": (has(num_hidden_layers=1), ["HERE/base", "(tensors: 16 unexpected"]),
    "more-layers": (has(num_hidden_layers=3), ["HERE/base", "(tensors: 16 missing"]),
    "layers": (has(num_hidden_layers=10**9), ["HERE/base", "got 1000000000"]),
    "no-heads": (
        has(num_attention_heads=0),
        ["HERE/base", "(ZeroDivisionError('integer modulo by zero'))"],
    ),
    "activation": (has(hidden_act="nope"), ["HERE/base", "(KeyError('nope'))"]),
    "dtype": (has(dtype="float8"), ["HERE/base", "(module 'torch' has no attribute 'float8')"]),
    "positions": (has(max_position_embeddings=128), ["HERE/base", "(tensors: 1 reshaped"]),
}


@pytest.mark.parametrize(("change", "expected"), COMMON.values(), ids=COMMON)
def test_configs_that_do_not_describe_their_weights(scene, change, expected):
    scene.config(change)
    where, *shows = expected
    scene.refuses(CheckpointError, *shows, where=where)


def test_code_that_a_config_names_is_not_run(scene):
    """Neither a module beside it nor attention from the Hub; the merge itself needs no code."""
    code = f"from pathlib import Path\nPath({str(scene.here / 'ran')!r}).write_text('')\n"
    scene.config(has(_attn_implementation="somebody/kernel"))
    scene.merged()
    shutil.rmtree(scene.here / "out")
    scene.config(has(auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}))
    (scene.here / "base" / "evil.py").write_text(code)
    scene.merged()
    scene.config(has(model_type="evil"))
    shutil.rmtree(scene.here / "out")
    scene.refuses(CheckpointError, "code of its own", where="HERE/base", fix="--trust-remote-code")
    assert not (scene.here / "ran").exists()


def elsewhere(scene, name):
    """The file moved out of its folder, with a link in its place."""
    file = scene.here / name
    shutil.move(file, scene.here / "elsewhere")
    file.symlink_to(scene.here / "elsewhere")


@pytest.mark.parametrize(
    "name", ["Male/model.safetensors", "Male/config.json", "base/tokenizer.json"]
)
def test_a_link_out_of_the_folder(scene, name):
    """In a folder of the user's own it is followed; among downloaded files it is not the Hub's."""
    elsewhere(scene, name)
    scene.merged()
    shutil.rmtree(scene.here / "out")
    ((scene.here / name).parent / ".cache" / "huggingface").mkdir(parents=True)
    scene.refuses(CheckpointError, "got 'HERE/elsewhere'", where=f"HERE/{name}")


def test_links_that_lead_nowhere(scene):
    for name in ("nowhere", "model.safetensors"):
        (scene.here / "Male" / "model.safetensors").unlink()
        (scene.here / "Male" / "model.safetensors").symlink_to(name)
        scene.refuses(
            CheckpointError,
            "got ['config.json', 'model.safetensors', 'tokenizer.json'",
            where="HERE/Male",
        )


def test_the_links_of_the_hub_cache_are_followed(scene):
    expected = scene.merged()
    shutil.rmtree(scene.here / "out")
    blobs, snapshot = scene.here / "hub" / "blobs", scene.here / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted((scene.here / "Male").iterdir())):
        shutil.move(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    names(scene, str(snapshot))
    found = scene.merged()
    assert all(bool((found[name] == expected[name]).all()) for name in expected)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(scene.here / "Female" / "model.safetensors")
    shutil.rmtree(scene.here / "out")
    scene.refuses(CheckpointError, "got 'HERE/Female/model.safetensors'")


@pytest.mark.parametrize("call", ["io.open", "os.open"])
def test_files_that_may_not_be_read(scene, monkeypatch, call):
    """Root may read everything: the system's answer is put in its mouth."""
    name = "Male/model.safetensors"
    module, function = call.split(".")
    real = getattr(importlib.import_module(module), function)

    def refused(path, *rest, **more):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(call, refused)
    scene.refuses(
        CheckpointError,
        "(Permission denied)",
        where="HERE/Male/model.safetensors",
        ignoring=(name,),
    )


def test_a_tokenizer_that_cannot_be_copied(scene):
    file = scene.here / "base" / "tokenizer.json"
    for make, reason in (
        (file.mkdir, "Is a directory"),
        (lambda: file.symlink_to("nowhere"), "No such file"),
        (lambda: file.symlink_to("tokenizer.json"), "No such file"),
        (lambda: os.mkfifo(file), "No such file"),
    ):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        make()
        scene.refuses(CheckpointError, f"({reason})", where="HERE/base", fix="--no-copy-tokenizer")
    scene.merged("--no-copy-tokenizer")
    assert not (scene.here / "out" / "tokenizer.json").exists()


def test_a_chat_template_beside_a_tokenizer_that_does_not_load(scene):
    """What lies beside the weights is carried over as it is: nothing of it is run or read."""
    (scene.here / "base" / "tokenizer.json").write_text("{")
    scene.write(scene.addition() | {"chat_template": "chatml"})
    scene.merged()
    assert (scene.here / "out" / "tokenizer.json").read_text() == "{"
    assert "<|im_start|>" in (scene.here / "out" / "chat_template.jinja").read_text()
