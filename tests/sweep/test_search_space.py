"""The box of λs: snapping, quasi-random starts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_fair.errors import ConfigError
from mergekit_fair.sweep.search.proposers import Space

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


def test_points_near_the_target_add_up_to_about_one_vector() -> None:
    eight = Space(tuple("abcdefgh"), (0.0,) * 8, (1.0,) * 8, size=(1.0,) * 8)
    sizes = eight.sizes(eight.sobol(64, seed=0))
    assert sizes.min() >= 0.5 - 0.04  # a step is rounded in each of eight settings
    assert sizes.max() <= 1.25 + 0.04
    assert np.ptp(sizes) > 0.5
    wider = eight.sizes(eight.sobol(64, seed=0, reach=(2.0, 3.0)))
    assert 2.0 - 0.04 <= wider.min() <= wider.max() <= 3.0 + 0.04
    # A mean of eight is one vector where every weight is 1.
    mean = replace(eight, size=(0.125,) * 8)
    assert max(max(point) for point in mean.sobol(64, seed=0)) > 0.9
    # Negative λs count by size; what is nearer already stays where it is.
    both = Space(("a", "b"), (-1.0, -1.0), (1.0, 1.0), size=(1.0, 1.0))
    assert both.sizes(both.sobol(64, seed=0)).max() <= 1.25 + 0.01
    assert min(min(point) for point in both.sobol(64, seed=0)) < -0.4
    small = Space(("a", "b"), (0.0, 0.0), (0.2, 0.2), size=(1.0, 1.0))
    assert small.sobol(16, seed=0) == replace(small, size=None).sobol(16, seed=0)
    # A box without 0 is drawn to the end that is nearest to it, and not out of the box.
    far = Space(("a", "b"), (0.6, 0.9), (2.0, 2.0), size=(1.0, 1.0))
    assert far.sobol(1, seed=0) == [(0.6, 0.9)]
    assert math.isnan(CUBE.sizes([CUBE.low])[0])


def test_a_small_space_is_exhausted() -> None:
    tiny = Space(("a", "b"), (0.0, 0.0), (1.0, 1.0), step=0.5)
    halves = (0.0, 0.5, 1.0)
    assert sorted(tiny.sobol(100, seed=0)) == [(x, y) for x in halves for y in halves]


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
