"""Learned numbers: slopes beside differences, known minima, what reads no label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from biased import GROUPS, write_biased
from checkpoints import fine_tune, rewrite
from scipy.optimize import approx_fprime, minimize

from mergekit_fair.checkpoints.names import memory_names
from mergekit_fair.data import load_spec
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.learn.coefficients import Array, CoefficientMap, shared_by
from mergekit_fair.learn.composed_model import ComposedModel
from mergekit_fair.learn.learning import RowGaps, Schedule, trajectory
from mergekit_fair.learn.objectives import GOALS, objective_of
from mergekit_fair.learn.posterior import PointNumbers, SpikeAndSlab
from mergekit_fair.merging.merge_options import MergeOptions
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.progress import Silent
from mergekit_fair.vectors.recipe_vectors import open_vectors

SETTINGS = MetricSettings(min_group_size=5)


def rows_of(n: int, seed: int = 0) -> Predictions:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, n)
    group = draw.integers(0, 3, n)
    rows = Predictions(
        "t",
        tuple(range(n)),
        labels.astype(np.int8),
        labels.astype(np.int8),
        {name: group == number for number, name in enumerate(GROUPS)},
        (),
        weights=draw.uniform(0.5, 2, n),
    )
    return rows.with_scores(labels + group - 1.5 + draw.normal(size=n))


@pytest.mark.parametrize("goal", GOALS)
def test_slopes_are_those_of_differences(goal: Any) -> None:
    rows = rows_of(60)
    chosen = np.random.default_rng(1).random(60) < 0.7
    objective = objective_of(goal, rows, chosen, SETTINGS, 3.0)
    gaps = rows.scores[chosen] + 0.3
    value, slope = objective(gaps)
    expected = approx_fprime(gaps, lambda z: objective(z)[0], 1e-6)
    assert np.isfinite(value)
    assert np.abs(slope).max() > 1e-4
    assert slope == pytest.approx(expected, abs=1e-6)


def test_entropy_reads_no_label_and_loss_does() -> None:
    rows = rows_of(60)
    turned = rows.take(np.ones(60, dtype=np.bool_))
    turned.labels[:] = 1 - turned.labels
    every = np.ones(60, dtype=np.bool_)
    for goal, is_same in (("entropy", True), ("loss", False)):
        value, other = (
            objective_of(goal, each, every, SETTINGS, 3.0)(rows.scores)[0]  # type: ignore[arg-type]
            for each in (rows, turned)
        )
        assert (value == other) == is_same


def test_a_gap_is_no_gain_by_selecting_nobody() -> None:
    """All rows far below the threshold have no gap, and cost more by their level."""
    rows = rows_of(400)
    every = np.ones(400, dtype=np.bool_)
    for goal in ("dpd", "eod"):
        objective = objective_of(goal, rows, every, SETTINGS, 3.0)  # type: ignore[arg-type]
        assert objective(rows.scores - 50)[0] > objective(rows.scores)[0] + 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("learn")
    return write_biased(folder, n=400)


def opened(base: Path, models: list[Path], data: Path, **parts: Any) -> tuple[Any, Any, Any]:
    """The composed model, the gaps of the validation rows, and these."""
    raw = {
        "merge_method": "subgroup_task_addition",
        "base_model": str(base),
        "models": [{"model": str(m), "parameters": {"group": m.name}} for m in models],
        **parts,
    }
    evaluator = Evaluator(EvaluationRequest(tasks=load_spec(data), batch_size=16))
    scorer = evaluator.open(str(base), "cpu")
    (labels,) = evaluator.binary_labels("validation").values()
    with open_vectors(Recipe.from_mapping(raw, "r"), MergeOptions(), Silent()) as vectors:
        composed = ComposedModel(
            scorer.model,
            vectors.base,
            list(vectors.models.values()),
            vectors.names,
            memory_names(base, vectors.base.tensors),
            lambda _: None,
        )
    return composed, RowGaps(scorer), labels


def all_gaps(composed: Any, gaps: Any, lambdas: Array) -> Array:
    composed.set(lambdas)
    return np.asarray(gaps.all(Silent(), ""))


def test_the_gradient_is_that_of_differences(model: Any, tmp_path: Path) -> None:
    base, data = model
    models = [fine_tune(base, tmp_path / f"m{n}", seed=n, size=0.05) for n in (1, 2)]
    composed, gaps, labels = opened(base, models, data)
    first = np.random.default_rng(0).uniform(0.2, 0.8, (2, len(composed.tensors)))
    rows = labels.with_scores(all_gaps(composed, gaps, first))
    every = np.ones(len(rows), dtype=np.bool_)
    objective = objective_of("eod", rows, every, SETTINGS, 3.0)
    _, slope = objective(rows.scores)
    found = gaps.of(np.arange(len(rows)))
    assert found.detach().numpy() == pytest.approx(rows.scores, abs=1e-4)
    torch.autograd.backward(found, torch.from_numpy(slope).to(found))
    gradient = composed.gradient()
    step = 0.02
    largest = np.argsort(-np.abs(gradient).ravel())[:3]
    for place in map(int, largest):
        ends = []
        for side in (-step, step):
            moved = first.copy()
            moved.ravel()[place] += side
            ends.append(objective(all_gaps(composed, gaps, moved))[0])
        expected = (ends[1] - ends[0]) / (2 * step)
        assert gradient.ravel()[place] == pytest.approx(expected, rel=0.05)
    assert not composed.gradient().any()  # it was taken away


def test_learned_lambdas_are_the_known_minimum(model: Any, tmp_path: Path) -> None:
    """Vectors of the last layer alone make z linear in λ: scipy finds the minimum of the loss."""
    base, data = model

    def head_alone(seed: int) -> Path:
        draw = torch.Generator().manual_seed(seed)

        def change(tensors: dict[str, torch.Tensor]) -> None:
            for name in ("classifier.weight", "classifier.bias"):
                tensors[name] += torch.randn(tensors[name].shape, generator=draw)

        return rewrite(fine_tune(base, tmp_path / f"m{seed}", seed=0, size=0.0), change)

    composed, gaps, labels = opened(base, [head_alone(1), head_alone(2)], data)
    first = np.full((2, len(composed.tensors)), 0.2)
    known = all_gaps(composed, gaps, first)
    ends = [all_gaps(composed, gaps, first + np.array([[a], [b]])) for a, b in ((1, 0), (0, 1))]
    directions = np.stack(ends) - known
    rows = labels.with_scores(known)
    every = np.ones(len(rows), dtype=np.bool_)
    for goal in ("loss", "dpd"):
        objective = objective_of(goal, rows, every, SETTINGS, 3.0)  # type: ignore[arg-type]
        best = minimize(lambda a, of=objective: of(known + a @ directions)[0], np.zeros(2))
        schedule = Schedule(per="model", epochs=150, learning_rate=0.02, batch_size=len(rows))
        *_, (found, _) = trajectory(
            composed,
            gaps,
            first,
            lambda chosen, goal=goal: objective_of(goal, rows, chosen, SETTINGS, 3.0),  # type: ignore[misc]
            known,
            every,
            schedule,
            lambda _: None,
        )
        assert objective(all_gaps(composed, gaps, found))[0] == pytest.approx(best.fun, abs=2e-4)
        if goal == "loss":  # the other one is flat at its minimum
            assert found[:, 0] == pytest.approx(0.2 + best.x, abs=0.02)


def test_steps_on_batches_find_the_same_minimum(model: Any, tmp_path: Path) -> None:
    """Rows outside of a batch count with their latest scores: gaps are those of all rows."""
    base, data = model
    models = [fine_tune(base, tmp_path / f"m{n}", seed=n, size=0.05) for n in (1, 2)]
    composed, gaps, labels = opened(base, models, data)
    first = np.full((2, len(composed.tensors)), 0.5)
    known = all_gaps(composed, gaps, first)
    rows, every = labels.with_scores(known), np.ones(len(labels), dtype=np.bool_)
    objective = objective_of("eod", rows, every, SETTINGS, 3.0)
    ends = []
    for size, epochs, rate in ((len(rows), 24, 0.02), (16, 3, 0.02)):
        schedule = Schedule(per="layer", epochs=epochs, learning_rate=rate, batch_size=size)
        *_, (found, _) = trajectory(
            composed,
            gaps,
            first,
            lambda chosen: objective_of("eod", rows, chosen, SETTINGS, 3.0),
            known,
            every,
            schedule,
            lambda _: None,
        )
        ends.append(objective(all_gaps(composed, gaps, found))[0])
    start = objective(known)[0]
    assert ends[0] < start - 0.01
    assert ends[1] - start == pytest.approx(ends[0] - start, rel=0.5)


def test_a_second_round_scales_what_the_first_has_learned(model: Any, tmp_path: Path) -> None:
    base, data = model
    models = [fine_tune(base, tmp_path / f"m{n}", seed=n, size=0.05) for n in (1, 2)]
    composed, gaps, labels = opened(base, models, data)
    first = np.full((2, len(composed.tensors)), 0.5)
    known = all_gaps(composed, gaps, first)
    rows, every = labels.with_scores(known), np.ones(len(labels), dtype=np.bool_)
    schedule = Schedule(per="model", rounds=1, epochs=1, batch_size=16)
    (one, _), (two, _) = trajectory(
        composed,
        gaps,
        first,
        lambda chosen: objective_of("loss", rows, chosen, SETTINGS, 3.0),
        known,
        every,
        schedule,
        lambda _: None,
    )
    assert (one == one[:, :1]).all()
    ratio = two / one
    assert ratio[0] == pytest.approx(ratio[1])  # of both vectors in a tensor
    assert np.ptp(ratio) > 1e-3  # not of all tensors


def test_numbers_are_shared_as_said() -> None:
    tensors = ["embed.weight", "h.0.w", "h.0.b", "h.1.w", "classifier.weight"]
    counts = {"model": 2, "layer": 8, "tensor": 10}
    for per, count in counts.items():
        of = CoefficientMap.of_vectors(np.full((2, 5), 0.3), shared_by(per, tensors))  # type: ignore[arg-type]
        assert len(of.first) == count
        assert of.lambdas(of.first) == pytest.approx(np.full((2, 5), 0.3))
        # What every number does to all λ, by the chain rule.
        moved = of.lambdas(of.first + 0.1 * np.arange(count))
        slope = np.random.default_rng(0).normal(size=(2, 5))
        assert of.gradient(slope) @ (0.1 * np.arange(count)) == pytest.approx(
            float((slope * (moved - 0.3)).sum())
        )


def test_a_posterior_that_nothing_speaks_for_becomes_the_prior() -> None:
    numbers = SpikeAndSlab(np.array([0.5, -0.3]))
    optimizer = torch.optim.Adam(numbers.parameters, lr=0.05)
    start = numbers.divergence().item()
    for _ in range(400):
        optimizer.zero_grad()
        torch.autograd.backward(numbers.divergence())
        optimizer.step()
    assert start > 1
    assert numbers.divergence().item() == pytest.approx(0, abs=1e-3)
    assert numbers.expected() == pytest.approx([0, 0], abs=0.02)
    assert numbers.shares == pytest.approx([0.5, 0.5], abs=0.02)


def test_a_posterior_finds_which_number_matters() -> None:
    """y = 0.8 x₁ + noise, of two inputs: the first number is kept, of the second little is left."""
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.normal(size=(400, 2)))
    y = 0.8 * x[:, 0] + 0.5 * torch.from_numpy(draw.normal(size=400))
    numbers, random = SpikeAndSlab(np.array([0.3, 0.3])), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(numbers.parameters, lr=0.02)
    for _ in range(1500):
        optimizer.zero_grad()
        residual = y - x @ numbers.draw(random)
        torch.autograd.backward((residual**2).sum() / (2 * 0.5**2) + numbers.divergence())
        optimizer.step()
    assert numbers.expected()[0] == pytest.approx(0.8, abs=0.1)
    assert abs(numbers.expected()[1]) < 0.05
    assert numbers.shares[0] > 0.8
    assert numbers.shares[1] < 0.5


def test_points_are_drawn_as_they_are() -> None:
    numbers = PointNumbers(np.array([0.1, 0.2]))
    assert numbers.draw(torch.Generator()).tolist() == [0.1, 0.2]
    assert numbers.divergence().item() == 0
