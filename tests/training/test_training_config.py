"""The training file: what is refused, by file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from refusals import raises

from mergekit_fair.errors import ConfigError
from mergekit_fair.progress import Silent
from mergekit_fair.training.family import train
from mergekit_fair.training.train_config import load_train_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


@pytest.mark.parametrize(
    ("changes", "shows"),
    [
        ({"modle": "x"}, ["'modle'", "'model'?"]),
        ({"head": "frozen"}, ["head: ", "'probe' or 'random'", "got 'frozen'"]),
        ({"training": {"learning_rate": 0}}, ["training.learning_rate: ", "got 0"]),
        ({"training": {"lerning_rate": 1}}, ["training: ", "'lerning_rate'", "'learning_rate'?"]),
        (
            {"training": {"arguments": {"bf61": True}}},
            ["training.arguments: ", "'bf61'", "'bf16'?"],
        ),
        ({"training": {"arguments": {"seed": 3}}}, ["training.arguments: ", "seed"]),
        ({"subgroups": {"steps": "match", "epochs": 2}}, ["subgroups: ", "steps", "epochs"]),
        ({"subgroups": {"keep": "adapter"}}, ["subgroups: ", "keep", "fft"]),
        ({"subgroups": {"only": []}}, ["yml: subgroups.only: list", "got []."]),
        ({"lora": {"rank": 0}}, ["yml: lora.rank: input", "got 0."]),
        ({"subgroups": True}, ["subgroups: ", "got True"]),
        ({"training": {"scheduler": "cosin"}}, ["training.scheduler: ", "'linear'"]),
        ({"sha256": "53aa"}, ["sha256: "]),
        ({"checkpoints": [1.0]}, ["checkpoints.0: "]),
        ({"data": 7}, ["data must", "got 7"]),
    ],
)
def test_bad_training_files_name_file_and_key(
    folder: Path, changes: dict[str, Any], shows: list[str]
) -> None:
    path = tiny.write_training(folder, **changes)
    with raises(ConfigError, *shows, where=path):
        load_train_config(path)


def test_data_may_be_a_file_beside_the_training_file(tmp_path: Path) -> None:
    import yaml

    inline = load_train_config(tiny.write_training(tmp_path))
    block = tiny.data_block(tmp_path / "rows.csv", source="rows.csv")
    (tmp_path / "data.yml").write_text(yaml.safe_dump(block))
    assert load_train_config(tiny.write_training(tmp_path, data="data.yml")).data == inline.data


def test_missing_data_and_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "train.yml"
    path.write_text("model: x\n")
    with raises(ConfigError, "data is missing", where=path):
        load_train_config(path)
    with raises(ConfigError, where=tmp_path / "nothing.yml", fix="path"):
        load_train_config(tmp_path / "nothing.yml")


def test_a_new_kind_of_fine_tuning_is_one_class_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here: only the head is trained."""
    from safetensors.torch import load_file

    from mergekit_fair.merging.methods.head_policy import is_head
    from mergekit_fair.training import kinds

    class HeadOnly(kinds.TrainingKind):
        def prepare(self, model: Any, material: kinds.Material) -> Any:
            del material
            for name, parameter in model.named_parameters():
                parameter.requires_grad = is_head(name)
            return model

    with raises(ConfigError, "fft, lora, talos, sparse, tangent"):
        load_train_config(tiny.write_training(tmp_path, subgroups={"method": "head"}))
    monkeypatch.setitem(kinds.KINDS, "head", HeadOnly)
    path = tiny.write_training(tmp_path, subgroups={"method": "head", "min_rows": 20}, lora=False)
    record = train(load_train_config(path), tmp_path / "run", Silent(), "cpu")
    assert record["runs"]["groups/blue"]["method"] == "head"
    base, blue = (
        load_file(tmp_path / "run" / name / "model.safetensors") for name in ("base", "groups/blue")
    )
    changed = {name for name in base if not torch.equal(base[name], blue[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
