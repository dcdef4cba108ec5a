"""Kinds that train a part of the weights: what is frozen is the base's to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.progress import Silent
from mergekit_fair.training.family import train
from mergekit_fair.training.train_config import load_train_config

# Strong weight decay: what it reached would not stay what it was.
TRAINING = {"learning_rate": 3e-3, "batch_size": 16, "epochs": 2, "weight_decay": 0.5}


class Killed(BaseException):
    pass


class Interrupted(Silent):
    """Progress that ends a run at a step."""

    def __init__(self, run: str, step: int) -> None:
        self.run, self.step, self.now, self.done = run, step, "", 0

    def start(self, name: str, total: int) -> None:
        del total
        self.now, self.done = name, 0

    def advance(self, count: int = 1) -> None:
        self.done += count
        if (self.now, self.done) == (self.run, self.step):
            raise Killed


def write(folder: Path, **changes: Any) -> Path:
    """A training file without LoRA and subgroups."""
    settings = {"training": TRAINING, "lora": False, "subgroups": False, **changes}
    return tiny.write_training(folder, **settings)


def changed(run: Path, name: str) -> dict[str, torch.Tensor]:
    """Tensor → where its bits are not those of the base."""
    base, model = load_tensors(run / "base"), load_tensors(run / name)
    assert base.keys() == model.keys()
    return {key: base[key].view(torch.int32) != model[key].view(torch.int32) for key in base}


@pytest.fixture(scope="module")
def talos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talos")
    subgroups = {"method": "talos", "min_rows": 20}
    path = write(folder, talos={"share": 0.2, "rows": 16}, subgroups=subgroups)
    train(load_train_config(path), folder / "run", Silent(), "cpu")
    return folder


def test_talos_trains_its_share_and_nothing_else(talos: Path) -> None:
    record = train(load_train_config(talos / "train.yml"), talos / "run", Silent(), "cpu")
    for name in ("talos", "groups/blue", "groups/green"):
        moved = changed(talos / "run", name)
        scored = sum(each.numel() for key, each in moved.items() if "_embeddings." not in key)
        trained = record["runs"][name]["trained"]
        assert trained == round(0.2 * scored)
        assert not any(each.any() for key, each in moved.items() if "_embeddings." in key)
        # A key's bias moves no prediction at all, and decay leaves a bias alone.
        assert 0.9 * trained < sum(int(each.sum()) for each in moved.values()) <= trained


@pytest.mark.parametrize("gates", ["weight", "layer"])
def test_gates_that_close_leave_the_base_behind_them(tmp_path: Path, gates: str) -> None:
    """Only the one that a known layer needs stays open: half of the labels are what it says."""
    speed = {"gate_learning_rate": 0.4, "penalty": 0.03}
    config = load_train_config(write(tmp_path, sparse={"gates": gates, **speed}))
    record = train(config, tmp_path / "run", Silent(), "cpu")
    moved = changed(tmp_path / "run", "sparse")
    share = sum(int(each.sum()) for each in moved.values()) / sum(x.numel() for x in moved.values())
    print(share, record["runs"])
    assert 0 < share <= record["runs"]["sparse"]["open"] < 1
    if gates == "layer":
        for layer in {name.rpartition(".")[0] for name in moved}:
            of_layer = [each for name, each in moved.items() if name.rpartition(".")[0] == layer]
            print(layer, [float(e.float().mean()) for e in of_layer])


@pytest.mark.parametrize("kind", ["talos", "sparse", "tangent", "dro"])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, kind: str) -> None:
    blocks: dict[str, dict[str, Any]] = {
        "talos": {"rows": 8},
        "sparse": {},
        "tangent": {},
        "dro": {"step": 0.5},
    }
    config = load_train_config(write(tmp_path, **{kind: blocks[kind]}))
    train(config, tmp_path / "whole", Silent(), "cpu")
    with pytest.raises(Killed):
        train(config, tmp_path / "run", Interrupted(kind, 20), "cpu")
    assert list((tmp_path / "run" / ".work" / kind).glob("checkpoint-*/model.safetensors"))
    assert not (tmp_path / "run" / kind).exists()
    train(config, tmp_path / "run", Silent(), "cpu")
    whole, again = (load_tensors(tmp_path / name / kind) for name in ("whole", "run"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert any(each.any() for each in changed(tmp_path / "run", kind).values())
