"""The evaluator's scores of a two-class classifier, by a loop over plain transformers.

gaps = logit_gaps(model, evaluated(rows, "validation"), folder, max_length=16)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mergekit_fair.data import Rows


def evaluated(rows: Rows, split: str) -> Rows:
    """A split's rows in the order in which tasks show them."""
    inside = np.flatnonzero(rows.split == split)
    return rows.take(np.random.default_rng(0).permutation(inside))


def logit_gaps(model: Any, rows: Rows, folder: Path, max_length: int) -> np.ndarray:
    """logit₁ − logit₀ in float32: every text once, 64 at a time, the longest first."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = list(dict.fromkeys(rows.inputs))
    ids = [tokenizer(text, truncation=True, max_length=max_length) for text in texts]
    order = sorted(range(len(texts)), key=lambda row: -len(ids[row]["input_ids"]))
    gaps: dict[str, float] = {}
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            picked = order[start : start + 64]
            batch = tokenizer.pad([ids[row] for row in picked], return_tensors="pt")
            logits = model(**batch).logits.float()
            for row, gap in zip(picked, (logits[:, 1] - logits[:, 0]).tolist(), strict=True):
                gaps[texts[row]] = gap
    return np.array([gaps[text] for text in rows.inputs], dtype=np.float32)
