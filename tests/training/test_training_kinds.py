"""The same job on pictures with a ViT, and on a decoder with a bias-free head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pictures
import pytest
import tiny
import torch

from mergekit_fair.data import load_rows
from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.sweep_config import load_sweep
from mergekit_fair.training.family import train
from mergekit_fair.training.train_config import load_train_config


def _llama(folder: Path) -> Path:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tiny.write_encoder(folder / "bert")
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["vit", "llama"])
def test_train_and_sweep(tmp_path: Path, kind: str) -> None:
    if kind == "vit":
        model, data = (
            pictures.write_vit(tmp_path / "model"),
            pictures.write_pictures(tmp_path / "pictures"),
        )
    else:
        model = _llama(tmp_path / "model")
        data = tiny.data_block(tiny.write_rows(tmp_path / "rows.csv", 240))
    path = tiny.write_training(
        tmp_path / "job",
        model=str(model),
        data=data,
        training={"learning_rate": 1e-3, "batch_size": 16, "epochs": 3},
        seeds=2,
    )
    config = load_train_config(path)
    family = tmp_path / "job" / "run"
    record = train(config, family, Silent(), "cpu")
    names = ["base", "fft", "lora", "groups/blue", "groups/green", "seeds/1", "soup"]
    assert list(record["runs"]) == names
    rows = load_rows(config.data).of("validation")
    sweep = tiny.write_sweep(
        tmp_path / "job",
        tmp_path / "sweep.yml",
        evaluate={"data": data, "max_length": 16, "device": "cpu", "batch_size": 8},
        grid={"lambda": [0, 0.5]},
        baselines={name: str(family / name) for name in ("fft", "lora", "soup")},
        controls=[],
        inject=None,
        select={"maximize": "bal_acc"},
    )
    results = run_sweep(load_sweep(sweep), tmp_path / "out", Silent()).to_dict()
    base = next(line for line in results["points"] if line["label"] == "λ=0")
    assert base["evaluation"]["n"] == len(rows)
    # The probe makes the base a classifier that beats a coin on rows it has not seen.
    assert base["evaluation"]["metrics"]["bal_acc"]["value"] > 0.6
    store = Store(tmp_path / "out")
    scores = {line["label"]: store.scores(line["id"], "validation") for line in results["points"]}
    store.close()
    assert not np.array_equal(scores["λ=0"], scores["λ=0.5"])
    assert not np.array_equal(scores["fft"], scores["soup"])
    tensors = set(load_tensors(family / "base"))
    for model_name in names[1:]:
        assert set(load_tensors(family / model_name)) == tensors
