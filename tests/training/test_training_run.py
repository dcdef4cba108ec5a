"""A trained family: what lies in the folder, what is refused, and resuming after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from adapters import is_close, theta
from refusals import raises
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from mergekit_fair.data import Rows, load_rows
from mergekit_fair.errors import CheckpointError, ConfigError, TrainingError
from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.progress import Silent
from mergekit_fair.schema import differences
from mergekit_fair.training.base_model import build_base, file_sha256
from mergekit_fair.training.family import plan_runs, steps_for, train
from mergekit_fair.training.finetune import last_state
from mergekit_fair.training.train_config import Subgroups, TrainConfig, load_train_config
from mergekit_fair.training.training_rows import small_groups, subgroups

MODELS = ("base", "fft", "lora", "groups/blue", "groups/green")


def test_every_model_loads_with_nothing_missing(family: Path) -> None:
    for name in MODELS:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            family / "run" / name, output_loading_info=True
        )
        assert model.config.num_labels == 2
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        AutoTokenizer.from_pretrained(family / "run" / name)


def test_train_json_says_what_was_done(family: Path) -> None:
    record = json.loads((family / "run" / "train.json").read_text())
    assert list(record["runs"]) == list(MODELS)
    full, group = record["runs"]["fft"], record["runs"]["groups/blue"]
    assert full["steps"] == group["steps"] == 32  # 253 rows, batches of 16, 2 epochs; matched
    assert (full["n"], group["n"]) == (253, 118)
    assert 0 < group["n_pos"] < 118
    assert full["seconds"] > 0
    assert record["versions"]["torch"] == version("torch")
    assert record["source"]["sha256"] == file_sha256(family / "rows.csv")
    assert record["runs"]["base"]["sha256"] == file_sha256(
        family / "run" / "base" / "model.safetensors"
    )
    assert not (family / "run" / ".work").exists()
    # Families of earlier versions say nothing of epochs that are FFT's.
    assert "epochs" not in record["settings"]["lora"]


def test_a_model_in_half_precision_is_trained_in_float32(tmp_path: Path) -> None:
    """There a step of 1e-5 is less than half the distance of neighbouring numbers near 0.02."""
    path = tiny.write_training(tmp_path, head="random")
    encoder = tmp_path / "encoder"
    AutoModel.from_pretrained(encoder).to(torch.bfloat16).save_pretrained(encoder)
    half, config = load_tensors(encoder), load_train_config(path)
    assert {each.dtype for each in half.values()} == {torch.bfloat16}
    (tmp_path / "base").mkdir()
    build_base(config, load_rows(config.data).of("train"), tmp_path / "base", "cpu")
    base = load_tensors(tmp_path / "base")
    assert {each.dtype for each in base.values()} == {torch.float32}
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(base[f"bert.{name}"], half[name].float())
    assert AutoConfig.from_pretrained(tmp_path / "base").dtype == torch.float32


def test_early_checkpoints_are_models(family: Path) -> None:
    early = family / "run" / "groups" / "blue" / "checkpoints" / "step-16"
    model = AutoModelForSequenceClassification.from_pretrained(early).state_dict()
    end = load_tensors(family / "run" / "groups" / "blue")
    assert not torch.equal(model["classifier.weight"], end["classifier.weight"])


def test_lora_keeps_its_adapter_and_changes_only_its_targets(family: Path) -> None:
    base, lora = load_tensors(family / "run" / "base"), load_tensors(family / "run" / "lora")
    changed = {name for name in base if not torch.equal(base[name], lora[name])}
    assert changed == {
        name
        for name in base
        if name.startswith("classifier") or name.endswith(("query.weight", "value.weight"))
    }
    assert (family / "run" / "lora" / "adapter" / "adapter_config.json").is_file()


def test_probe_head_is_the_logistic_regression_on_the_base_features(family: Path) -> None:
    """λ = 0 is a classifier: the base predicts its training rows better than the prior."""
    from gaps import logit_gaps
    from transformers import AutoModelForSequenceClassification

    rows = load_rows(load_train_config(family / "train.yml").data).of("train")
    folder = family / "run" / "base"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = logit_gaps(model, rows, folder, 16)
    correct = ((found > 0) == rows.labels).mean()
    assert correct > max(rows.labels.mean(), 1 - rows.labels.mean()) + 0.05
    # At the optimum of a logistic regression with intercept, mean probability = base rate.
    assert np.isclose((1 / (1 + np.exp(-found))).mean(), rows.labels.mean(), atol=1e-3)


def test_a_second_call_trains_nothing(family: Path) -> None:
    before = {
        name: (family / "run" / name / "model.safetensors").stat().st_mtime for name in MODELS
    }
    train(load_train_config(family / "train.yml"), family / "run", Silent(), "cpu")
    after = {name: (family / "run" / name / "model.safetensors").stat().st_mtime for name in MODELS}
    assert before == after


def test_other_settings_are_refused_by_name(family: Path, tmp_path: Path) -> None:
    config = load_train_config(family / "train.yml")
    other = config.model_copy(update={"seed": 7})
    with pytest.raises(TrainingError, match=r"was trained with other settings: seed: 0 → 7"):
        train(other, family / "run", Silent(), "cpu")
    (tmp_path / "something").write_text("")
    with pytest.raises(TrainingError, match=r"is not empty and holds no train\.json"):
        train(config, tmp_path, Silent(), "cpu")


def test_what_was_left_out_is_trained_later(family: Path, tmp_path: Path) -> None:
    """Then its settings are the folder's, also while it is left out again."""
    config = load_train_config(family / "train.yml")
    out = tmp_path / "run"
    shutil.copytree(family / "run", out)
    for name in ("lora", "groups"):
        shutil.rmtree(out / name)
    (out / "addition.yml").unlink()
    record = json.loads((out / "train.json").read_text())
    runs = {name: record["runs"][name] for name in ("base", "fft")}
    settings = record["settings"] | {"lora": False, "subgroups": False}
    (out / "train.json").write_text(json.dumps(record | {"runs": runs, "settings": settings}))
    without = config.model_copy(update={"lora": False, "subgroups": False})
    assert set(train(without, out, Silent(), "cpu")["runs"]) == {"base", "fft"}
    few = Subgroups(only=["blue"], epochs=0.1)
    later = without.model_copy(update={"subgroups": few})
    assert set(train(later, out, Silent(), "cpu")["runs"]) == {"base", "fft", "groups/blue"}
    assert (out / "addition.yml").is_file()
    train(without, out, Silent(), "cpu")
    with raises(TrainingError, "subgroups.epochs: 0.1 → ", where=out):
        train(config, out, Silent(), "cpu")


def test_adapters_are_kept_as_they_are(family: Path, tmp_path: Path) -> None:
    """What is trained is the same; what is there is not made anew, what a kill has left out is."""
    out, config = tmp_path / "run", load_train_config(family / "train.yml")
    shutil.copytree(family / "run", out, ignore=shutil.ignore_patterns("lora", "groups", "*.yml"))
    record = json.loads((out / "train.json").read_text())
    record["settings"] |= {"lora": False, "subgroups": False}
    record["runs"] = {name: record["runs"][name] for name in ("base", "fft")}
    (out / "train.json").write_text(json.dumps(record))
    assert config.lora
    adapters = config.model_copy(
        update={
            "lora": config.lora.model_copy(update={"keep": "adapter"}),
            "subgroups": Subgroups(method="lora", keep="adapter", min_rows=20),
        }
    )
    record = train(adapters, out, Silent(), "cpu")
    assert list(record["runs"]) == list(MODELS)
    assert (out / "groups" / "blue" / ".train_rows.npz").is_file()
    own, merged = out / "lora", family / "run" / "lora"
    files = [folder / "adapter_model.safetensors" for folder in (own, merged / "adapter")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (own / "config.json").exists()
    AutoTokenizer.from_pretrained(own)
    named = json.loads((own / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(named) == (out / "base").resolve()
    assert is_close(theta(out / "base", own), load_tensors(merged), rtol=1e-5, atol=1e-6)

    shutil.rmtree(out / "groups" / "green")
    before = (out / "groups" / "blue" / "adapter_model.safetensors").stat()
    assert train(adapters, out, Silent(), "cpu")["runs"].keys() == record["runs"].keys()
    assert (out / "groups" / "blue" / "adapter_model.safetensors").stat() == before
    assert (out / "groups" / "green" / "adapter_config.json").is_file()
    recipe = Recipe.load(out / "addition.yml")
    assert all(model.lora for model in recipe.configuration().referenced_models()[1:])
    whole = adapters.model_copy(update={"subgroups": Subgroups(method="lora", min_rows=20)})
    with raises(TrainingError, "subgroups.keep", where=out):
        train(whole, out, Silent(), "cpu")


def test_two_trainings_in_one_folder_are_refused(family: Path, tmp_path: Path) -> None:
    from mergekit_fair.files import lock_folder

    with (
        lock_folder(tmp_path),
        pytest.raises(ConfigError, match="another process is working in this folder"),
    ):
        train(load_train_config(family / "train.yml"), tmp_path, Silent(), "cpu")


def _config(folder: Path, **changes: object) -> TrainConfig:
    return load_train_config(tiny.write_training(folder, **changes))


def test_small_groups_and_groups_of_one_class_are_named(tmp_path: Path) -> None:
    config = _config(tmp_path, subgroups={"min_rows": 136})
    rows = load_rows(config.data).of("train")
    with pytest.raises(TrainingError) as caught:
        subgroups(config, rows)
    assert "'blue' has 118 training rows; 'green' has 135 training rows" in str(caught.value)
    assert "lower min_rows" in str(caught.value)
    blue = rows.membership[:, rows.group_names.index("blue")]
    kept = rows.take(np.flatnonzero(~blue | (rows.labels == 1)))
    with pytest.raises(TrainingError, match=r"1 of 2 groups: 'blue' has only class 1"):
        subgroups(_config(tmp_path), kept)
    with pytest.raises(TrainingError, match=r"names no group; got 'red'; allowed: blue, green"):
        subgroups(_config(tmp_path, subgroups={"only": ["red"]}), rows)


def test_steps_match_or_follow_epochs(tmp_path: Path) -> None:
    config = _config(tmp_path, subgroups={"epochs": 1, "min_rows": 20}, lora=False)
    rows = load_rows(config.data).of("train")
    runs = plan_runs(config, rows, ["blue", "green"])
    assert [(run.name, run.steps) for run in runs] == [
        ("fft", 32),
        ("groups/blue", 8),
        ("groups/green", 9),
    ]
    assert steps_for(config, rows=33, epochs=1, processes=2) == 2


def test_differences_are_dotted_and_two_sided() -> None:
    old = {"a": {"b": 1, "c": 2}, "gone": 3}
    assert differences(old, {"a": {"b": 1, "c": 5}, "new": 4}) == [
        "a.c: 2 → 5",
        "gone: 3 → –",
        "new: – → 4",
    ]


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    config = _config(tmp_path, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="not the weights that the training file names"):
        train(config, tmp_path / "out", Silent(), "cpu")
    assert not (tmp_path / "out" / "base").exists()


def test_arguments_that_transformers_refuses(tmp_path: Path) -> None:
    training = {"arguments": {"optim": "sgdd"}, "epochs": 1}
    with pytest.raises(TrainingError) as caught:
        train(_config(tmp_path, training=training), tmp_path / "out", Silent(), "cpu")
    assert str(caught.value).startswith("training.arguments: transformers refuses these settings")
    assert "got {'optim': 'sgdd'}" in str(caught.value)


def test_half_written_states_are_passed_over(tmp_path: Path) -> None:
    assert last_state(tmp_path) is None
    for step, text in ((4, "{}"), (12, "{}"), (16, '{"epoch"')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-20").mkdir()
    assert last_state(tmp_path) == str(tmp_path / "checkpoint-12")
    assert not (tmp_path / "checkpoint-16").exists()


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(family: Path, tmp_path: Path) -> None:
    """kill -9 as soon as a Trainer state of LoRA and of a group lies on the disk."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "mergekit_fair", "train", str(family / "train.yml")]
    for state in ("lora", "groups--green"):
        process = subprocess.Popen([*command, "-o", str(out), "--quiet"])
        deadline = time.monotonic() + 240
        while not list((out / ".work" / state).glob("checkpoint-*/trainer_state.json")):
            assert process.poll() is None, "training ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / state.replace("--", "/")).exists()
    train(load_train_config(family / "train.yml"), out, Silent(), "cpu")
    for name in MODELS:
        expected = file_sha256(family / "run" / name / "model.safetensors")
        assert file_sha256(out / name / "model.safetensors") == expected, name


def test_small_groups_are_said_when_the_data_are_read() -> None:
    """Of both splits that are evaluated, with what there is too little of."""
    sizes = {"train": (200, 9), "validation": (100, 12), "report": (100, 40)}
    split = np.repeat(list(sizes), [sum(each) for each in sizes.values()])
    inside = np.concatenate([np.repeat([0, 1], each) for each in sizes.values()])
    rows = Rows(
        name="r", kind="text", inputs=("x",) * len(split),
        labels=(np.arange(len(split)) % 2).astype(np.int8),
        group_names=("many", "few"), excluded=frozenset(),
        membership=np.stack([inside == 0, inside == 1], axis=1),
        split=split, ids=np.arange(len(split)),
    )  # fmt: skip
    validation, report = small_groups(rows)
    assert validation.startswith("validation rows: ")
    assert "'few' (12 rows)" in validation
    assert "no two groups are left for DPD and EOD" in validation
    assert report.startswith("report rows: ")
    assert "'few' (20 positive rows: too few for TPR, 20 negative rows" in report
    assert "no two groups are left for EOD" in report
