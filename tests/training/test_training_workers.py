"""Models trained side by side on Ray: the weights are those of one after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from refusals import raises, refusal
from safetensors.torch import load_file, save_file

from mergekit_fair.errors import ConfigError, TrainingError
from mergekit_fair.progress import Silent
from mergekit_fair.ray_pool import Cluster
from mergekit_fair.training import family as family_module
from mergekit_fair.training.base_model import file_sha256
from mergekit_fair.training.family import train
from mergekit_fair.training.train_config import load_train_config

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
MODELS = ("base", "fft", "lora", "groups/blue", "groups/green")


def _cluster(workers: int = 2) -> Cluster:
    """Workers with as many threads as the family was trained with here."""
    return Cluster(workers=workers, cpus=torch.get_num_threads())


def _require_alike(out: Path, family: Path) -> None:
    assert list(json.loads((out / "train.json").read_text())["runs"]) == list(MODELS)
    for name in MODELS:
        files = [each / name / "model.safetensors" for each in (out, family / "run")]
        assert file_sha256(files[0]) == file_sha256(files[1]), name
    assert (out / "addition.yml").read_bytes() == (family / "run" / "addition.yml").read_bytes()
    assert not (out / ".work").exists()


@pytest.mark.slow
def test_two_workers_train_the_same_family(family: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    config, out = load_train_config(family / "train.yml"), tmp_path / "run"
    record = train(config, out, Silent(), "cpu", _cluster())
    _require_alike(out, family)
    expected = json.loads((family / "run" / "train.json").read_text())
    for name, run in record["runs"].items():
        assert run | {"seconds": 0} == expected["runs"][name] | {"seconds": 0}
    # Nothing is missing: no cluster is asked for.
    train(config, out, Silent(), "cpu", Cluster(workers=2, gpus=99))


@pytest.mark.slow
def test_killed_workers_are_gone_on_from(family: Path, tmp_path: Path) -> None:
    """kill -9 of the command as soon as a state lies on the disk; the same command goes on."""
    pytest.importorskip("ray")
    out, threads = tmp_path / "run", str(torch.get_num_threads())
    command = [sys.executable, "-m", "mergekit_fair", "train", str(family / "train.yml")]
    command += ["-o", str(out), "--quiet", "--executor", "ray", "--cpus", threads]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 240
    while not list((out / ".work").glob("*/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while (
        again := subprocess.run(command, capture_output=True, text=True, check=False)
    ).returncode:
        assert "another process is working in this folder" in again.stderr  # a worker still is
        assert time.monotonic() < deadline
        time.sleep(1)
    _require_alike(out, family)


@pytest.mark.slow
def test_an_error_of_a_worker_comes_back_as_itself(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    file = tiny.write_training(tmp_path, head="random", training={"epochs": 0.1})
    weights = tmp_path / "encoder" / "model.safetensors"
    tensors = load_file(weights)
    tensors["embeddings.word_embeddings.weight"][5:] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    config = load_train_config(file)
    with raises(TrainingError, "has diverged", where="fft"):
        train(config, tmp_path / "run", Silent(), "cpu", _cluster(1))
    assert not (tmp_path / "run" / "fft").exists()


def test_a_launcher_and_ray_are_two_ways(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = SimpleNamespace(is_main_process=True, num_processes=2)
    monkeypatch.setattr(family_module, "process_state", lambda: state)
    with raises(ConfigError, where="--executor ray", got="2 processes"):
        train(load_train_config(family / "train.yml"), tmp_path / "run", Silent(), "cpu", Cluster())
    assert not (tmp_path / "run").exists()


def test_ray_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["train", tiny.write_training(tmp_path, head="random"), "-o", tmp_path / "run"]
    refusal([*words, "--executor", "ray", "--quiet"], ConfigError, fix="mergekit-fair[ray]")


@pytest.mark.parametrize("option", ["--workers", "--cpus", "--gpus"])
def test_options_of_ray_without_it_are_refused(tmp_path: Path, option: str) -> None:
    words = ["train", tiny.write_training(tmp_path), "-o", tmp_path / "run", option, "2"]
    refusal(words, ConfigError, where=option, fix="--executor ray")
    assert not (tmp_path / "run").exists()
