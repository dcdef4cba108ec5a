"""The training file: what is refused, by file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from refusals import raises

from mergekit_fair.errors import ConfigError
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
