"""The training file: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from mergekit_fair.errors import ConfigError
from mergekit_fair.training.train_config import load_train_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"modle": "x"}, "unknown key 'modle'; did you mean 'model'?"),
        ({"head": "frozen"}, "head: input should be 'probe' or 'random'; got 'frozen'"),
        ({"training": {"learning_rate": 0}}, "training.learning_rate: input should be greater"),
        ({"training": {"lerning_rate": 1}}, "unknown key 'lerning_rate'; did you mean"),
        ({"training": {"arguments": {"bf61": True}}}, "TrainingArguments has no 'bf61'"),
        ({"training": {"arguments": {"seed": 3}}}, "seed is set by other keys of this file"),
        ({"subgroups": {"steps": "match", "epochs": 2}}, "steps: match or epochs: N, not both"),
        ({"training": {"scheduler": "cosin"}}, "training.scheduler: input should be 'linear'"),
        ({"sha256": "53aa"}, "sha256"),
        ({"checkpoints": [1.0]}, "checkpoints.0"),
        ({"data": 7}, "data"),
    ],
)
def test_bad_training_files_name_file_and_key(
    folder: Path, changes: dict[str, Any], text: str
) -> None:
    path = tiny.write_training(folder, **changes)
    with pytest.raises(ConfigError) as caught:
        load_train_config(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)


def test_data_may_be_a_file_beside_the_training_file(tmp_path: Path) -> None:
    import yaml

    inline = load_train_config(tiny.write_training(tmp_path))
    block = tiny.data_block(tmp_path / "rows.csv", source="rows.csv")
    (tmp_path / "data.yml").write_text(yaml.safe_dump(block))
    assert load_train_config(tiny.write_training(tmp_path, data="data.yml")).data == inline.data


def test_missing_data_and_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "train.yml"
    path.write_text("model: x\n")
    with pytest.raises(ConfigError, match=r"train\.yml: data is missing\. Give the data"):
        load_train_config(path)
    with pytest.raises(ConfigError, match=r"nothing\.yml: cannot be read"):
        load_train_config(tmp_path / "nothing.yml")
