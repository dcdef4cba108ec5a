"""Grids are exact in decimals: 0:1:0.1 has eleven points, and 0.3 is 0.3."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_fair.errors import ConfigError
from mergekit_fair.merging.grid import MOST_POINTS, parse_grid

FORMS = "a number, a list of numbers, or START:STOP:STEP with STOP included, such as 0:1:0.1"


@pytest.mark.parametrize(
    ("given", "points"),
    [
        ("0:1:0.1", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        ("0:1:0.3", (0.0, 0.3, 0.6, 0.9)),
        (" 0 : 1 : 0.5 ", (0.0, 0.5, 1.0)),
        ("1:0:-0.5", (1.0, 0.5, 0.0)),
        ("-0.2:0.2:0.1", (-0.2, -0.1, 0.0, 0.1, 0.2)),
        ("0.3:0.3:0.1", (0.3,)),
        ("0:2e-1:1e-1", (0.0, 0.1, 0.2)),
        ([0, 0.5, "1e-1", 1], (0.0, 0.5, 0.1, 1.0)),
        ((1, 0), (1.0, 0.0)),
        (0.4, (0.4,)),
        ("0.4", (0.4,)),
        (2, (2.0,)),
    ],
)
def test_points(given, points):
    assert parse_grid(given, "λ") == points


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("0:1", f"λ: is not a grid; got '0:1'; allowed: {FORMS}."),
        ("0:1:0.1:2", f"λ: is not a grid; got '0:1:0.1:2'; allowed: {FORMS}."),
        ("0:1:0", "λ: the step does not lead from START to STOP; got '0:1:0'."),
        ("0:1:-0.1", "λ: the step does not lead from START to STOP; got '0:1:-0.1'."),
        ("1:0:0.1", "λ: the step does not lead from START to STOP; got '1:0:0.1'."),
        ("0:1:1e-400", "λ: the step does not lead from START to STOP; got '0:1:1e-400'."),
        ("0:1:1e-300", "λ: the grid has too many points; got '0:1:1e-300'; allowed: up to 10,000."),
        ("0:1:1e-4", "λ: the grid has too many points; got '0:1:1e-4'; allowed: up to 10,000."),
        ("0:nan:0.1", f"λ: is not a finite number; got 'nan'; allowed: {FORMS}."),
        ("0:1e999:1", f"λ: is not a finite number; got '1e999'; allowed: {FORMS}."),
        ("snan", f"λ: is not a finite number; got 'snan'; allowed: {FORMS}."),
        ("a:b:c", f"λ: is not a finite number; got 'a'; allowed: {FORMS}."),
        ("", f"λ: is not a finite number; got ''; allowed: {FORMS}."),
        (None, f"λ: is not a finite number; allowed: {FORMS}."),
        (True, f"λ: is not a finite number; got True; allowed: {FORMS}."),
        (float("nan"), f"λ: is not a finite number; got nan; allowed: {FORMS}."),
        ([0, float("inf")], f"λ: is not a finite number; got inf; allowed: {FORMS}."),
        (["0:1:0.5"], f"λ: is not a finite number; got '0:1:0.5'; allowed: {FORMS}."),
        ({"a": 1}, f"λ: is not a finite number; got {{'a': 1}}; allowed: {FORMS}."),
        ([], f"λ: the grid is empty; got []; allowed: {FORMS}."),
        ([0, 0.5, 0], "λ: the grid has a point twice; got [0, 0.5, 0]."),
        (["0.1", "1e-1"], "λ: the grid has a point twice; got ['0.1', '1e-1']."),
    ],
)
def test_errors(given, text):
    with pytest.raises(ConfigError) as caught:
        parse_grid(given, "λ")
    assert str(caught.value) == text


@given(
    start=st.integers(-(10**4), 10**4),
    count=st.integers(1, 200),
    step=st.integers(-(10**4), 10**4).filter(bool),
    places=st.integers(0, 4),
)
def test_a_span_is_its_list_of_decimals(start, count, step, places):
    unit = Decimal(1).scaleb(-places)
    points = [(start + index * step) * unit for index in range(count)]
    text = f"{points[0]}:{points[-1]}:{step * unit}"
    assert parse_grid(text, "λ") == tuple(float(str(point)) for point in points)


@given(st.text(alphabet="0123456789.:-e+ na", max_size=12))
def test_any_text_is_a_grid_or_a_config_error(text):
    try:
        points = parse_grid(text, "λ")
    except ConfigError:
        return
    assert 0 < len(points) == len(set(points)) <= MOST_POINTS


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, unique=True))
def test_a_list_keeps_its_order_and_its_numbers(numbers):
    assert parse_grid(numbers, "λ") == tuple(numbers)
