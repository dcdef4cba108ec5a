"""What is refused as a classifier; devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from transformers import AutoModelForSequenceClassification

from mergekit_fair.errors import CheckpointError
from mergekit_fair.evaluation.classifier import load_classifier, resolve_device
from mergekit_fair.evaluation.model_inputs import load_processor


def test_a_bare_encoder_is_no_classifier(tmp_path: Path) -> None:
    encoder = tiny.write_encoder(tmp_path / "encoder")
    with pytest.raises(CheckpointError) as caught:
        load_classifier(encoder, "text")
    assert "its architecture has no classification head; got ['BertModel']" in str(caught.value)


def test_a_random_head_is_refused(family: Path, tmp_path: Path) -> None:
    """transformers fills missing weights with random numbers and only logs it."""
    from safetensors.torch import load_file, save_file

    model = AutoModelForSequenceClassification.from_pretrained(family / "run" / "fft")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["classifier.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights .*classifier\.weight"):
        load_classifier(tmp_path, "text")


def test_three_classes_are_refused(family: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(
        family / "run" / "fft", num_labels=3, ignore_mismatched_sizes=True
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="must have two classes; got 3; allowed: 2"):
        load_classifier(tmp_path, "text")


def test_missing_model_and_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model here \(no config\.json\)"):
        load_classifier(tmp_path / "nowhere", "text")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        load_processor(tmp_path, "text")


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda", "mps", "xpu")
    with pytest.raises(CheckpointError, match="this device cannot be used"):
        resolve_device("warp")
