"""Families of many classes and of several labels: heads, losses, groups that lack one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import tiny
import torch
from refusals import raises
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from mergekit_fair.data import Rows, load_rows
from mergekit_fair.errors import TrainingError
from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.progress import Silent
from mergekit_fair.training.family import train
from mergekit_fair.training.train_config import TrainConfig, load_train_config
from mergekit_fair.training.training_rows import (
    require_trainable,
    small_groups,
    subgroups,
    thin_groups,
)

Many = Callable[[str], Path]
KINDS = ("classes", "labels")


def _rows(folder: Path) -> Rows:
    return load_rows(load_train_config(folder / "train.yml").data)


def _logits(model: Path, rows: Rows) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(model)
    batch = tokenizer(list(rows.inputs), truncation=True, max_length=16, padding=True,
                      return_tensors="pt")  # fmt: skip
    with torch.inference_mode():
        logits: torch.Tensor = (
            AutoModelForSequenceClassification.from_pretrained(model).eval()(**batch).logits
        )
    return logits.double()


def _loss(model: Path, rows: Rows) -> float:
    """By torch alone."""
    logits, labels = _logits(model, rows), torch.from_numpy(rows.labels)
    if rows.label_kind == "labels":
        return float(torch.nn.BCEWithLogitsLoss()(logits, labels.double()))
    return float(torch.nn.CrossEntropyLoss()(logits, labels.long()))


def test_a_head_has_an_output_for_every_name(many: Many) -> None:
    for kind, names in (
        ("classes", ("hate", "offensive", "neither")),
        ("labels", ("toxic", "threat")),
    ):
        for model in ("base", "fft", "lora"):
            config = AutoConfig.from_pretrained(many(kind) / "run" / model)
            assert config.id2label == dict(enumerate(names))
            assert config.label2id == {name: index for index, name in enumerate(names)}
            is_multi = config.problem_type == "multi_label_classification"
            assert is_multi == (kind == "labels")
            assert len(load_tensors(many(kind) / "run" / model)["classifier.weight"]) == len(names)


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_tells_more_than_the_prior_and_fft_and_lora_more_than_the_base(
    kind: str, many: Many
) -> None:
    rows, run = _rows(many(kind)).of("train"), many(kind) / "run"
    share = torch.from_numpy(rows.having.mean(axis=0))
    prior = torch.distributions.Bernoulli(share).entropy().mean()
    if kind == "classes":
        prior = torch.distributions.Categorical(share).entropy()
    losses = {name: _loss(run / name, rows) for name in ("base", "fft", "lora")}
    assert losses["base"] < prior - 0.05
    assert max(losses["fft"], losses["lora"]) < losses["base"] - 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_is_a_regression_at_its_optimum(kind: str, many: Many) -> None:
    """With an intercept, the mean probability of a class or label is its share."""
    rows, base = _rows(many(kind)).of("train"), many(kind) / "run" / "base"
    logits = _logits(base, rows)
    chances = logits.sigmoid() if kind == "labels" else logits.softmax(dim=-1)
    assert np.allclose(chances.mean(dim=0).numpy(), rows.having.mean(axis=0), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_train_json_counts_classes_and_labels(kind: str, many: Many) -> None:
    rows = _rows(many(kind)).of("train")
    record = json.loads((many(kind) / "run" / "train.json").read_text())
    runs = record["runs"]
    assert list(runs) == ["base", "fft", "lora", "groups/blue", "groups/green"]
    assert runs["fft"]["n_of"] == rows.label_counts["n_of"]
    assert runs["groups/blue"]["n_of"] == rows.in_group("blue").label_counts["n_of"]
    assert "n_pos" not in runs["fft"]
    assert record["counts"][0]["n_of"] == runs["fft"]["n_of"]
    assert (many(kind) / "run" / "groups" / "blue" / "adapter_config.json").is_file()


def test_one_label_is_a_head_of_one_output_and_its_soup_is_the_mean(tmp_path: Path) -> None:
    block = tiny.labels_block(tiny.write_speech(tmp_path / "speech.csv", 120))
    del block["labels"]["threat"]
    changes: dict[str, Any] = {"lora": False, "subgroups": False, "seeds": 2}
    file = tiny.write_training(tmp_path, data=block, training={"epochs": 0.5}, **changes)
    train(load_train_config(file), tmp_path / "run", Silent(), "cpu")
    soup = load_tensors(tmp_path / "run" / "soup")
    parts = [load_tensors(tmp_path / "run" / name) for name in ("fft", "seeds/1")]
    assert soup["classifier.weight"].shape == (1, 32)
    mean = (parts[0]["classifier.weight"] + parts[1]["classifier.weight"]) / 2
    assert torch.allclose(soup["classifier.weight"], mean, atol=1e-6)
    config = AutoConfig.from_pretrained(tmp_path / "run" / "soup")
    assert (config.id2label, config.problem_type) == ({0: "toxic"}, "multi_label_classification")


def test_pictures_of_classes_and_of_labels(tmp_path: Path) -> None:
    pictures.write_vit(tmp_path / "vit")
    block = pictures.write_pictures(tmp_path / "pictures", n=48)
    del block["label"]
    bright = {"column": "label"}
    changes: dict[str, Any] = {
        "model": str(tmp_path / "vit"), "lora": False, "subgroups": False,
        "training": {"epochs": 0.5},
    }  # fmt: skip
    described = {
        "classes": {"label": {**bright, "classes": {"dark": 0, "bright": 1}}},
        "labels": {"labels": {"bright": bright, "blue": {"column": "group", "positive": "blue",
                                                         "negative": "green"}}},
    }  # fmt: skip
    for kind, label in described.items():
        out = tmp_path / kind
        file = tiny.write_training(tmp_path, data={**block, **label}, **changes)
        train(load_train_config(file), out, Silent(), "cpu")
        config = AutoConfig.from_pretrained(out / "fft")
        names = ("dark", "bright") if kind == "classes" else ("bright", "blue")
        assert tuple(config.id2label.values()) == names


def _config(folder: Path, **changes: Any) -> TrainConfig:
    return load_train_config(folder / "train.yml").model_copy(update=changes)


def _without(rows: Rows, mask: np.ndarray) -> Rows:
    return rows.take(~mask)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_without_a_class_are_said_and_those_of_one_are_refused(
    kind: str, many: Many
) -> None:
    config, rows = _config(many(kind)), _rows(many(kind)).of("train")
    blue = rows.membership[:, rows.group_names.index("blue")]
    first = rows.label_names[-1 if kind == "labels" else 0]
    has = rows.having[:, rows.label_names.index(first)]
    assert not list(thin_groups(rows, ["blue", "green"]))
    lacking = _without(rows, blue & has)
    assert subgroups(config, lacking) == ["blue", "green"]
    (said,) = thin_groups(lacking, ["blue", "green"])
    assert "'blue'" in said
    assert repr(first) in said
    every = _without(rows, blue & (~rows.having[:, 0]))
    if kind == "labels":
        (said,) = thin_groups(every, ["blue"])
        assert "all 'toxic'" in said
    one = _without(rows, blue & (rows.having != np.eye(rows.having.shape[1], dtype=bool)[0]).any(1))
    only = "class hate" if kind == "classes" else "['toxic']"
    with raises(
        TrainingError, f"'blue' has only {'rows with the labels ' * (kind == 'labels')}{only}"
    ):
        subgroups(config.model_copy(update={"subgroups": config.subgroups.model_copy(
            update={"min_rows": 1})}), one)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_training_rows_without_a_class_or_label_are_refused(kind: str, many: Many) -> None:
    config, rows = _config(many(kind)), _rows(many(kind)).of("train")
    require_trainable(config, rows)
    with raises(TrainingError, repr(rows.label_names[1]), where="tiny"):
        require_trainable(config, _without(rows, rows.having[:, 1]))
    binary = replace(rows, labels=np.ones(len(rows), np.int8), label_names=())
    with raises(TrainingError, "label 1", where="tiny"):
        require_trainable(config, binary)


def test_smoothing_is_for_one_class_a_row(many: Many) -> None:
    training = {"arguments": {"label_smoothing_factor": 0.1}}
    for kind in KINDS:
        config = _config(many(kind))
        config = config.model_copy(update={"training": config.training.model_copy(update=training)})
        if kind == "classes":
            require_trainable(config, _rows(many(kind)).of("train"))
            continue
        with raises(TrainingError, where="label_smoothing_factor", got=0.1):
            train(config, many(kind) / "new", Silent(), "cpu")
        assert not (many(kind) / "new").exists()


def test_small_groups_are_said_of_every_class(many: Many) -> None:
    said = list(small_groups(_rows(many("classes"))))
    assert any(text.startswith("validation rows, 'hate': ") for text in said)
    assert any(text.startswith("report rows, 'neither': ") for text in said)


def test_other_names_are_other_data(many: Many) -> None:
    config = _config(many("classes"))
    names = {"bad": "0", "offensive": "1", "neither": "2"}
    label = config.data.label.model_copy(  # type: ignore[union-attr]
        update={"classes": {name: (value,) for name, value in names.items()}}
    )
    other = config.model_copy(update={"data": config.data.model_copy(update={"label": label})})
    with raises(TrainingError, "data_sha256", where=many("classes") / "run"):
        train(other, many("classes") / "run", Silent(), "cpu")
