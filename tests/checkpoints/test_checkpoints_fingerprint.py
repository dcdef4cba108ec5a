"""A model's fingerprint: every file that decides its answers, and nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from refusals import raises

from mergekit_fair.checkpoints import fingerprint as module
from mergekit_fair.checkpoints.fingerprint import digest_of_files, model_fingerprint
from mergekit_fair.errors import CheckpointError

DECIDING = (
    *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"),
    *("adapter_config.json", "modeling_x.py", "tokenizer.model", "merges.txt", "model.gguf"),
    *("chat_template.jinja", "preprocessor_config.json", "generation_config.json"),
    "additional_chat_templates/rag.jinja",
)
OTHER = (
    *("README.md", "merge_manifest.json", "mergekit_config.yml", "train.json", "results.json"),
    *("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", ".gitattributes"),
    *("fairness/results.json", "samples_x.jsonl", ".train_rows.npz", "LICENSE"),
)


@pytest.fixture
def model(tiny: Any, tmp_path: Path) -> Path:
    return shutil.copytree(tiny("bert").base, tmp_path / "model")


def test_it_is_what_sha256sum_says(model: Path) -> None:
    found = model_fingerprint(model)
    names = sorted(found.files)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(names)
    for name in names:
        assert found.files[name] == hashlib.sha256((model / name).read_bytes()).hexdigest()
    text = subprocess.run(["sha256sum", *names], cwd=model, capture_output=True, check=True).stdout
    assert found.digest == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("name", [*DECIDING, *OTHER])
def test_files_that_decide_and_others(model: Path, name: str) -> None:
    before = model_fingerprint(model).digest
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("{}")
    after = model_fingerprint(model)
    assert (after.digest != before) == (name in DECIDING)
    assert (name in after.files) == (name in DECIDING)


def test_a_name_counts_and_a_place_does_not(model: Path, tmp_path: Path) -> None:
    again = shutil.copytree(model, tmp_path / "again")
    assert model_fingerprint(again).digest == model_fingerprint(model).digest
    (again / "tokenizer.json").rename(again / "vocab.json")
    assert model_fingerprint(again).digest != model_fingerprint(model).digest
    assert digest_of_files({"a": "1", "b": "2"}) == digest_of_files({"b": "2", "a": "1"})


def test_large_files_are_read_once_and_anew_where_asked(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_KEPT_FROM", 1)
    monkeypatch.setattr(module, "_SETTLED_NS", 0)
    read: list[str] = []
    sha256 = module.sha256

    def counted(file: Path, advance: Any = None) -> str:
        read.append(file.name)
        return sha256(file, advance)

    monkeypatch.setattr(module, "sha256", counted)
    first = model_fingerprint(model).digest
    assert "model.safetensors" in read
    read.clear()
    assert model_fingerprint(model).digest == first
    assert read == []
    assert model_fingerprint(model, anew=True).digest == first
    assert "model.safetensors" in read
    # Of the same size and time of change; the system knows better.
    file = model / "model.safetensors"
    state = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    read.clear()
    assert model_fingerprint(model).digest != first
    assert read == ["model.safetensors"]


def test_a_file_that_was_just_written_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_KEPT_FROM", 1)
    (model / "config.json").write_text("{}")
    model_fingerprint(model)
    kept = list((tmp_path / "cache").rglob("*.json"))
    assert hashlib.sha256(b"{}").hexdigest() not in "".join(file.read_text() for file in kept)


def test_changes_are_seen(model: Path) -> None:
    found = model_fingerprint(model)
    found.require_unchanged()
    (model / "config.json").write_text("{}")
    with raises(CheckpointError, "config.json", where=model):
        found.require_unchanged()


def test_a_model_of_the_hub_s_cache(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options["revision"], options["local_files_only"]))
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    found = model_fingerprint("org/model", revision="v1")
    assert found.digest == model_fingerprint(model).digest
    assert asked == [("org/model", "v1", True)]


def test_no_model(tmp_path: Path) -> None:
    with raises(CheckpointError, where="no/such"):
        model_fingerprint("no/such")
    with raises(CheckpointError, where=tmp_path):
        model_fingerprint(tmp_path)
