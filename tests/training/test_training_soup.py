"""FFT with further seeds, and their mean: what is trained, made anew, and reproduced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner
from refusals import raises, refusal

from mergekit_fair.checkpoints.trained_rows import trained_rows
from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError, TrainingError
from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.progress import Silent
from mergekit_fair.training import family as family_module
from mergekit_fair.training.base_model import file_sha256
from mergekit_fair.training.family import train
from mergekit_fair.training.train_config import Subgroups, TrainConfig, load_train_config

MEMBERS = ("fft", "seeds/1", "seeds/2")


def _config(family: Path, seeds: int) -> TrainConfig:
    return load_train_config(family / "train.yml").model_copy(update={"seeds": seeds})


def _train(family: Path, out: Path, seeds: int) -> dict[str, Any]:
    return train(_config(family, seeds), out, Silent(), "cpu")


def _weights(folder: Path) -> str:
    return file_sha256(folder / "model.safetensors")


@pytest.fixture(scope="module")
def two(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family with a second seed; read only."""
    out = tmp_path_factory.mktemp("two") / "run"
    shutil.copytree(family / "run", out)
    _train(family, out, 2)
    return out


@pytest.fixture(scope="module")
def three(family: Path, two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, grown by a third; read only."""
    out = tmp_path_factory.mktemp("three") / "run"
    shutil.copytree(two, out)
    _train(family, out, 3)
    return out


@pytest.fixture
def copied(three: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(three, tmp_path / "run")
    yield tmp_path / "run"
    assert not (tmp_path / "run" / ".soup.partial").exists()


def _is_mean(family: Path, members: tuple[str, ...]) -> bool:
    """Every weight of the soup is a float32 nearest to the mean (at a tie, either of the two)."""
    soup, *models = (load_tensors(family / name) for name in ("soup", *members))
    for name, tensor in soup.items():
        mean = torch.stack([model[name].double() for model in models]).mean(dim=0)
        half = np.spacing(np.abs(mean.float().numpy())) / 2
        error = (tensor.double() - mean).abs().numpy()
        # A sum in float64 in another order is off by some 1e-16 of the largest weight.
        if (error > half * (1 + 1e-6) + 1e-15).any():
            return False
    return soup.keys() == models[0].keys()


def test_the_soup_is_the_mean_of_models_that_differ(three: Path) -> None:
    assert _is_mean(three, MEMBERS)
    assert not _is_mean(three, MEMBERS[:2])
    first, *others = (load_tensors(three / name)["classifier.weight"] for name in MEMBERS)
    assert all(not torch.equal(first, other) for other in others)
    assert not torch.equal(*others)


def test_what_train_json_says(three: Path) -> None:
    record = json.loads((three / "train.json").read_text())
    assert "seeds" not in record["settings"]
    runs = record["runs"]
    assert list(runs)[-3:] == ["seeds/1", "seeds/2", "soup"]
    assert (runs["seeds/2"]["seed"], runs["seeds/2"]["method"]) == (2, "fft")
    assert runs["seeds/2"]["steps"] == runs["fft"]["steps"] == 32
    assert (runs["soup"]["method"], runs["soup"]["of"]) == ("mean", list(MEMBERS))
    seen = [trained_rows(three / name) for name in ("fft", "seeds/1", "soup")]
    assert all(one and set(one.keys) == set(seen[0].keys) for one in seen if seen[0])
    assert not (three / ".work").exists()


def test_a_seed_of_its_own_is_trained_as_if_it_stood_alone(
    family: Path, three: Path, tmp_path: Path
) -> None:
    """`seeds/1` is what FFT is with seed: 1, from the same base (a probe's has no seed)."""
    config = load_train_config(family / "train.yml")
    few = Subgroups(only=["blue"], epochs=0.1)
    alone = config.model_copy(update={"seed": 1, "lora": False, "subgroups": few})
    out = tmp_path / "run"
    record = train(alone, out, Silent(), "cpu")
    assert record["runs"]["fft"]["seed"] == 1
    assert _weights(out / "base") == _weights(three / "base")
    assert _weights(out / "fft") == _weights(three / "seeds" / "1")


def test_growing_trains_what_is_missing_alone(family: Path, two: Path, three: Path) -> None:
    for name in ("base", "fft", "lora", "seeds/1", "groups/blue"):
        files = [folder / name / "model.safetensors" for folder in (family / "run", two, three)]
        assert len({file_sha256(file) for file in files if file.is_file()}) == 1, name
    assert _weights(two / "soup") != _weights(three / "soup")
    assert _is_mean(two, MEMBERS[:2])
    assert (two / "soup.yml").read_text() != (three / "soup.yml").read_text()


def test_another_number_makes_the_soup_anew(family: Path, two: Path, copied: Path) -> None:
    record = _train(family, copied, 2)
    assert record["runs"]["soup"]["of"] == list(MEMBERS[:2])
    assert "seeds/2" in record["runs"]
    assert _weights(copied / "soup") == _weights(two / "soup")
    assert (copied / "soup.yml").read_text() == (two / "soup.yml").read_text()
    before = (copied / "soup" / "model.safetensors").stat().st_mtime_ns
    for seeds in (2, 1):  # nothing is asked of it then
        assert _train(family, copied, seeds)["runs"]["soup"]["of"] == list(MEMBERS[:2])
    assert (copied / "soup" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("gone", ["entry", "folder", "member", "recipe and entry"])
def test_a_soup_that_was_not_finished(family: Path, three: Path, copied: Path, gone: str) -> None:
    """Killed between its parts, or a model was taken away."""
    record = json.loads((copied / "train.json").read_text())
    if gone == "folder":
        shutil.rmtree(copied / "soup")
    elif gone == "member":
        shutil.rmtree(copied / "seeds" / "2")
        (copied / "soup" / "model.safetensors").write_bytes(b"of another time")
    else:
        del record["runs"]["soup"]
        (copied / "train.json").write_text(json.dumps(record))
    if gone == "recipe and entry":
        (copied / "soup.yml").unlink()
    again = _train(family, copied, 3)
    assert again["runs"]["soup"]["of"] == list(MEMBERS)
    assert _weights(copied / "soup") == _weights(three / "soup")


def test_killed_while_it_is_made_anew(
    family: Path, three: Path, two: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """train.json never says of which models a soup is while another one may lie there."""

    def killed(*arguments: Any) -> list[str]:
        make(*arguments)
        raise KeyboardInterrupt

    make = family_module.make_soup
    monkeypatch.setattr(family_module, "make_soup", killed)
    with pytest.raises(KeyboardInterrupt):
        _train(family, copied, 2)
    assert "soup" not in json.loads((copied / "train.json").read_text())["runs"]
    assert _weights(copied / "soup") == _weights(two / "soup")
    monkeypatch.undo()
    _train(family, copied, 3)
    assert _weights(copied / "soup") == _weights(three / "soup")


def test_seeds_of_other_lengths_are_no_soup(family: Path, copied: Path) -> None:
    """As when two processes trained FFT, with a batch each, and one is started for the others."""
    record = json.loads((copied / "train.json").read_text())
    record["runs"]["fft"]["steps"] = 16
    (copied / "train.json").write_text(json.dumps(record))
    with raises(TrainingError, where=copied / "fft", got=16, allowed=32):
        _train(family, copied, 3)
    assert _train(family, copied, 1)["runs"]["soup"]["of"] == list(MEMBERS)  # nothing is asked
    shutil.rmtree(copied / "fft")
    assert _train(family, copied, 3)["runs"]["fft"]["steps"] == 32
    assert _is_mean(copied, MEMBERS)


def test_what_others_wrote_is_kept(family: Path, copied: Path) -> None:
    (copied / "soup.yml").write_text("mine")
    assert _train(family, copied, 3)["runs"]["soup"]["of"] == list(MEMBERS)
    with raises(ConfigError, where=copied / "soup.yml"):
        _train(family, copied, 2)
    assert (copied / "soup.yml").read_text() == "mine"
    (copied / "soup.yml").unlink()
    (copied / "soup" / "notes.txt").write_text("mine")
    with raises(ConfigError, where=copied / "soup", got=["notes.txt"]):
        _train(family, copied, 2)
    assert (copied / "soup" / "notes.txt").read_text() == "mine"


def test_the_recipe_reproduces_its_bits(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this package, and by mergekit's own command in the folder; a `base` elsewhere is none."""
    monkeypatch.chdir(three)
    out = {"merge": tmp_path / "merge", "exec mergekit-yaml": tmp_path / "stock"}
    for command, folder in out.items():
        words = [*command.split(), "soup.yml", str(folder), "--quiet"]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        assert _weights(folder) == _weights(three / "soup"), command


def test_another_base_in_the_working_directory(
    family: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(copied / "base", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert _train(family, Path("run"), 2)["runs"]["soup"]["of"] == list(MEMBERS[:2])


def test_the_base_of_all_seeds_is_one_with_its_random_head(tmp_path: Path) -> None:
    """Models that differed in their heads' initialisation, too, would be no soup."""
    changes = {"head": "random", "seeds": 2, "lora": False, "training": {"epochs": 0.1}}
    path = tiny.write_training(tmp_path, **changes, subgroups=False)
    train(load_train_config(path), tmp_path / "run", Silent(), "cpu")
    assert _is_mean(tmp_path / "run", MEMBERS[:2])
    assert not {"groups", "lora", "addition.yml"} & {p.name for p in (tmp_path / "run").iterdir()}
    base, *models = (
        load_tensors(tmp_path / "run" / name)["classifier.weight"]
        for name in ("base", *MEMBERS[:2])
    )
    for model in models:  # two steps of 5e-5 at most move no weight further
        torch.testing.assert_close(model, base, rtol=0, atol=1e-3)


@pytest.mark.parametrize("changes", [{"seeds": 0}, {"seeds": 2, "seed": 2**32 - 1}])
def test_seeds_that_cannot_be(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tiny.write_training(tmp_path, **changes)
    refusal(["train", path, "-o", tmp_path / "run"], ConfigError, "seeds", where="train.yml")


def test_a_record_whose_runs_are_no_mappings(family: Path, copied: Path) -> None:
    record = json.loads((copied / "train.json").read_text())
    record["runs"]["soup"] = 3
    (copied / "train.json").write_text(json.dumps(record))
    with raises(TrainingError, where=copied / "train.json"):
        _train(family, copied, 3)
