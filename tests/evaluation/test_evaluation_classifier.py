"""Tokenizers and bases that are not there; devices."""

from __future__ import annotations

import json
from pathlib import Path

from refusals import raises

from mergekit_fair.errors import CheckpointError
from mergekit_fair.evaluation.classifier import backend_of, resolve_device
from mergekit_fair.evaluation.model_inputs import load_processor


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with raises(CheckpointError, where=tmp_path):
        load_processor(tmp_path, "text")


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda", "mps", "xpu")
    with raises(CheckpointError, where="device", got="warp"):
        resolve_device("warp")


def test_an_adapter_whose_base_is_gone(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": gone}))
    fix = "base_model_name_or_path"
    with raises(CheckpointError, where=tmp_path / "adapter_config.json", got=gone, fix=fix):
        backend_of(str(tmp_path))
