"""Kinds that train a part of the weights, or another model of them: on the smallest cases, and in a
family, where what is frozen is the base's to the bit."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner
from refusals import raises, refusal
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError, TrainingError
from mergekit_fair.evaluation.linearised import linearised_logits
from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.progress import Silent
from mergekit_fair.training.family import train
from mergekit_fair.training.part_models import ChosenWeights, GatedWeights, TangentWeights
from mergekit_fair.training.sensitivity import fisher_scores
from mergekit_fair.training.train_config import load_train_config

# Strong weight decay: what it reached would not stay what it was.
TRAINING = {"learning_rate": 3e-3, "batch_size": 16, "epochs": 2, "weight_decay": 0.5}
KINDS: dict[str, dict[str, Any]] = {
    "talos": {"share": 0.2, "rows": 16},
    "sparse": {"gate_learning_rate": 0.4, "penalty": 0.03},
    "tangent": {},
    "dro": {"step": 0.5},
}


class TwoLayers(nn.Module):
    """Logits (0, needed · x) + idle · 0: a classifier of which one layer says nothing."""

    config: Any = None
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.needed, self.idle = nn.Linear(1, 1, bias=False), nn.Linear(1, 1)
        with torch.no_grad():
            for each in self.parameters():
                each.fill_(-0.0)

    def set_attn_implementation(self, name: str) -> None:
        del name

    def forward(self, x: torch.Tensor, labels: Any = None) -> SequenceClassifierOutput:
        last = self.needed(x) + self.idle(torch.zeros_like(x)) * 0
        logits = torch.cat([torch.zeros_like(last), last], dim=1)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


X = torch.tensor([[1.0], [2.0], [-1.0], [-2.0]])
Y = torch.tensor([1, 1, 0, 0])


@pytest.mark.parametrize("layers", [False, True])
def test_the_gate_of_what_says_nothing_closes(layers: bool) -> None:
    base = TwoLayers()
    gates = {
        name: (f"{name.partition('.')[0]}.gate", torch.Size()) if layers else (name, each.shape)
        for name, each in base.named_parameters()
    }
    model = GatedWeights(base, gates, penalty=0.3, speed=10.0).train()
    torch.manual_seed(0)
    adam = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(200):
        adam.zero_grad()
        model(x=X, labels=Y).loss.backward()
        adam.step()
    whole = model.whole()
    assert whole.needed.weight.item() > 0.5
    for each in whole.idle.parameters():  # −0 is not 0 to the bit
        assert torch.signbit(each).all()
        assert (each == 0).all()
    assert model.open_share() == pytest.approx(1 / 3)
    assert model.training  # as it was


def test_a_penalty_of_all_closes_all_and_of_nothing_none() -> None:
    base = TwoLayers()
    gates = {name: (name, each.shape) for name, each in base.named_parameters()}
    for penalty, share in ((1e3, 0.0), (1e-9, 1.0)):
        model = GatedWeights(base, gates, penalty, speed=10.0)
        adam = torch.optim.AdamW(model.parameters(), lr=0.02)
        for _ in range(60):
            adam.zero_grad()
            model(x=X, labels=Y).loss.backward()
            adam.step()
        assert model.open_share() == share


def test_a_model_that_is_linear_in_its_weights_is_its_own_tangent_model() -> None:
    base = TwoLayers()
    model = TangentWeights(base)
    model.values.get_submodule("needed").weight.data.fill_(3.0)
    whole = model.whole()
    torch.testing.assert_close(model(x=X)["logits"], whole(x=X).logits)
    model(x=X, labels=Y)["loss"].backward()
    whole.zero_grad()
    whole(x=X, labels=Y).loss.backward()
    torch.testing.assert_close(
        model.values.get_submodule("needed").weight.grad, whole.needed.weight.grad
    )
    assert base.needed.weight.item() == 0


def test_a_choice_that_was_made_before_a_kill_counts() -> None:
    before = ChosenWeights(TwoLayers(), {"idle.weight": torch.tensor([0])})
    before.values.get_submodule("idle").weight.data.fill_(5.0)
    after = ChosenWeights(TwoLayers(), {"needed.weight": torch.tensor([0])})
    assert not after.load_state_dict(before.state_dict(), False).missing_keys
    assert [name for name, each in after.named_parameters() if each.requires_grad] == [
        "values.idle.weight"
    ]
    assert after.whole().idle.weight.item() == 5


def test_scores_that_are_nan_are_refused() -> None:
    base = TwoLayers()
    base.config = SimpleNamespace(problem_type=None)
    base.needed.weight.data.fill_(float("nan"))
    with raises(TrainingError, got=["logits"], where="TwoLayers"):
        fisher_scores(base, [{"x": X[:1]}], seed=0)


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
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of all of `KINDS`, with groups' models of `talos`."""
    folder = tmp_path_factory.mktemp("kinds")
    subgroups = {"method": "talos", "min_rows": 20}
    path = write(folder, **KINDS, subgroups=subgroups, checkpoints=[0.5])
    train(load_train_config(path), folder / "run", Silent(), "cpu")
    return folder


def test_talos_trains_its_share_and_nothing_else(kinds: Path) -> None:
    runs = json.loads((kinds / "run" / "train.json").read_text())["runs"]
    for name in ("talos", "groups/blue", "groups/green", "groups/blue/checkpoints/step-16"):
        moved = changed(kinds / "run", name)
        scored = sum(each.numel() for key, each in moved.items() if "_embeddings." not in key)
        trained = runs[name.partition("/checkpoints")[0]]["trained"]
        assert trained == round(0.2 * scored)
        assert not any(each.any() for key, each in moved.items() if "_embeddings." in key)
        # A key's bias moves no prediction at all, and decay leaves a bias alone.
        assert 0.9 * trained < sum(int(each.sum()) for each in moved.values()) <= trained


def test_closed_gates_leave_the_base_behind_them(kinds: Path) -> None:
    run = json.loads((kinds / "run" / "train.json").read_text())["runs"]["sparse"]
    moved = changed(kinds / "run", "sparse")
    share = sum(int(each.sum()) for each in moved.values()) / sum(x.numel() for x in moved.values())
    assert 0 < share <= run["open"] + 1e-6
    assert run["open"] < 1


def test_the_linear_model_is_what_is_measured_at_the_base(kinds: Path, tmp_path: Path) -> None:
    """Its logits at the base are the base's; between base and model they lie on a line."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = kinds / "run"
    tokens = AutoTokenizer.from_pretrained(run / "base")("the day was warm", return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(
        run / "base", attn_implementation="eager"
    )
    start = {name: each.detach() for name, each in model.named_parameters()}
    tuned = load_tensors(run / "tangent")
    with torch.no_grad():
        at = [
            linearised_logits(
                model, start, {k: start[k] + step * (tuned[k] - start[k]) for k in start}, tokens
            )
            for step in (0.0, 0.5, 1.0)
        ]
        torch.testing.assert_close(at[0], model(**tokens).logits)
    torch.testing.assert_close(at[0] + at[2], 2 * at[1], rtol=1e-4, atol=1e-5)

    (kinds / "data.yml").write_text(json.dumps(tiny.data_block(kinds / "rows.csv")))

    def scores(name: str, *options: object) -> Any:
        out = tmp_path / f"{name}{len(options)}"
        words = ["eval", "--model", run / name, "--data", kinds / "data.yml", "--device", "cpu"]
        words += ["--rows", "-o", out, "--max-length", 16, *options]
        result = CliRunner().invoke(main, tiny.words_of(*words))
        assert result.exit_code == 0, result.output
        lines = (out / "rows_tiny.csv").read_text().splitlines()
        return np.array([float(row["logit_gap"]) for row in csv.DictReader(lines)])

    linear = ("--model-args", f"linear_at={run / 'base'}")
    np.testing.assert_allclose(scores("base", *linear), scores("base"), atol=1e-4)
    as_trained, as_usual = scores("tangent", *linear), scores("tangent")
    assert np.abs(as_trained - as_usual).max() > 0.01
    words = ["eval", "--model", run / "fft", "--data", kinds / "data.yml", "-o", tmp_path / "no"]
    other = tiny.write_encoder(tmp_path / "encoder")
    words += ["--model-args", f"linear_at={other}"]
    refusal(words, CheckpointError, "classifier.weight", where=other)


def test_merges_of_linear_models_are_linear_in_lambda(kinds: Path, tmp_path: Path) -> None:
    from mergekit_fair.sweep.results import SweepResults
    from mergekit_fair.sweep.runner import run_sweep
    from mergekit_fair.sweep.store import ReadStore
    from mergekit_fair.sweep.sweep_config import load_sweep

    evaluate = {
        **{"data": tiny.data_block(kinds / "rows.csv"), "max_length": 16, "device": "cpu"},
        **{"min_group_size": 1, "model_args": {"linear_at": str(kinds / "run" / "base")}},
    }
    changes: dict[str, Any] = {"evaluate": evaluate, "inject": None, "controls": []}
    baselines = {"fft": str(kinds / "run" / "fft")}
    file = tiny.write_sweep(kinds, tmp_path / "sweep.yml", baselines=baselines, **changes)
    run_sweep(load_sweep(file), tmp_path / "out", Silent())
    store, points = ReadStore(tmp_path / "out"), SweepResults.load(tmp_path / "out").points
    none, half, one = (
        store.scores(point.id, "validation")
        for label in ("λ=0", "λ=0.5", "λ=1")
        for point in points
        if point.label == label
    )
    np.testing.assert_allclose(none + one, 2 * half, atol=1e-4)
    assert np.abs(one - none).max() > 0.01


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(kinds: Path, tmp_path: Path) -> None:
    """Of every kind, with the state that is its own: a choice, gates, weights of groups."""

    class Killed(BaseException):
        pass

    class Interrupted(Silent):
        def start(self, label: str, total: int) -> None:
            del total
            self.label, self.done = label, 0

        def advance(self, units: int) -> None:
            self.done += units
            if (self.label, self.done) == (kind, 20):
                raise Killed

    config = load_train_config(kinds / "train.yml").model_copy(update={"subgroups": False})
    out = tmp_path / "run"
    for kind in KINDS:
        with pytest.raises(Killed):
            train(config, out, Interrupted(), "cpu")
        assert list((out / ".work" / kind).glob("checkpoint-*/model.safetensors"))
        assert not (out / kind).exists()
    record = train(config, out, Silent(), "cpu")
    for kind in KINDS:
        whole, again = load_tensors(kinds / "run" / kind), load_tensors(out / kind)
        assert all(torch.equal(whole[name], again[name]) for name in whole), kind
    runs = json.loads((kinds / "run" / "train.json").read_text())["runs"]
    assert record["runs"]["dro"]["q"] == runs["dro"]["q"]
    assert record["runs"]["sparse"]["open"] == runs["sparse"]["open"]
