"""Results read what they write, and refuse what no result is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import (
    Difference,
    Measurement,
    MultiMeasurement,
    ScoreMeasurement,
    compare,
    measure,
    measure_classes,
    measure_labels,
    measure_scores,
)
from mergekit_fair.fairness.settings import REFERENCES


def random_rows(seed: int) -> tuple[Any, Any, Any]:
    """A few or many rows, overlapping groups, missing predictions, now and then no positives."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 4, 20, 300]))
    y_true = (rng.random(n) < rng.choice([0.0, 0.3, 0.6])).astype(int)
    y_pred = (rng.random(n) < 0.3 + 0.4 * y_true).astype(object)
    y_pred[rng.random(n) < rng.choice([0.0, 0.02, 0.3])] = None
    masks = {name: rng.random(n) < 0.5 for name in "abcd"[: rng.integers(1, 5)]}
    return y_true, y_pred, masks


@pytest.mark.parametrize("seed", range(30))
def test_a_measurement_is_read_as_it_was_written(seed: int) -> None:
    rows = random_rows(seed)
    options: Any = {"reference": REFERENCES[seed % 3], "draws": 30, "min_group_size": 1 + seed % 4}
    result = measure(*rows, **options)
    text = json.dumps(result.to_dict(), allow_nan=False)
    again = Measurement.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    assert again.groups == result.groups
    assert again.one_vs_rest == result.one_vs_rest
    assert again.warnings == result.warnings


def test_the_other_results_are_read_as_they_were_written() -> None:
    y_true, y_pred, masks = random_rows(3)
    rng = np.random.default_rng(0)
    n = len(y_true)
    labels = {"x": y_true, "y": 1 - y_true}
    scores = measure_scores(rng.normal(size=n), masks, draws=20)
    assert ScoreMeasurement.from_dict(scores.to_dict()).to_dict() == scores.to_dict()
    for result in (
        measure_classes(rng.integers(0, 3, n), rng.integers(0, 3, n), masks, draws=20),
        measure_labels(labels, {"x": y_pred, "y": y_pred}, masks, draws=20),
    ):
        again = MultiMeasurement.from_dict(json.loads(json.dumps(result.to_dict())))
        assert again.to_dict() == result.to_dict()
    for entry in compare(y_true, y_pred, y_true, masks, draws=20).to_dict().values():
        assert Difference.from_dict(entry).to_dict() == entry


def test_attributes_are_the_keys_of_the_json() -> None:
    result = measure([0, 1] * 20, [0, 1, 1, 1] * 10, ["a"] * 15 + ["b"] * 25, draws=20)
    written = result.to_dict()
    assert result.labels.base_rate == written["labels"]["base_rate"]
    assert result.one_vs_rest.groups["a"].dpd == written["one_vs_rest"]["groups"]["a"]["dpd"]
    assert result.groups["a"].tpr == written["groups"]["a"]["tpr"]
    assert list(written["groups"]["a"])[:2] == ["n", "n_pos"]
    assert list(written["groups"]["a"])[-1] == "unanswered"
    with pytest.raises(AttributeError):
        _ = result.groups["a"].recall


def changed(written: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(written))
    *parents, last = path.split(".")
    block = copy
    for name in parents:
        block = block[name]
    block[last] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("n", "40"),
        ("n", 40.5),
        ("confidence", float("nan")),
        ("metrics.dpd.value", float("inf")),
        ("metrics.dpd.value", "0.5"),
        ("metrics.dpd.low", None),  # a limit without the other
        ("degenerate", 0),
        ("groups.a.recall", 0.5),
        ("groups.a.tpr", "all"),
        ("fairness", 1.0),
        ("uncertainty.dpd.basic", [0.1]),
        ("warnings", "all is well"),
    ],
)
def test_another_shape_is_refused_by_its_key(path: str, value: Any) -> None:
    written = measure([0, 1] * 20, [0, 1, 1, 1] * 10, ["a"] * 15 + ["b"] * 25, draws=20).to_dict()
    key = path.rpartition(".")[2] if path.endswith("recall") else path.split(".")[0]
    with raises(MeasurementError, key, where="run.json"):
        Measurement.from_dict(changed(written, path, value), where="run.json")


def test_what_is_missing_is_refused() -> None:
    written = measure([0, 1] * 4, [0, 1] * 4, ["a", "b"] * 4, draws=20).to_dict()
    del written["labels"]
    with raises(MeasurementError, "labels"):
        Measurement.from_dict(written)
    with raises(MeasurementError):
        Measurement.from_dict([])
