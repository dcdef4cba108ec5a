"""Batches of like length: every row once an epoch, the seed's order, states of other batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from mergekit_fair.progress import Silent
from mergekit_fair.training.base_model import file_sha256
from mergekit_fair.training.batches import batches_digest, length_grouped_batches
from mergekit_fair.training.family import train
from mergekit_fair.training.finetune import FamilyTrainer, TrainingRun
from mergekit_fair.training.train_config import load_train_config

LENGTHS = tuple(np.random.default_rng(0).integers(3, 60, 411).tolist())


@pytest.mark.parametrize("per_step", [1, 2, 6])
@pytest.mark.parametrize("n", [411, 384, 37, 5, 1])
def test_every_row_comes_once_an_epoch(n: int, per_step: int) -> None:
    steps = -(-n // (16 * per_step))
    batches = length_grouped_batches(LENGTHS[:n], 16, 3 * steps, 4, per_step)
    assert len(batches) == 3 * steps * per_step
    assert {len(batch) for batch in batches} <= set(range(1, 17))
    for epoch in range(3):
        part = batches[epoch * steps * per_step : (epoch + 1) * steps * per_step]
        rows = np.concatenate(part).tolist()
        assert set(rows) == set(range(n))
        # The last step has a row for each of its batches, whatever is left.
        assert len(rows) - n == max(0, per_step - (n - (steps - 1) * 16 * per_step))


def test_the_seed_decides_and_a_longer_run_begins_alike() -> None:
    def made(steps: int, seed: int) -> list[list[int]]:
        return [batch.tolist() for batch in length_grouped_batches(LENGTHS, 16, steps, seed)]

    assert made(60, 3)[:30] == made(30, 3)
    assert made(30, 3) != made(30, 4)
    epoch = 26  # of as many steps
    assert made(60, 3)[:epoch] != made(60, 3)[epoch : 2 * epoch]


def _padded(batches: list[np.ndarray]) -> float:
    """Tokens that a model reads for each that says something."""
    lengths = np.array(LENGTHS)
    read = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return read / sum(int(lengths[batch].sum()) for batch in batches)


def test_batches_hold_little_padding_and_no_trend() -> None:
    batches = length_grouped_batches(LENGTHS, 16, 26 * 8, 0)
    order = np.random.default_rng(1).permutation(411)
    assert _padded(batches) < 1.15 < 1.6 < _padded(np.array_split(order, 26))
    longest = [int(np.array(LENGTHS)[batch].max()) for batch in batches]
    assert abs(np.corrcoef(longest, np.arange(len(longest)) % 26)[0, 1]) < 0.2


def test_processes_get_batches_of_like_length_in_a_step() -> None:
    steps = np.array_split(np.array(length_grouped_batches(LENGTHS[:384], 16, 12, 0, 2)), 12)
    means = [[float(np.array(LENGTHS)[batch].mean()) for batch in step] for step in steps]
    assert max(abs(first - second) for first, second in means) < 12  # of 57


def test_pictures_have_no_length() -> None:
    first, second = (length_grouped_batches((1,) * 64, 16, 4, seed) for seed in (0, 1))
    assert batches_digest(first) != batches_digest(second)
    assert batches_digest(first[:2]) != batches_digest([np.concatenate(first[:2])])


def test_a_state_of_other_batches_is_not_gone_on_from(family: Path, tmp_path: Path) -> None:
    """As an earlier version has left one: without a word about its batches."""
    out = tmp_path / "run"
    shutil.copytree(family / "run", out)
    record = json.loads((out / "train.json").read_text())
    shutil.rmtree(out / "fft")
    for name in ("lora", "groups/blue"):
        del record["runs"][name]["batches"]
    (out / "train.json").write_text(json.dumps(record))
    state = out / ".work" / "fft" / "checkpoint-16"
    state.mkdir(parents=True)
    (state / "trainer_state.json").write_text('{"global_step": 16}')
    said: list[str] = []

    class Hearing(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    train(load_train_config(family / "train.yml"), out, Hearing(), "cpu")
    weights = [file_sha256(each / "fft" / "model.safetensors") for each in (out, family / "run")]
    assert weights[0] == weights[1]
    assert "fft: begins anew: what was left of it took other batches" in said
    assert sum("begins anew" in text for text in said) == 1
    (warning,) = [text for text in said if "earlier version" in text]
    assert warning.startswith("warning: lora, groups/blue: trained by an earlier version")
    said.clear()
    train(load_train_config(family / "train.yml"), out, Hearing(), "cpu")
    assert not any("earlier version" in text for text in said)  # nothing is trained


def test_no_state_is_saved_when_the_model_follows(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it is there, it is trained again from the last state."""
    out, config = tmp_path / "run", load_train_config(family / "train.yml")
    shutil.copytree(family / "run", out)
    shutil.rmtree(out / "lora")

    def killed(self: FamilyTrainer, model: Any, run: TrainingRun, folder: Path) -> None:
        if "step-" not in folder.name:
            raise KeyboardInterrupt
        FamilyTrainer.saved(self, model, run, folder)

    monkeypatch.setattr(FamilyTrainer, "saved", FamilyTrainer.save, raising=False)
    monkeypatch.setattr(FamilyTrainer, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, out, Silent(), "cpu")
    states = [path.name for path in (out / ".work" / "lora").glob("checkpoint-*")]
    assert states
    assert "checkpoint-32" not in states  # of 32 steps
    monkeypatch.undo()
    train(config, out, Silent(), "cpu")
    weights = [file_sha256(each / "lora" / "model.safetensors") for each in (out, family / "run")]
    assert weights[0] == weights[1]


def test_accumulated_gradients_take_as_many_rows_a_step(tmp_path: Path) -> None:
    training = {"batch_size": 8, "epochs": 1, "arguments": {"gradient_accumulation_steps": 3}}
    file = tiny.write_training(tmp_path, training=training, lora=False, subgroups=False)
    record = train(load_train_config(file), tmp_path / "run", Silent(), "cpu")
    assert record["runs"]["fft"]["steps"] == 11  # 253 rows
    assert record["runs"]["fft"]["train_loss"] > 0
