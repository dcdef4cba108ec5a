"""Settings: checked when they are made, the same for every function."""

from __future__ import annotations

from typing import Any

import click
import numpy as np
import pytest

from mergekit_fair.cli import main
from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import MetricSettings, compare, measure, measure_classes
from mergekit_fair.fairness.settings import MIN_GROUP_SIZE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("confidence", value) for value in (95, 0.0, 1.0, -0.1, float("nan"))),
        *(("min_group_size", value) for value in (0, -3, 1.5, "all")),
        *(("draws", value) for value in (0, 2.0)),
        *(("seed", value) for value in (-1, 0.5, None)),
        ("reference", "macro"),
    ],
)
def test_a_value_outside_its_range_is_refused(name: str, value: Any) -> None:
    for make in (
        lambda: MetricSettings(**{name: value}),
        lambda: measure([0, 1], [0, 1], ["a", "b"], **{name: value}),
        lambda: compare([0, 1], [0, 1], [0, 1], ["a", "b"], **{name: value}),
        lambda: measure_classes([0, 1], [0, 1], ["a", "b"], **{name: value}),
    ):
        with pytest.raises(MeasurementError) as caught:
            make()
        assert caught.value.where == name
        assert caught.value.got is value


def test_excluded_names_are_text() -> None:
    assert MetricSettings(exclude="other").exclude == ("other",)
    assert MetricSettings(exclude=[9]).exclude == ("9",)  # type: ignore[list-item]
    assert MetricSettings().excluding({"x"}).exclude == ("x",)
    assert hash(MetricSettings(exclude=["a"])) == hash(MetricSettings(exclude=("a",)))


def test_integers_of_numpy_are_integers() -> None:
    assert MetricSettings(min_group_size=np.int64(3), draws=np.int32(10)).min_group_size == 3


@pytest.mark.parametrize("name", ["eval", "measure", "compare"])
def test_commands_have_one_default_size(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    (option,) = (each for each in command.params if each.name == "min_group_size")
    assert option.default == MIN_GROUP_SIZE
