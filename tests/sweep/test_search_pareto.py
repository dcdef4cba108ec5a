"""Fronts and hypervolumes: known values, brute force, Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mergekit_fair.errors import SweepError
from mergekit_fair.sweep.search.pareto import contribution, front, hypervolume

# Few distinct values, so that ties and repeated points occur.
_TENTHS = st.integers(0, 12).map(lambda tenth: tenth / 10)
TABLES = st.integers(1, 4).flatmap(
    lambda k: hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(k)), elements=_TENTHS)
)


@given(TABLES)
def test_the_front_is_what_nobody_dominates(points: np.ndarray) -> None:
    brute = [not any((q <= p).all() and (q < p).any() for q in points) for p in points]
    assert front(points).tolist() == brute


def test_undefined_points_are_never_on_the_front() -> None:
    points = [[math.nan, 0.0], [0.5, 0.5], [-math.inf, 0.0], [0.5, 0.5]]
    assert front(points).tolist() == [False, True, False, True]
    assert front(np.empty((0, 2))).tolist() == []


@pytest.mark.parametrize(
    ("points", "volume"),
    [
        ([[0.25]], 0.75),
        ([[0.0, 0.0]], 1.0),
        ([[0.5, 0.5]], 0.25),
        ([[0.25, 0.5], [0.5, 0.25]], 0.375 + 0.125),
        ([[0.0, 0.5], [0.5, 0.0], [0.75, 0.75]], 0.75),
        ([[0.5, 0.5, 0.5]], 0.125),
        ([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]], 0.5),
        ([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.9, 0.9, 0.5]], 0.125),
        ([[1.0, 0.0], [0.0, 2.0], [math.nan, 0.0]], 0.0),
        ([[0.5, 0.5, 0.5, 0.5], [0.0, 0.9, 0.9, 0.9]], 0.0625 + 0.001 - 0.0005),
    ],
)
def test_known_volumes(points: list[list[float]], volume: float) -> None:
    assert hypervolume(points, [1.0] * len(points[0])) == pytest.approx(volume, abs=1e-12)


def test_no_points_have_no_volume() -> None:
    assert hypervolume([], (1.0, 1.0)) == 0.0
    assert hypervolume(np.empty((0, 3)), (1.0, 1.0, 1.0)) == 0.0


@pytest.mark.parametrize("k", [2, 3, 4])
def test_volumes_agree_with_monte_carlo(k: int) -> None:
    rng = np.random.default_rng(k)
    points, reference = rng.random((15, k)), np.full(k, 1.1)
    inside = np.zeros(200_000, dtype=bool)
    samples = rng.random((len(inside), k)) * reference
    for point in points:
        inside |= (samples >= point).all(axis=1)
    estimate, scale = inside.mean(), float(np.prod(reference))
    error = scale * math.sqrt(estimate * (1 - estimate) / len(inside))
    assert abs(hypervolume(points, reference) - scale * estimate) < 4 * error


@given(TABLES)
def test_the_volume_does_not_depend_on_order_or_dominated_points(points: np.ndarray) -> None:
    reference = np.ones(points.shape[1])
    volume = hypervolume(points, reference)
    assert hypervolume(points[::-1], reference) == pytest.approx(volume, abs=1e-12)
    assert hypervolume(points[:, ::-1], reference) == pytest.approx(volume, abs=1e-12)
    assert hypervolume(points[front(points)], reference) == pytest.approx(volume, abs=1e-12)


@given(TABLES)
def test_a_contribution_is_the_difference_of_two_volumes(points: np.ndarray) -> None:
    reference = np.ones(points.shape[1])
    new, rest = points[0], points[1:]
    expected = hypervolume(points, reference) - hypervolume(rest, reference)
    assert contribution(new, rest, reference) == pytest.approx(expected, abs=1e-12)


def test_bad_tables_and_references_are_refused() -> None:
    with pytest.raises(SweepError, match=r"n rows by k objectives; got \(2,\)"):
        front([0.1, 0.2])
    with pytest.raises(SweepError, match="points have 2 objectives, the reference has 3"):
        hypervolume([[0.1, 0.2]], (1.0, 1.0, 1.0))
    with pytest.raises(SweepError, match="needs a finite reference point"):
        hypervolume([[0.1, 0.2]], (1.0, math.inf))
