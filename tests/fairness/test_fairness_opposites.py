"""b − a is the opposite of a − b to the bit, and no name decides anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mergekit_fair.fairness import Comparison, MetricSettings, compare, compare_many
from mergekit_fair.fairness.compare import Paired
from mergekit_fair.fairness.settings import REFERENCES


def table(seed: int) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
    """Random rows: overlaps, unanswered rows, one class, weights."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 150))
    y = (rng.random(n) < rng.choice([0.2, 0.5, 1.0])).astype(int)
    a, b = (np.where(rng.random(n) < p, y, 1 - y).astype(object) for p in (0.8, 0.7))
    if seed % 4 == 0:
        b[0] = None
    groups = {name: rng.random(n) < 0.5 for name in "xyz"}
    options: dict[str, Any] = {"reference": REFERENCES[seed % 3], "draws": 60, "seed": seed}
    if seed % 2:
        options["weights"] = rng.choice([0.3, 1.0, 2.0], n)
    return y, a, b, groups, options


def assert_opposite(one: Comparison, other: Comparison) -> None:
    assert one.warnings == other.warnings
    assert one.metrics.keys() == other.metrics.keys()
    for name, here in one.metrics.items():
        there = other.metrics[name]
        assert here.p_value == there.p_value
        assert here.dropped == there.dropped
        if here.value is None:
            assert there.value is None
            continue
        assert here.value == -(there.value or 0.0)
        if here.low is not None and there.low is not None:
            assert (here.low, here.high) == (-(there.high or 0.0), -there.low)
        assert str(here.value) != "-0.0"


@pytest.mark.parametrize("seed", range(60))
def test_two_predictors_in_either_order(seed: int) -> None:
    y, a, b, groups, options = table(seed)
    assert_opposite(compare(y, a, b, groups, **options), compare(y, b, a, groups, **options))


@pytest.mark.parametrize("seed", range(20))
def test_where_changing_places_changes_no_cell(seed: int) -> None:
    """As many rows of a kind have (a, b) = (0, 1) as have (1, 0): nothing tells one from the
    other, so that the interval is its own opposite."""
    rng = np.random.default_rng(seed)
    half = 40
    y, groups = np.tile(rng.integers(0, 2, half), 2), np.tile(rng.choice(["x", "y"], half), 2)
    one, two = rng.integers(0, 2, (2, half))
    a, b = np.concatenate([one, two]), np.concatenate([two, one])
    found = compare(y, a, b, groups, draws=60, seed=seed)
    assert_opposite(found, compare(y, b, a, groups, draws=60, seed=seed))
    for difference in found.metrics.values():
        assert difference.value == 0.0
        assert difference.low is not None
        assert difference.high == -difference.low
    assert found.metrics["acc"].high > 0


def test_names_and_their_order_decide_nothing() -> None:
    y, a, b, groups, options = table(5)
    third = np.roll(a, 1)
    first = compare_many(y, {"m": a, "n": b, "o": third}, groups, baseline="m", **options)
    renamed = compare_many(y, {"z": b, "y": a, "a": third}, groups, baseline="y", **options)
    for name, other in (("n", "z"), ("o", "a")):
        assert first.differences[name] == renamed.differences[other]
        for metric in ("acc", "dpd", "eod"):
            assert first.adjusted.get((name, metric)) == renamed.adjusted.get((other, metric))


def test_a_third_predictor_changes_no_difference() -> None:
    y, a, b, groups, options = table(7)
    pair = compare_many(y, {"a": a, "b": b}, groups, baseline="a", **options)
    more = compare_many(y, {"a": a, "0": np.roll(b, 3), "b": b}, groups, baseline="a", **options)
    assert more.differences["b"] == pair.differences["b"] == compare(y, a, b, groups, **options)


def test_either_of_two_as_the_baseline() -> None:
    y, a, b, groups, options = table(9)
    forward = compare_many(y, {"a": a, "b": b}, groups, baseline="a", **options)
    backward = compare_many(y, {"a": a, "b": b}, groups, baseline="b", **options)
    assert_opposite(forward.differences["b"], backward.differences["a"])
    assert {m: p for (_, m), p in forward.adjusted.items()} == {
        m: p for (_, m), p in backward.adjusted.items()
    }


def test_rows_in_another_order() -> None:
    y, a, b, groups, options = table(11)
    order = np.random.default_rng(0).permutation(len(y))
    shuffled = {name: mask[order] for name, mask in groups.items()}
    weights = options.pop("weights")
    found = compare(y, a, b, groups, weights=weights, **options)
    again = compare(y[order], a[order], b[order], shuffled, weights=weights[order], **options)
    assert again == found


def test_codes_of_any_type_are_the_same_pair() -> None:
    y, a, b, groups, _ = table(13)
    codes = {"a": a.astype(np.int8), "b": b.astype(np.int8)}
    settings = MetricSettings(draws=50)
    narrow = Paired.of(y.astype(np.int8), codes, groups, settings)
    wide = Paired.of(y, {name: c.astype(np.int64) for name, c in codes.items()}, groups, settings)
    assert narrow.difference("a", "b") == wide.difference("a", "b")
