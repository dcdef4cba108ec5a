"""Relative paths in files begin beside the file or in the working directory, never in both."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from click.testing import CliRunner
from refusals import raises, refusal

from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError
from mergekit_fair.files import beside
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.references import found_beside
from mergekit_fair.sweep.sweep_config import load_sweep
from mergekit_fair.training.train_config import load_train_config


def asked(*arguments: object) -> Any:
    found = CliRunner().invoke(main, [str(word) for word in arguments])
    assert found.exit_code == 0, found.output
    return found


@pytest.fixture
def study(family: Path, tmp_path: Path) -> Path:
    """A study that somebody has moved here, all its paths relative to its own files."""
    study = tmp_path / "moved study"
    shutil.copytree(family / "run", study / "run")
    shutil.copy(family / "rows.csv", study / "rows.csv")
    evaluate = {"data": tiny.data_block(Path("rows.csv")), "max_length": 16, "device": "cpu"}
    tiny.write_sweep(
        study,
        study / "sweep.yml",
        recipe="run/addition.yml",
        evaluate=evaluate,
        baselines={"fft": "run/fft"},
        controls=[],
        inject=None,
        grid={"lambda": [0.5]},
    )
    return study


@pytest.mark.parametrize("place", ["study", "above", "elsewhere"])
def test_a_study_works_from_any_folder(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir({"study": study, "above": tmp_path}.get(place, tmp_path / "elsewhere"))
    path = Path(os.path.relpath(study))
    asked("check", path / "run" / "addition.yml", "--quiet")
    sweep = load_sweep(path / "sweep.yml")
    for model in (sweep.recipe.raw["base_model"], sweep.config.baselines["fft"]):
        assert Path(model).resolve().is_relative_to(study)
    plan = json.loads(asked("sweep", path / "sweep.yml", "-o", "x", "--dry-run", "--json").stdout)
    assert {Path(model).resolve().name for model in plan["models"]} == {
        *("base", "fft", "blue", "green")
    }


@pytest.mark.usefixtures("study")
def test_the_recipe_of_a_merge_says_where_its_models_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies beside a merge is merged again from the same folder."""
    monkeypatch.chdir(tmp_path)
    asked("merge", "moved study/run/addition.yml", "out", "--quiet")
    asked("merge", "out/mergekit_config.yml", "again", "--quiet")
    first, again = (tmp_path / name / "model.safetensors" for name in ("out", "again"))
    assert first.read_bytes() == again.read_bytes()
    asked("grid", "moved study/run/addition.yml", "--lambda", 0.2, "-o", "grid", "--quiet")
    text = (tmp_path / "grid" / "lambda_0.2.yml").read_text()
    assert yaml.safe_load(text)["base_model"] == "./moved study/run/base"


def test_a_path_that_stands_for_two_folders(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = study / "run" / "addition.yml"
    shutil.copytree(study / "run" / "fft", tmp_path / "base")
    refusal(["check", recipe], ConfigError, where=f"{recipe}: base_model", got="./base")
    (tmp_path / "base").rename(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "run" / "fft")
    with raises(ConfigError, where="baselines.fft", got="run/fft"):
        load_sweep(study / "sweep.yml")
    # One folder by two ways is one.
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "base").symlink_to(study / "run" / "base")
    assert Recipe.load(recipe).raw["base_model"] == "./base"


def test_a_training_file_and_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_training(tmp_path / "study", model="encoder")
    monkeypatch.chdir(tmp_path)
    config = load_train_config("study/train.yml")
    assert config.model == "study/encoder"
    monkeypatch.chdir(tmp_path / "study")
    assert load_train_config("train.yml").model == "encoder"
    tiny.write_encoder(tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    with raises(ConfigError, where="study/train.yml: model", got="encoder"):
        load_train_config("study/train.yml")


def test_a_model_that_is_called_as_a_word_of_tokenizers(tmp_path: Path) -> None:
    """`base` and `union` are words under tokenizer_source alone; as models they are folders."""
    for name in ("base", "union"):
        (tmp_path / name).mkdir()
    raw = {"base_model": "base", "models": [{"model": "union"}], "tokenizer_source": "union"}
    found = found_beside(raw, str(tmp_path / "r.yml"))
    assert found["base_model"] == str(tmp_path / "base")
    assert found["models"] == [{"model": str(tmp_path / "union")}]
    assert found["tokenizer_source"] == "union"


def test_reports_and_tokenizers_lie_beside_a_recipe_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    for name in ("words", "a", "b"):
        (folder / name).mkdir(parents=True)
    (folder / "report.json").write_text("{}")
    raw = {"merge_method": "linear", "tokenizer": {"source": "words"}, "dtype": "float32"}
    raw |= {"models": [{"model": m, "parameters": {"weight": 1}} for m in ("a", "b", "org/c")]}
    raw |= {"fairness": {"report": "report.json"}}
    (folder / "recipe.yml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    found = Recipe.load("here/recipe.yml").raw
    assert [item["model"] for item in found["models"]] == ["here/a", "here/b", "org/c"]
    assert found["tokenizer"] == {"source": "here/words"}
    assert found["fairness"] == {"report": "here/report.json"}
    for name in (str(folder / "a"), "~/a", "nowhere", "here/a"):
        assert beside(name, "here/recipe.yml", "x") == name


def test_a_recipe_that_somebody_has_changed_stays(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "run", tmp_path / "run")
    recipe = tmp_path / "run" / "addition.yml"
    assert yaml.safe_load(recipe.read_text())["base_model"] == "./base"
    recipe.write_text(recipe.read_text() + "# mine\n")
    asked("train", family / "train.yml", "-o", tmp_path / "run", "--device", "cpu", "--quiet")
    assert recipe.read_text().endswith("# mine\n")
