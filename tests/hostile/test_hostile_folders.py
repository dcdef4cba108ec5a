"""Model folders that are none, or none of this family: each is one message."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import pytest

AGAIN = "Copy or train the model again."
FIT = "Merge models of one architecture, fine-tuned from this base."
SAVE = "Save the model with transformers, as the class that you use it with."
UNREADABLE = "its config.json cannot be read"
KIND = "BertForSequenceClassification"
UNFIT = (
    "HERE/base: transformers does not load these tensors into the architecture of config.json whole"
)
LOAD = "Load and save the model with transformers once, as the class that you use it with."


def where(scene, name):
    """The recipe with another place for its second model."""
    raw = scene.addition()
    raw["models"][1]["model"] = name
    scene.write(raw)


PLACES = {
    "HERE/nowhere": "HERE/nowhere: no such model folder.",
    "HERE/Mael": "HERE/Mael: no such model folder; did you mean 'Male'?",
    "HERE/Male/config.json": "HERE/Male/config.json: no such model folder.",
    "a/b/c": "a/b/c: no such model folder.",
}


@pytest.mark.parametrize(("name", "message"), PLACES.items())
def test_places_where_no_model_is(scene, name, message):
    where(scene, name.replace("HERE", str(scene.here)))
    assert scene.refused() == message


def test_a_mistyped_relative_place(scene, monkeypatch):
    monkeypatch.chdir(scene.here)
    where(scene, "Mael")
    message = scene.refused()
    assert message.startswith("Mael: neither a folder here nor found on the Hub (")
    assert message.endswith("); did you mean 'Male'? Check the path.")


CONFIGS = {
    "empty": (b"", f"{UNREADABLE} (Expecting value: line 1 column 1 (char 0)). {AGAIN}"),
    "cut": (b'{"model_type": "be', f"{UNREADABLE} (Unterminated string starting at: line 1 column "
        f"16 (char 15)). {AGAIN}"),
    "list": (b"[]", f"{UNREADABLE} (no mapping). {AGAIN}"),
    "binary": (b"\xff\xfe{", f"{UNREADABLE} ('utf-8' codec can't decode byte 0xff in position 0: "
        f"invalid start byte). {AGAIN}"),
    "deep": (b"[" * 100_000, f"{UNREADABLE} (it is nested too deeply). {AGAIN}"),
    "nothing": (b"{}", f"its config.json has other architectures than the base's (HERE/base); "
        f"allowed: {KIND}. {FIT}"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), CONFIGS.values(), ids=CONFIGS)
def test_configs_that_are_none(scene, content, message):
    (scene.here / "Male" / "config.json").write_bytes(content)
    assert scene.refused() == f"HERE/Male: {message}"


def test_no_config(scene):
    for model in ("Male", "base"):
        (scene.here / model / "config.json").unlink()
        assert scene.refused() == f"HERE/{model}: {UNREADABLE} (no such file). {AGAIN}"
    os.mkfifo(scene.here / "base" / "config.json")  # it would be waited for
    assert scene.refused() == f"HERE/base: {UNREADABLE} (no such file). {AGAIN}"


def has(**changes):
    return lambda config: config.update(changes)


OTHER = {
    "architecture": (has(architectures=["BertForMaskedLM"]), "its config.json has other "
        "architectures than the base's (HERE/base); got ['BertForMaskedLM']; allowed: "
        f"{KIND}. {FIT}"),
    "model-type": (has(model_type="roberta"), "its config.json has other model_type than the "
        f"base's (HERE/base); got 'roberta'; allowed: bert. {FIT}"),
    "heads": (has(num_attention_heads=2), "its config.json has other num_attention_heads than the "
        f"base's (HERE/base); got 2; allowed: 4. {FIT}"),
    "labels": (has(id2label={"0": "1", "1": "0"}), "its config.json names the classes otherwise "
        "than the base's (HERE/base); got {'0': '1', '1': '0'}; allowed: 0, 1. Fine-tune every "
        "model with the same id2label."),
    "no-labels": (has(id2label=["0", "1"]), "the id2label of its config.json must be a mapping; "
        f"got ['0', '1']. {AGAIN}"),
    "quantized": (has(quantization_config={"quant_method": "gptq"}), "is quantized (config.json "
        "has quantization_config); its weights cannot be added up. Merge the unquantized models, "
        "then quantize the result."),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), OTHER.values(), ids=OTHER)
def test_models_of_another_kind(scene, change, message):
    scene.config(change, "Male")
    assert scene.refused() == f"HERE/Male: {message}"


ONE = "HERE/base: its config.json must name one architecture"
TAKES = "HERE/base: transformers does not take its config.json"

PART, PARTS = "bert.encoder.layer.{}.attention.output.{}", (
    "LayerNorm.bias", "LayerNorm.weight", "dense.bias"
)  # fmt: skip

COMMON = {
    "no-architecture": (lambda config: config.pop("architectures"), f"{ONE}. {SAVE}"),
    "two": (has(architectures=[KIND, "BertModel"]), f"{ONE}; got ['{KIND}', 'BertModel']. {SAVE}"),
    "word": (has(architectures=KIND), f"{ONE}; got '{KIND}'. {SAVE}"),
    "number": (has(architectures=[5]), f"{ONE}; got [5]. {SAVE}"),
    "no-head": (has(architectures=["BertModel"]), f"{UNFIT} (tensors: 2 unexpected "
        f"['classifier.bias', 'classifier.weight']). {LOAD}"),
    "unknown-type": (has(model_type=[]), f"{TAKES} (unhashable type: 'list'). {AGAIN}"),
    "wrong-type": (has(hidden_size="32"), f"{TAKES} (Validation error for field 'hidden_size': "
        f"TypeError: Field 'hidden_size' expected int, got str (value: '32')). {AGAIN}"),
    "fewer-layers": (has(num_hidden_layers=1), f"{UNFIT} (tensors: 16 unexpected "
        f"{[PART.format(1, name) for name in PARTS]}). {LOAD}"),
    "more-layers": (has(num_hidden_layers=3), f"{UNFIT} (tensors: 16 missing "
        f"{[PART.format(2, name) for name in PARTS]}). {LOAD}"),
    "layers": (has(num_hidden_layers=10**9), "HERE/base: its config.json has a num_hidden_layers "
        f"that its 41 tensors cannot have; got 1000000000. {AGAIN}"),
    "no-heads": (has(num_attention_heads=0), f"{UNFIT} (ZeroDivisionError('integer modulo by "
        f"zero')). {LOAD}"),
    "activation": (has(hidden_act="nope"), f"{UNFIT} (KeyError('nope')). {LOAD}"),
    "dtype": (has(dtype="float8"), f"{TAKES} (module 'torch' has no attribute 'float8'). {AGAIN}"),
    "positions": (has(max_position_embeddings=128), f"{UNFIT} (tensors: 1 of another shape "
        "[\"('bert.embeddings.position_embeddings.weight', torch.Size([64, 32]), "
        f"torch.Size([128, 32]))\"]). {LOAD}"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), COMMON.values(), ids=COMMON)
def test_configs_that_do_not_describe_their_weights(scene, change, message):
    scene.config(change)
    assert scene.refused() == message


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
    message = scene.refused()
    assert message.startswith(f"{TAKES} (")
    assert "trust_remote_code" in message
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
    elsewhere(scene, name)
    assert scene.refused() == (
        f"HERE/{name}: is a link out of the model folder; got 'HERE/elsewhere'. Copy the file into "
        "the folder."
    )


def test_links_that_lead_nowhere(scene):
    for name in ("nowhere", "model.safetensors"):
        (scene.here / "Male" / "model.safetensors").unlink()
        (scene.here / "Male" / "model.safetensors").symlink_to(name)
        assert scene.refused() == (
            "HERE/Male: holds no model.safetensors; got ['config.json', 'model.safetensors', "
            "'tokenizer.json', 'tokenizer_config.json']. Give the folder of a model that was saved "
            "with safetensors."
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
    where(scene, str(snapshot))
    found = scene.merged()
    assert all(bool((found[name] == expected[name]).all()) for name in expected)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(scene.here / "Female" / "model.safetensors")
    shutil.rmtree(scene.here / "out")
    assert "is a link out of the model folder" in scene.refused()


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
    assert scene.refused(ignoring=(name,)) == (
        f"HERE/{name}: cannot be read (Permission denied). Make the file readable."
    )


TOKENIZER = "HERE/base: its tokenizer.json could not be copied"
COPY = "Make the file readable, or pass --no-copy-tokenizer."


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
        assert scene.refused() == f"{TOKENIZER} ({reason}). {COPY}"
    scene.merged("--no-copy-tokenizer")
    assert not (scene.here / "out" / "tokenizer.json").exists()


def test_a_chat_template_without_a_tokenizer(scene):
    (scene.here / "base" / "tokenizer.json").write_text("{")
    scene.write(scene.addition() | {"chat_template": "chatml"})
    assert scene.refused() == (
        "HERE/base: its tokenizer could not be copied (Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1)). Add the tokenizer's files to the base, or pass "
        "--no-copy-tokenizer."
    )
