"""Training that cannot start or go on: one message, and no folder that looks finished."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from refusals import raises, refusal
from safetensors.torch import load_file, save_file

from mergekit_fair.errors import CheckpointError, ConfigError, TrainingError
from mergekit_fair.progress import Silent
from mergekit_fair.training.family import train
from mergekit_fair.training.train_config import load_train_config

WORDS = "embeddings.word_embeddings.weight"


def training(folder: Path, **changes: Any) -> list[object]:
    path = tiny.write_training(folder, lora=False, **changes)
    return ["train", path, "-o", folder / "run", "--device", "cpu", "--quiet"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"seed": -1}, "train.yml"),
        ({"seed": 2**40}, "train.yml"),
        ({"training": {"arguments": {"gradient_accumulation_steps": 0}}}, "train.yml"),
        ({"training": {"arguments": {"gradient_accumulation_steps": "x"}}}, "train.yml"),
    ],
)
def test_settings_that_nothing_can_be_trained_with(
    tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    refusal(training(tmp_path, **changes), ConfigError, where=where)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [{"eval_strategy": "steps"}, {"dataloader_num_workers": -1}])
def test_arguments_that_fail_late(tmp_path: Path, arguments: dict[str, Any]) -> None:
    words = training(tmp_path, training={"arguments": arguments, "epochs": 1})
    refusal(words, TrainingError, where="training.arguments", got=arguments)


def _damaged(encoder: Path, damage: str) -> None:
    config = encoder / "config.json"
    if damage == "quantised":
        quantised = {"quantization_config": {"quant_method": "gguf"}}
        config.write_text(json.dumps({**json.loads(config.read_text()), **quantised}))
    elif damage == "odd":
        config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": "32"}))
    elif damage == "tokenizer":
        (encoder / "tokenizer.json").write_text("{")
    else:
        (encoder / "model.safetensors").write_bytes(b"1234")


@pytest.mark.parametrize("damage", ["quantised", "odd", "tokenizer", "weights"])
def test_models_that_cannot_be_trained(tmp_path: Path, damage: str) -> None:
    words = training(tmp_path)
    _damaged(tmp_path / "encoder", damage)
    refusal(words, CheckpointError, where=tmp_path / "encoder")
    assert not (tmp_path / "run" / "base").exists()


@pytest.mark.parametrize(("head", "where"), [("probe", "encoder"), ("random", "fft")])
def test_weights_that_are_nan(tmp_path: Path, head: str, where: str) -> None:
    words = training(tmp_path, head=head, training={"epochs": 0.1})
    file = tmp_path / "encoder" / "model.safetensors"
    tensors = load_file(file)
    tensors[WORDS][5:] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    refusal(words, TrainingError, where=where)
    assert not (tmp_path / "run" / "fft").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"settings": 3, "runs": []}', "[" * 9999])
def test_a_damaged_record(family: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(family / "run" / "base", tmp_path / "run" / "base")
    (tmp_path / "run" / "train.json").write_text(text)
    config = load_train_config(family / "train.yml")
    with raises(TrainingError, where=tmp_path / "run" / "train.json", fix="-o"):
        train(config, tmp_path / "run", Silent(), "cpu")
    assert (tmp_path / "run" / "train.json").read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("most", [20_000, 100_000])
def test_a_disk_that_is_full(tmp_path: Path, most: int) -> None:
    """No file may grow beyond that: of the base, and of the states of a run."""
    words = [str(word) for word in training(tmp_path)]
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n"
    code += "from mergekit_fair.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    name = "base" if most < 50_000 else "fft"
    assert found.stderr.splitlines()[-1].startswith(f"Error: {tmp_path / 'run' / name}: ")
    assert not (tmp_path / "run" / name).exists()
    # With room again the same command goes on.
    config = load_train_config(tmp_path / "train.yml")
    train(config, tmp_path / "run", Silent(), "cpu")
    assert (tmp_path / "run" / "fft" / "model.safetensors").is_file()
