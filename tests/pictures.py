"""A tiny real ViT, and generated pictures that it can learn."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import tiny


def write_vit(folder: Path) -> Path:
    """A ViTModel of two layers and 32 dimensions, seeded, with its image processor."""
    import torch
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


def write_pictures(folder: Path, n: int = 160) -> dict[str, Any]:
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
