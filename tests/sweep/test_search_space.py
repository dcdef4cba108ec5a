"""The box of λs: snapping, quasi-random starts, lattices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_fair.errors import ConfigError
from mergekit_fair.sweep.search import Space

CUBE = Space(("a", "b", "c"), (0.0, 0.0, -1.0), (1.0, 0.5, 2.0))


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3))
def test_snapped_points_are_short_decimals_inside(point: list[float]) -> None:
    snapped = CUBE.snapped(point)
    for value, low, high in zip(snapped, CUBE.low, CUBE.high, strict=True):
        assert low <= value <= high
        assert value == round(value, 2)
        assert math.copysign(1, value) == 1 or value < 0  # no −0.0
    assert CUBE.snapped(snapped) == snapped


def test_snapping_is_to_the_nearest_step() -> None:
    assert CUBE.snapped([0.1 + 0.2, 0.126, -0.001]) == (0.3, 0.13, 0.0)
    assert Space(("a",), (0.0,), (1.0,), step=0.25).snapped([0.6]) == (0.5,)
    # An end that is no multiple of the step can still be reached.
    assert Space(("a",), (0.0,), (0.333,)).snapped([0.9]) == (0.333,)


def test_scaling_goes_to_minus_one_and_one() -> None:
    assert CUBE.scaled([CUBE.low, CUBE.high]).tolist() == [[-1, -1, -1], [1, 1, 1]]
    assert CUBE.unscaled([[0, 0.5, 1]]).tolist() == [[0.0, 0.25, 2.0]]


def test_a_longer_sobol_sequence_begins_with_the_shorter() -> None:
    long = CUBE.sobol(100, seed=3)
    assert len(set(long)) == 100
    for count in (1, 2, 5, 8, 33):
        assert CUBE.sobol(count, seed=3) == long[:count]
    assert CUBE.sobol(8, seed=4) != long[:8]


def test_sobol_covers_better_than_random() -> None:
    unit = Space(("a", "b"), (0.0, 0.0), (1.0, 1.0))
    for seed in range(3):
        cells = {(int(4 * x), int(4 * y)) for x, y in unit.sobol(16, seed)}
        assert len(cells) >= 14  # uniform draws: about 10


def test_a_small_space_is_exhausted() -> None:
    tiny = Space(("a", "b"), (0.0, 0.0), (1.0, 1.0), step=0.5)
    assert sorted(tiny.sobol(100, seed=0)) == sorted(tiny.lattice(9))
    assert len(tiny.lattice(100)) == 9


@given(st.integers(1, 4), st.integers(1, 300))
def test_a_lattice_is_the_finest_that_fits(dimensions: int, budget: int) -> None:
    space = Space(tuple("abcd"[:dimensions]), (0.0,) * dimensions, (1.0,) * dimensions, 0.001)
    points = space.lattice(budget)
    levels = [len(set(column)) for column in zip(*points, strict=True)]
    assert len(set(points)) == len(points) == math.prod(levels) <= budget
    assert max(levels) - min(levels) <= 1
    # One more level for the coarsest would be too many.
    coarsest = min(levels)
    assert len(points) // coarsest * (coarsest + 1) > budget


def test_every_prefix_of_a_lattice_is_spread_out() -> None:
    square = Space(("a", "b"), (0.0, 0.0), (1.0, 1.0))
    points = square.lattice(25)
    assert points[:2] == [(0.0, 0.0), (1.0, 1.0)]
    assert sorted(points[:5]) == [(0.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1.0, 1.0)]
    covering = []
    for count in range(1, 26):
        gaps = np.array(points)[:, np.newaxis] - np.array(points[:count])
        covering.append(np.sqrt((gaps**2).sum(-1)).min(axis=1).max())
    assert covering == sorted(covering, reverse=True)
    assert covering[-1] == 0
    assert covering[8] < 0.5


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (((), (), ()), "a search needs settings, each named once"),
        ((("a", "a"), (0.0, 0.0), (1.0, 1.0)), "a search needs settings, each named once"),
        ((("a",), (0.0, 0.0), (1.0,)), "1 settings need as many ranges"),
        ((("a",), (1.0,), (1.0,)), r"a: is not a range; got \(1.0, 1.0\)"),
        ((("a",), (0.0,), (math.inf,)), "allowed: finite low < high"),
        ((("a",), (math.nan,), (1.0,)), "a: is not a range"),
        ((("a",), (0.0,), (1.0,), 0.0), "step: must be above 0; got 0.0"),
    ],
)
def test_a_space_is_checked(settings: tuple[object, ...], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Space(*settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [0, 10_001])
def test_a_lattice_has_a_budget(budget: int) -> None:
    with pytest.raises(ConfigError, match=f"budget: is no budget for a lattice; got {budget}"):
        CUBE.lattice(budget)
