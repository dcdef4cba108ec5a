"""A tiny real encoder with a real tokenizer, and rows that it can learn."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

GOOD, BAD = ("fine", "kind", "warm", "bright"), ("poor", "cold", "harsh", "dull")
OTHER = ("the", "day", "was", "and", "very", "house", "road", "we", "saw", "it")
GROUPS = ("blue", "green")
SPEECH = {"hate": "0", "offensive": "1", "neither": "2"}
# A rule by which some merge is chosen: they all select far fewer rows than FFT.
FEWEST = {"minimize": "selection_rate", "subject_to": {"saturated": True}}


def write_encoder(folder: Path, dropout: float = 0.1) -> Path:
    """A BertModel of two layers and 32 dimensions, seeded, with a WordPiece tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHER, *GROUPS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.3,  # the usual 0.02 gives an untrained encoder nothing to tell apart
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_rows(path: Path, n: int = 480, seed: int = 0) -> Path:
    """A csv of text, label, group: good words mean 1, more surely so for green than for blue."""
    draw = random.Random(seed)
    lines = ["text,label,group"]
    for row in range(n):
        group, label = GROUPS[row % 2], draw.randrange(2)
        surely = 0.95 if group == "green" else 0.75
        words = GOOD if (draw.random() < surely) == bool(label) else BAD
        text = [draw.choice(words), *(draw.choice(OTHER) for _ in range(draw.randint(3, 9)))]
        draw.shuffle(text)
        lines.append(f"{' '.join(text)},{label},{group}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_speech(path: Path, n: int = 360, seed: int = 0) -> Path:
    """A csv of text, class (0, 1, 2), toxicity (0 to 1), threat (y, n), group; blue is noisier."""
    draw = random.Random(seed)
    words = {0: BAD[:2], 1: BAD[2:], 2: GOOD}
    lines = ["text,class,toxicity,threat,group"]
    for row in range(n):
        group, number = GROUPS[row % 2], draw.randrange(3)
        surely = 0.95 if group == "green" else 0.75
        shown = number if draw.random() < surely else draw.randrange(3)
        text = [draw.choice(words[shown]), *(draw.choice(OTHER) for _ in range(draw.randint(3, 9)))]
        draw.shuffle(text)
        toxicity = draw.uniform(*((0.5, 1) if number < 2 else (0, 0.49)))
        threat = "y" if number == 0 else "n"
        lines.append(f"{' '.join(text)},{number},{toxicity:.2f},{threat},{group}")
    path.write_text("\n".join(lines) + "\n")
    return path


def classes_block(csv: Path, **changes: Any) -> dict[str, Any]:
    """`write_speech`'s rows by class."""
    return data_block(csv, label={"column": "class", "classes": SPEECH}, **changes)


def labels_block(csv: Path, **changes: Any) -> dict[str, Any]:
    """`write_speech`'s rows by two labels."""
    threat = {"column": "threat", "positive": "y", "negative": "n"}
    labels = {"toxic": {"column": "toxicity", "ge": 0.5}, "threat": threat}
    block = data_block(csv, labels=labels, **changes)
    del block["label"]
    return block


def data_block(csv: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "source": str(csv),
        "text": "text",
        "label": {"column": "label"},
        "groups": {"column": "group"},
        "splits": {"shares": {"train": 0.5, "validation": 0.25, "report": 0.25}, "seed": 0},
        **changes,
    }


def write_training(folder: Path, **changes: Any) -> Path:
    """An encoder, rows and a training file in `folder`; returns the training file."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "encoder").is_dir():
        write_encoder(folder / "encoder")
    csv = write_rows(folder / "rows.csv")
    training: dict[str, Any] = {
        "model": str(folder / "encoder"),
        "data": data_block(csv),
        "max_length": 16,
        "training": {"learning_rate": 3e-3, "batch_size": 16, "epochs": 2},
        "lora": {"learning_rate": 1e-2},
        "subgroups": {"min_rows": 20},
        **changes,
    }
    path = folder / "train.yml"
    path.write_text(yaml.safe_dump(training, sort_keys=False))
    return path


def words_of(*arguments: object) -> list[str]:
    """A command line; what measures does so with groups of any size, here a dozen rows."""
    words = [str(argument) for argument in arguments]
    if words[0] in ("eval", "measure", "compare") and "--min-group-size" not in words:
        words += ["--min-group-size", "1"]
    return words


def write_sweep(family: Path, path: Path, **changes: Any) -> Path:
    """A sweep file over the family that `write_training`'s file was trained to in `run/`."""
    sweep = {
        "recipe": str(family / "run" / "addition.yml"),
        "grid": {"lambda": "0:1:0.5"},
        "evaluate": {
            **{"data": data_block(family / "rows.csv"), "max_length": 16, "device": "cpu"},
            "min_group_size": 1,  # groups of a dozen rows
        },
        "baselines": {name: str(family / "run" / name) for name in ("fft", "lora")},
        "controls": ["random"],
        "select": {"maximize": "acc", "subject_to": {"dpd": "<= 0.9"}},
        "inject": {"target": "fft", "groups": "worst", "lambda": [0.0, 0.2]},
        **changes,
    }
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return path
