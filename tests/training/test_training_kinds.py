"""The same job on pictures with a ViT, and on a decoder with a bias-free head."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from mergekit_fair.data import load_rows
from mergekit_fair.engine.compose import load_tensors
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.config import load_sweep
from mergekit_fair.sweep.run import run_sweep
from mergekit_fair.sweep.store import Store
from mergekit_fair.training.config import load_train_config
from mergekit_fair.training.run import train


def _vit(folder: Path) -> Path:
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=8,
        initializer_range=0.2,
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def _pictures(folder: Path, n: int = 160) -> dict[str, Any]:
    """Bright pictures are 1, dark ones 0; the group is the colour that dominates."""
    from PIL import Image

    draw, lines = random.Random(0), ["file,label,group"]
    folder.mkdir(parents=True)
    for row in range(n):
        label, group = draw.randrange(2), tiny.GROUPS[row % 2]
        noise = np.random.default_rng(row).integers(0, 60, (20, 24, 3))
        noise += 120 * label
        noise[..., 2 if group == "blue" else 1] += 50
        Image.fromarray(noise.astype("uint8")).save(folder / f"{row}.png")
        lines.append(f"{row}.png,{label},{group}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    block = tiny.data_block(folder / "rows.csv", image={"column": "file", "folder": str(folder)})
    del block["text"]
    return block


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
        model, data = _vit(tmp_path / "model"), _pictures(tmp_path / "pictures")
    else:
        model = _llama(tmp_path / "model")
        data = tiny.data_block(tiny.write_rows(tmp_path / "rows.csv", 240))
    path = tiny.write_training(
        tmp_path / "job",
        model=str(model),
        data=data,
        training={"learning_rate": 1e-3, "batch_size": 16, "epochs": 3},
    )
    config = load_train_config(path)
    record = train(config, tmp_path / "job" / "run", Silent(), "cpu")
    assert list(record["runs"]) == ["base", "fft", "lora", "groups/blue", "groups/green"]
    rows = load_rows(config.data).of("validation")
    sweep = tiny.write_sweep(
        tmp_path / "job",
        tmp_path / "sweep.yml",
        evaluate={"data": data, "max_length": 16, "device": "cpu", "batch_size": 8},
        grid={"lambda": [0, 0.5]},
        controls=[],
        inject=None,
        select={"maximize": "bal_acc"},
    )
    results = run_sweep(load_sweep(sweep), tmp_path / "out", Silent())
    base = next(line for line in results["points"] if line["label"] == "λ=0")
    assert base["evaluation"]["n"] == len(rows)
    # The probe makes the base a classifier that beats a coin on rows it has not seen.
    assert base["evaluation"]["metrics"]["bal_acc"]["value"] > 0.6
    store = Store(tmp_path / "out")
    scores = {line["label"]: store.margins(line["id"], "validation") for line in results["points"]}
    store.close()
    assert not np.array_equal(scores["λ=0"], scores["λ=0.5"])
    names = set(load_tensors(tmp_path / "job" / "run" / "base"))
    for model_name in ("fft", "lora", "groups/blue"):
        assert set(load_tensors(tmp_path / "job" / "run" / model_name)) == names
