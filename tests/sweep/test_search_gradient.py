"""The smooth loss against finite differences, autograd and the exact gaps; projected steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_fair.errors import MeasurementError, SweepError
from mergekit_fair.fairness.statistics import estimate
from mergekit_fair.sweep.search import Space, Step, next_step, smooth_loss


def best_step(trace: list[Step]) -> Step:
    return min(trace, key=lambda step: step.loss)


SETTINGS: dict[str, Any] = {"temperature": 0.5, "penalty": 3.0, "sharpness": 20.0}
BOX = Space(("a", "b"), (0.0, -1.0), (1.0, 2.0), step=1e-4)


def problem(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Margins, labels, overlapping groups, deciding; the last group decides nothing."""
    rng = np.random.default_rng(seed)
    membership = rng.random((n, 4)) < [0.6, 0.4, 0.5, 0.3]
    return rng.normal(size=n), rng.integers(0, 2, n), membership, np.array([True] * 3 + [False])


@given(
    st.integers(0, 1000),
    st.sampled_from([None, 0.0, 0.1]),
    st.sampled_from([None, 0.0, 0.2]),
)
@settings(max_examples=25, deadline=None)
def test_the_gradient_agrees_with_finite_differences(
    seed: int, dpd: float | None, eod: float | None
) -> None:
    margins, labels, membership, deciding = problem(seed, n=20)

    def loss(m: np.ndarray) -> tuple[float, np.ndarray]:
        return smooth_loss(
            m, labels, membership, deciding=deciding, dpd_limit=dpd, eod_limit=eod, **SETTINGS
        )

    _, gradient = loss(margins)
    step = 1e-5
    for index in range(len(margins)):
        shift = step * np.eye(len(margins))[index]
        slope = (loss(margins + shift)[0] - loss(margins - shift)[0]) / (2 * step)
        assert gradient[index] == pytest.approx(slope, abs=1e-7)


def test_loss_and_gradient_agree_with_autograd() -> None:
    torch = pytest.importorskip("torch")
    margins, labels, membership, deciding = problem(1)
    loss, gradient = smooth_loss(
        margins, labels, membership, deciding=deciding, dpd_limit=0.05, eod_limit=0.1, **SETTINGS
    )
    m = torch.tensor(margins, requires_grad=True)
    y, kappa = torch.tensor(labels), SETTINGS["sharpness"]
    soft = torch.sigmoid(m / SETTINGS["temperature"])

    def spread(rows: Any) -> Any:
        masks = [torch.tensor(membership[:, g]) & rows for g in np.flatnonzero(deciding)]
        rates = torch.stack([soft[mask].mean() for mask in masks if mask.any()])
        return sum(torch.logsumexp(sign * kappa * rates, 0) / kappa for sign in (1, -1))

    gaps = torch.stack([spread(y == 1), spread(y == 0)])
    eod = torch.logsumexp(kappa * gaps, 0) / kappa
    hinge = torch.nn.functional.softplus
    expected = torch.nn.functional.binary_cross_entropy_with_logits(m, y.double())
    for gap, limit in ((spread(y >= 0), 0.05), (eod, 0.1)):
        expected = expected + SETTINGS["penalty"] * hinge(kappa * (gap - limit)) / kappa
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-12)
    assert gradient == pytest.approx(m.grad.numpy(), abs=1e-12)


@pytest.mark.parametrize("name", ["dpd", "eod"])
def test_a_cold_sharp_loss_sees_the_exact_gap(name: str) -> None:
    margins, labels, membership, deciding = problem(2, n=400)
    margins += np.sign(margins) * 0.1  # none on the threshold
    names = [[str(g) for g in np.flatnonzero(row)] for row in membership]
    exact = estimate(labels, (margins > 0).astype(int), names, exclude=["3"])[name]
    limits = {"dpd_limit": None, "eod_limit": None}
    cold = {"temperature": 1e-3, "sharpness": 1e4}

    def loss(penalty: float) -> float:
        return smooth_loss(
            margins,
            labels,
            membership,
            deciding=deciding,
            **{**limits, f"{name}_limit": 0.0},  # type: ignore[arg-type]
            penalty=penalty,
            **cold,
        )[0]

    assert loss(1.0) - loss(0.0) == pytest.approx(exact, abs=1e-3)


def test_the_soft_range_errs_on_the_large_side() -> None:
    margins, labels, membership, deciding = problem(3, n=400)
    same = np.zeros_like(margins)
    for sharpness in (10.0, 100.0):
        loss = {
            penalty: smooth_loss(
                same,
                labels,
                membership,
                deciding=deciding,
                dpd_limit=-1.0,  # the hinge is then linear
                eod_limit=None,
                penalty=penalty,
                sharpness=sharpness,
            )[0]
            for penalty in (0.0, 1.0)
        }
        excess = loss[1.0] - loss[0.0] - 1.0
        assert excess == pytest.approx(2 * math.log(3) / sharpness, abs=1e-4)


def test_large_margins_do_not_overflow() -> None:
    _, labels, membership, deciding = problem(4)
    margins = np.where(labels == 1, -1e4, 1e4)
    loss, gradient = smooth_loss(
        margins, labels, membership, deciding=deciding, dpd_limit=0.0, eod_limit=0.0
    )
    assert math.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() == pytest.approx(1 / len(margins))


def test_bad_input_is_refused() -> None:
    margins, labels, membership, deciding = problem(5)
    limits: dict[str, Any] = {"deciding": deciding, "dpd_limit": 0.1, "eod_limit": 0.1}
    with pytest.raises(MeasurementError, match=r"do not fit; got \(\(59,\), \(60,\), \(60, 4\)"):
        smooth_loss(margins[1:], labels, membership, **limits)
    with pytest.raises(MeasurementError, match="do not fit"):
        smooth_loss(margins, labels, membership.astype(float), **limits)  # type: ignore[arg-type]
    with pytest.raises(MeasurementError, match="margins: a margin is not finite"):
        smooth_loss(np.where(labels == 1, np.nan, margins), labels, membership, **limits)
    with pytest.raises(MeasurementError, match="labels: a label is neither 0 nor 1"):
        smooth_loss(margins, labels + 1, membership, **limits)
    for name, value in (("temperature", 0.0), ("penalty", -1.0), ("sharpness", math.inf)):
        with pytest.raises(MeasurementError, match=f"{name}: is out of range; got {value}"):
            smooth_loss(margins, labels, membership, **limits, **{name: value})
    only_one = np.array([True, False, False, False])
    with pytest.raises(MeasurementError, match=r"dpd_limit: dpd is limited, but fewer than two"):
        smooth_loss(margins, labels, membership, **{**limits, "deciding": only_one})
    loss, _ = smooth_loss(
        margins, labels, membership, deciding=only_one, dpd_limit=None, eod_limit=None
    )
    assert loss > 0


Function = Callable[[np.ndarray], tuple[float, np.ndarray]]


def descend(function: Function, x: tuple[float, ...], most: int = 100) -> list[Step]:
    """Refine until converged."""
    trace: list[Step] = []
    point: tuple[float, ...] | None = x
    while point is not None and len(trace) < most:
        loss, gradient = function(np.array(point))
        trace.append(Step(point, float(loss), tuple(np.atleast_1d(gradient).tolist())))
        point = next_step(trace, BOX)
    assert len(trace) < most, "did not converge"
    return trace


def bowl(centre: tuple[float, float], stiffness: tuple[float, float]) -> Function:
    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        away = x - centre
        return float(0.5 * (stiffness * away**2).sum()), stiffness * away

    return function


@pytest.mark.parametrize("stiffness", [(1.0, 1.0), (100.0, 1.0), (1e-2, 1.0), (1e3, 1e3)])
@pytest.mark.parametrize("start", [(0.0, -1.0), (1.0, 2.0), (0.5, 0.3)])
def test_a_bowl_is_descended_to_its_bottom(
    stiffness: tuple[float, float], start: tuple[float, float]
) -> None:
    trace = descend(bowl((0.4, 0.7), stiffness), start)
    assert best_step(trace).x == pytest.approx((0.4, 0.7), abs=2e-3)
    assert len(trace) <= 40


def test_the_box_holds_and_its_edge_is_found() -> None:
    trace = descend(bowl((3.0, 0.5), (1.0, 1.0)), (0.2, -0.8))
    assert all(0 <= step.x[0] <= 1 and -1 <= step.x[1] <= 2 for step in trace)
    assert best_step(trace).x == pytest.approx((1.0, 0.5), abs=1e-3)


def test_a_curved_valley_goes_down() -> None:
    def valley(x: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = x
        loss = (1 - a) ** 2 + 5 * (b - a**2) ** 2
        return float(loss), np.array([-2 * (1 - a) - 20 * a * (b - a**2), 10 * (b - a**2)])

    trace = descend(valley, (0.1, 1.5))
    assert best_step(trace).loss < 1e-3


def test_steps_depend_on_the_trace_alone_and_never_repeat() -> None:
    trace = descend(bowl((0.4, 0.7), (50.0, 1.0)), (1.0, -1.0))
    points = [step.x for step in trace]
    assert len(set(points)) == len(points)
    for length in range(1, len(trace)):
        assert next_step(trace[:length], BOX) == points[length]


def test_a_step_without_a_finite_loss_is_taken_back() -> None:
    first = Step((0.5, 0.5), 1.0, (1.0, 0.0))
    second = next_step([first], BOX)
    assert second == (0.3, 0.5)
    for broken in (Step(second, math.nan, (0.0, 0.0)), Step(second, 0.1, (math.inf, 0.0))):
        assert next_step([first, broken], BOX) == (0.4, 0.5)


def test_a_flat_start_is_converged() -> None:
    assert next_step([Step((0.5, 0.5), 1.0, (0.0, 0.0))], BOX) is None
    # Downhill leads out of the box in every direction.
    assert next_step([Step((0.0, 2.0), 1.0, (5.0, -5.0))], BOX) is None


def test_bad_traces_are_refused() -> None:
    with pytest.raises(SweepError, match="a refinement needs a first step"):
        next_step([], BOX)
    with pytest.raises(SweepError, match="the start of a refinement has no finite loss"):
        next_step([Step((0.5, 0.5), math.nan, (0.0, 0.0))], BOX)
    with pytest.raises(SweepError, match="a step must have 2 λs and as many gradients"):
        next_step([Step((0.5, 0.5), 1.0, (0.0,))], BOX)
