"""Reweighing and group DRO on cases whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from refusals import raises, refusal
from torch import nn

from mergekit_fair.data import Rows
from mergekit_fair.errors import ConfigError, TrainingError
from mergekit_fair.training.group_cells import REST, group_members, reweighing
from mergekit_fair.training.row_losses import GroupRobust, RowWeighted, row_losses
from mergekit_fair.training.train_config import load_train_config


def rows_of(labels: Any, inside: Any, excluded: frozenset[str] = frozenset()) -> Rows:
    labels, inside = np.asarray(labels, np.int8), np.asarray(inside, bool)
    return Rows(
        name="rows", kind="text", inputs=("",) * len(labels), labels=labels,
        group_names=("a", "b")[: inside.shape[1]], excluded=excluded, membership=inside,
        split=np.array(["train"] * len(labels)), ids=np.arange(len(labels)),
        label_names=("x", "y") if labels.ndim == 2 else (),
    )  # fmt: skip


def test_weighted_labels_are_independent_of_overlapping_groups() -> None:
    draw = np.random.default_rng(0)
    inside = draw.random((400, 2)) < 0.5
    labels = (draw.random((400, 2)) < 0.3 + 0.4 * inside[:, :1]).astype(np.int8)
    rows = rows_of(labels, inside)
    weights = reweighing(rows)
    assert weights.shape == (400, 2)
    assert weights.mean(axis=0) == pytest.approx(1)
    for label, weight in zip(labels.T, weights.T, strict=True):
        for group in (inside[:, 0], inside[:, 1], ~inside.any(axis=1)):
            share = np.average(label[group], weights=weight[group])
            assert share == pytest.approx(label.mean())


def test_a_group_with_one_label_is_weighed_as_it_can_be() -> None:
    weights = reweighing(rows_of([1, 1, 1, 0], [[1, 0], [1, 0], [0, 1], [0, 1]]))
    assert weights.ravel() == pytest.approx(np.array([0.75, 0.75, 1.5, 0.5]) / 0.875)


def test_rows_without_a_group_are_one_and_excluded_groups_are_none() -> None:
    inside = [[1, 0], [1, 1], [0, 1], [0, 0]]
    members = group_members(rows_of([0, 1, 0, 1], inside))
    assert {name: of.tolist() for name, of in members.items()} == {
        "a": [True, True, False, False],
        "b": [False, True, True, False],
        REST: [False, False, False, True],
    }
    members = group_members(rows_of([0, 1, 0, 1], inside, frozenset({"b"})))
    assert {name: int(of.sum()) for name, of in members.items()} == {"a": 2, REST: 2}
    with raises(TrainingError, got=["a"], where="rows"):
        group_members(rows_of([0, 1], [[1], [1]]))


class Constant(nn.Module):
    """Logits (0, bias) of every row."""

    config = None

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 1))

    def forward(self, x: torch.Tensor) -> Any:
        column = self.bias.expand(len(x), 1)

        class Output(dict[str, Any]):
            logits = torch.cat([torch.zeros_like(column), column], dim=1)

        return Output()


def fitted(model: Any, **batch: torch.Tensor) -> float:
    """p(1) where the loss is least."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(500):
        optimiser.zero_grad()
        model(x=torch.zeros(100, 1), **batch)["loss"].backward()
        optimiser.step()
    return float(model.model.bias.detach().sigmoid())


# 90 rows of a, 81 of them positive; 10 of b, one of them positive.
LABELS = torch.tensor([1] * 81 + [0] * 9 + [1] + [0] * 9)
GROUPS = torch.zeros(100, 2)
GROUPS[:90, 0] = GROUPS[90:, 1] = 1


def test_dro_makes_the_groups_losses_equal() -> None:
    """Mirror images of each other are equally well off at ½, whatever their sizes; all rows as one
    are best served at their mean."""
    model = GroupRobust(Constant(), {"a": 90, "b": 10}, 100, step=0.1, adjustment=0.0)
    assert fitted(model, labels=LABELS, row_groups=GROUPS) == pytest.approx(0.5, abs=0.01)
    assert model.group_weights() == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.05)
    plain = fitted(RowWeighted(Constant()), labels=LABELS, row_weights=torch.ones(100, 1))
    assert plain == pytest.approx(0.82, abs=1e-4)


def test_reweighing_keeps_the_base_rate() -> None:
    rows = rows_of(LABELS.numpy(), GROUPS.numpy())
    weights = torch.from_numpy(reweighing(rows))
    found = fitted(RowWeighted(Constant()), labels=LABELS, row_weights=weights)
    assert found == pytest.approx(0.82, abs=1e-4)


def test_one_step_of_dro_by_hand() -> None:
    """Two rows of which the second is in both groups, at p = ½: every loss is log 2."""
    model = GroupRobust(Constant(), {"a": 4, "b": 2}, 8, step=2.0, adjustment=3.0)
    row_groups = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    loss = model(x=torch.zeros(2, 1), labels=torch.tensor([0, 1]), row_groups=row_groups)["loss"]
    log2 = np.log(2)
    of_groups = np.array([log2 / (4 / 8), (log2 / 2) / (2 / 8)])
    q = np.exp(2.0 * (of_groups + 3.0 / np.sqrt([4, 2])))
    q /= q.sum()
    assert list(model.group_weights().values()) == pytest.approx(q, rel=1e-5)
    assert loss.item() == pytest.approx(q @ of_groups, rel=1e-5)
    state = model.state_dict()
    other = GroupRobust(Constant(), {"a": 4, "b": 2}, 8, step=2.0, adjustment=3.0)
    assert not other.load_state_dict(state, False).missing_keys
    assert other.group_weights() == model.group_weights()
    model.eval()(x=torch.zeros(2, 1), labels=torch.tensor([0, 1]), row_groups=row_groups)
    assert other.group_weights() == model.group_weights()  # only training moves them


def test_losses_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    several = torch.randint(0, 2, (5, 3)).float()
    torch.testing.assert_close(
        row_losses(logits, classes).mean(), nn.functional.cross_entropy(logits, classes)
    )
    torch.testing.assert_close(
        row_losses(logits, several).mean(),
        nn.functional.binary_cross_entropy_with_logits(logits, several),
    )


@pytest.mark.parametrize(
    ("changes", "shows"),
    [
        ({"talos": {"share": 0}}, ["talos.share: ", "got 0"]),
        ({"talos": {"share": 1.5}}, ["talos.share: ", "got 1.5"]),
        ({"talos": {"share": float("nan")}}, ["talos.share: ", "nan"]),
        ({"talos": {"rows": 0}}, ["talos.rows: "]),
        ({"talos": {"shrae": 0.1}}, ["'shrae'", "'share'?"]),
        ({"talos": True}, ["talos: ", "got True"]),
        ({"sparse": {"gates": "tensor"}}, ["sparse.gates: ", "'weight' or 'layer'"]),
        ({"sparse": {"penalty": float("inf")}}, ["sparse.penalty: "]),
        ({"dro": {"step": 0}}, ["dro.step: "]),
        ({"dro": {"adjustment": -1}}, ["dro.adjustment: ", "got -1"]),
        ({"tangent": {"learning_rate": 0}}, ["tangent.learning_rate: "]),
        ({"subgroups": {"method": "dro"}}, ["subgroups: ", "dro"]),
        ({"subgroups": {"method": "reweight"}}, ["subgroups: ", "reweight"]),
        (
            {"dro": {}, "training": {"arguments": {"label_smoothing_factor": 0.1}}},
            ["label_smoothing_factor", "dro"],
        ),
        (
            {
                "subgroups": {"method": "sparse"},
                "training": {"arguments": {"label_smoothing_factor": 0.1}},
            },
            ["label_smoothing_factor", "sparse"],
        ),
    ],
)
def test_bad_settings_name_file_and_key(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], shows: list[str]
) -> None:
    path = tiny.write_training(tmp_path_factory.getbasetemp() / "settings", **changes)
    with raises(ConfigError, *shows, where=path):
        load_train_config(path)


@pytest.mark.parametrize("kind", ["reweight", "dro"])
def test_one_group_is_refused_before_anything_is_trained(tmp_path: Path, kind: str) -> None:
    block = tiny.data_block(tmp_path / "rows.csv", groups={"column": "group", "only": ["blue"]})
    file = tiny.write_training(tmp_path, data=block, subgroups=False, **{kind: {}})
    text = (tmp_path / "rows.csv").read_text().replace("green", "blue")
    (tmp_path / "rows.csv").write_text(text)
    refusal(["train", file, "-o", tmp_path / "run"], TrainingError, "blue", where="tiny")
    assert not (tmp_path / "run" / "base").exists()
