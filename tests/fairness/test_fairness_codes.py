"""Predictions as codes: the same counts as given values, without a loop over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import CountTable, MetricSettings, compare_many, measure
from mergekit_fair.fairness.compare import Paired
from mergekit_fair.fairness.labels import UNANSWERED


@pytest.fixture(scope="module")
def rows() -> tuple[Any, dict[str, Any], Any]:
    rng = np.random.default_rng(1)
    codes = {name: rng.choice([0, 1, 2], 300, p=[0.5, 0.49, 0.01]) for name in ("a", "b", "c")}
    return rng.integers(0, 2, 300), codes, {g: rng.random(300) < 0.5 for g in ("x", "y")}


def as_given(codes: Any) -> list[int | None]:
    return [None if code == UNANSWERED else int(code) for code in codes]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_a_table_of_codes_is_that_of_the_given_values(rows: Any, dtype: Any) -> None:
    truth, codes, groups = rows
    table = CountTable.of_codes(truth.astype(dtype), codes["a"].astype(dtype), groups)
    assert (table.cells == CountTable.tally(truth, as_given(codes["a"]), groups).cells).all()


def test_comparisons_of_codes_are_those_of_the_given_values(rows: Any) -> None:
    truth, codes, groups = rows
    settings = MetricSettings(draws=50, seed=3)
    by_codes = Paired.of(truth, codes, groups, settings).against("b")
    given = {name: as_given(column) for name, column in codes.items()}
    expected = compare_many(truth, given, groups, baseline="b", draws=50, seed=3)
    assert by_codes.to_dict() == expected.to_dict()
    assert by_codes.differences == expected.differences  # warnings included


@pytest.mark.parametrize(
    ("truth", "predicted", "where"),
    [
        ([0, 2], [0, 1], "y_true"),
        ([0, 1], [0, 3], "y_pred"),
        ([0, 1], [-1, 0], "y_pred"),
        ([0.0, 1.0], [0, 1], "y_true"),
        ([], [], "y_true"),
        ([[0, 1]], [0, 1], "y_true"),
        ([0, 1], [0, 1, 1], "y_pred"),
    ],
)
def test_other_codes_are_refused(truth: Any, predicted: Any, where: str) -> None:
    with raises(MeasurementError, where=where):
        CountTable.of_codes(np.array(truth), np.array(predicted), ["g"] * len(truth))


def test_a_users_label_2_is_no_code() -> None:
    for call in (
        lambda: measure([0, 1], [2, 1], ["a", "b"]),
        lambda: CountTable.tally([0, 1], np.array([2, 1], dtype=np.int8), ["a", "b"]),
        lambda: compare_many([0, 1], {"p": [2, 1], "q": [0, 1]}, ["a", "b"], baseline="q"),
    ):
        with raises(MeasurementError, got=2, allowed=(0, 1)):
            call()


def test_no_row_is_looked_at_by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of given values loop over objects; codes never come by them."""

    for name in ("_missing_values", "_from_objects", "_whole"):
        monkeypatch.setattr(
            f"mergekit_fair.fairness.labels.{name}", lambda *_: pytest.fail("a loop")
        )
    truth = np.zeros(50, dtype=np.int8)
    masks = {"a": np.arange(50) < 20, "b": np.arange(50) >= 20}
    table = CountTable.of_codes(truth, np.full(50, UNANSWERED, dtype=np.int8), masks)
    assert table.cells[..., UNANSWERED].sum() == 50
