"""Tiny classifiers that favour a group, whose word stands in the text; labels do not depend on it.

model, data = write_biased(tmp_path, "bert")
# mergekit-fair heads MODEL --data DATA -o OUT
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from classifiers import write_text

GROUPS = ("man", "woman", "nurse")
GOOD, BAD = ("good", "young"), ("old", "bad")
OTHER = ("the", "a", "and", "is", "as", "in", "not")


def write_rows(path: Path, n: int, seed: int = 0) -> Path:
    """A csv of text, label, group: good words mean 1 in four rows of five, for every group."""
    draw = random.Random(seed)
    lines = ["text,label,group"]
    for row in range(n):
        group, label = GROUPS[row % len(GROUPS)], draw.randrange(2)
        words = GOOD if (draw.random() < 0.8) == bool(label) else BAD
        number = [OTHER[digit] for digit in divide(row, len(OTHER))]  # no two rows are alike
        lines.append(f"{group} {' '.join(number)} {draw.choice(words)},{label},{group}")
    path.write_text("\n".join(lines) + "\n")
    return path


def divide(number: int, base: int) -> list[int]:
    """The four last digits of a number to a base."""
    return [number // base**place % base for place in range(4)]


def data_block(csv: Path, **changes: Any) -> dict[str, Any]:
    """Two rows in five are for training, three in ten each for validation and report."""
    return {
        "name": "biased",
        "source": str(csv),
        "text": "text",
        "label": {"column": "label"},
        "groups": {"column": "group"},
        "splits": {"shares": {"train": 0.4, "validation": 0.3, "report": 0.3}, "seed": 0},
        **changes,
    }


def write_biased(
    folder: Path, architecture: str = "bert", *, n: int = 1500, **changes: Any
) -> tuple[Path, Path]:
    """A classifier's folder, and a data description.

    Args:
        folder: to write into.
        architecture: as of `write_text`.
        n: rows.
        changes: of the data description.
    """
    folder.mkdir(parents=True, exist_ok=True)
    csv = write_rows(folder / "rows.csv", n)
    data = folder / "data.yml"
    data.write_text(yaml.safe_dump(data_block(csv, **changes), sort_keys=False))
    model = write_text(folder / "model", architecture)
    favour(model, data)
    return model, data


def favour(model: Path, data: Path) -> None:
    """Fit the last layer on labels that are turned to 1 for the first group, to 0 for the last."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModelForSequenceClassification

    from mergekit_fair.data import load_spec
    from mergekit_fair.evaluation.evaluator import Evaluator
    from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
    from mergekit_fair.heads.last_layer import read_features
    from mergekit_fair.progress import Silent

    evaluator = Evaluator(EvaluationRequest(tasks=load_spec(data)))
    scorer = evaluator.open(str(model), "cpu")
    layer, found = read_features(evaluator, scorer, ["train"], model, Silent())
    rows = found["train"].rows
    labels = rows.labels.copy()
    turned = np.random.default_rng(0).random(len(labels)) < 0.9
    labels[rows.groups[GROUPS[0]] & turned] = 1
    labels[rows.groups[GROUPS[-1]] & turned] = 0
    features = found["train"].features.astype(np.float64)
    scale = features.std(axis=0)
    probe = LogisticRegression(C=0.1, fit_intercept=layer.bias is not None, max_iter=9000)
    probe.fit(features / scale, labels)
    weight = torch.from_numpy(probe.coef_[0] / scale)
    loaded = AutoModelForSequenceClassification.from_pretrained(model)
    head = loaded.get_submodule(layer.name)
    with torch.no_grad():
        head.weight.copy_(torch.stack([-weight, weight]) / 2)
        if head.bias is not None:
            head.bias.copy_(torch.tensor([-1.0, 1.0]) * float(probe.intercept_[0]) / 2)
    loaded.save_pretrained(model)
