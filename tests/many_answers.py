"""Rows of three classes, and of any of two labels; heads for both, with random weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from checkpoints import WORDS, rewrite
from classifiers import write_text

CLASSES = ("hate", "offensive", "neither")
LABELS = ("toxic", "threat")
GROUPS = ("blue", "green")


def write_many(folder: Path, n: int = 240) -> Path:
    """A csv of text, class (0 to 2), toxicity (in [0, 1]), threat (0, 1), group and weight."""
    draw = random.Random(0)
    lines = ["text,class,toxicity,threat,group,weight"]
    for row in range(n):
        text = " ".join(draw.choices(WORDS[:24], k=draw.randint(2, 14)))
        label = draw.choices(range(3), (2, 3, 4))[0]
        said = f"{draw.random():.3f},{int(draw.random() < 0.3)}"
        lines.append(f"{text},{label},{said},{GROUPS[row % 2]},{draw.choice((1, 2.5))}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "many.csv").write_text("\n".join(lines) + "\n")
    return folder / "many.csv"


def classes_block(csv: Path, **changes: Any) -> dict[str, Any]:
    """The description of its classes."""
    numbers = {name: str(number) for number, name in enumerate(CLASSES)}
    return {
        "name": "speech",
        "source": str(csv),
        "text": "text",
        "label": {"column": "class", "classes": numbers},
        "groups": {"column": "group"},
        "splits": {"shares": {"train": 0.4, "validation": 0.4, "report": 0.2}, "seed": 0},
        **changes,
    }


def labels_block(csv: Path, **changes: Any) -> dict[str, Any]:
    """The description of its labels."""
    block = classes_block(csv, name="comments")
    del block["label"]
    rules = {"toxic": {"column": "toxicity", "ge": 0.5}, "threat": {"column": "threat"}}
    return {**block, "labels": rules, **changes}


def write_head(folder: Path, names: tuple[str, ...] = CLASSES, **changes: Any) -> Path:
    """A tiny BERT with a class for every name; the first, which random weights never give, is
    made likelier."""
    numbers = {name: number for number, name in enumerate(names)}
    write_text(folder, "bert", labels=numbers, **changes)

    def likelier(tensors: dict[str, Any]) -> None:
        tensors["classifier.bias"][0] += 3.0

    rewrite(folder, likelier)
    return folder


def write_label_head(folder: Path, names: tuple[str, ...] = LABELS, **changes: Any) -> Path:
    """A tiny BERT that answers for every label by itself."""
    return write_head(folder, names, problem_type="multi_label_classification", **changes)
