"""Signed differences from a chosen group: by hand, by loops, and how often they are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import measure, measure_labels
from mergekit_fair.fairness.intervals import wilson

RATES = ["selection_rate", "tpr", "fpr", "fnr", "ppv", "acc"]


def rows(seed: int, n: int = 300) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return y, np.where(rng.random(n) < 0.7, y, 1 - y), rng.choice(list("abc"), n)


@pytest.mark.parametrize("weighted", [False, True])
def test_rates_minus_those_of_the_group(weighted: bool) -> None:
    y, p, groups = rows(0)
    weights = np.random.default_rng(1).gamma(1, 1, len(y)) if weighted else None
    result = measure(y, p, groups, weights=weights, against="b", draws=20)
    found = result.to_dict()["against"]
    assert found["group"] == "b"
    assert list(found["groups"]) == ["a", "c"]
    for name, rates in found["groups"].items():
        assert list(rates) == RATES
        for rate, interval in rates.items():
            own, other = (getattr(result.groups[group], rate) for group in (name, "b"))
            assert interval["value"] == own - other
            assert -1 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
    assert type(result).from_dict(result.to_dict()) == result
    assert "against" not in measure(y, p, groups, draws=20).to_dict()


def test_newcombe_by_hand() -> None:
    # Newcombe 1998, table II, case (a): 56/70 − 48/80, method 10
    y, groups = np.ones(150, dtype=int), np.array(["a"] * 70 + ["b"] * 80)
    p = np.array([1] * 56 + [0] * 14 + [1] * 48 + [0] * 32)
    found = measure(y, p, groups, against="b", draws=20).against
    assert found is not None
    tpr = found.groups["a"]["tpr"]
    assert (tpr.value, tpr.low, tpr.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_the_other_group_sees_the_opposite() -> None:
    y, p, groups = rows(2)
    one, other = (measure(y, p, groups, against=name, draws=20).against for name in "ab")
    assert one is not None
    assert other is not None
    for rate in RATES:
        here, there = one.groups["b"][rate], other.groups["a"][rate]
        assert (here.value, here.low, here.high) == (-there.value, -there.high, -there.low)


def test_what_is_undefined() -> None:
    y = [0, 0, 1, 0] * 10
    p = [0, 1, 1, 1] * 10
    groups = {"a": np.arange(40) % 4 < 2, "b": np.arange(40) % 4 >= 2, "none": np.zeros(40, bool)}
    found = measure(y, p, groups, against="b", draws=20).against
    assert found is not None
    assert found.groups["a"]["tpr"].value is None  # a has no positives
    assert found.groups["a"]["fpr"].value == -0.5
    assert all(interval.value is None for interval in found.groups["none"].values())
    lost = [None, *p[1:]]
    half = measure(y, [None] * 4 + p[4:], groups, against="b", draws=20).against
    assert half is not None
    assert half.groups["a"]["fpr"].value is None  # more than 5 % are missing
    assert half.groups["a"]["acc"].value == pytest.approx(9 / 20 - 9 / 20)
    assert measure(y, lost, groups, against="b", draws=20).against is not None


def test_a_group_that_is_not_there() -> None:
    y, p, groups = rows(3)
    with raises(MeasurementError, where="against", got="Z", allowed=["a", "b", "c"]):
        measure(y, p, groups, against="Z", draws=20)
    masks = {"a": groups == "a", "nobody": np.zeros(len(y), dtype=bool)}
    with raises(MeasurementError, "has no rows", where="against", got="nobody"):
        measure(y, p, masks, against="nobody", draws=20)


def test_of_every_label() -> None:
    y, p, groups = rows(4)
    result = measure_labels({"l": y, "m": p}, {"l": p, "m": y}, groups, against="a", draws=20)
    assert all(view.against is not None for view in result.views.values())


@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_covers(overlap: float, weighted: bool) -> None:
    """Two groups of 40, one selected nearly always; b shares rows with a."""
    rng = np.random.default_rng(5)
    hits, trials, n = 0, 400, 100
    for _ in range(trials):
        a = rng.random(n) < 0.4
        b = (~a & (rng.random(n) < 0.7)) | (a & (rng.random(n) < overlap))
        p = (rng.random(n) < np.where(b & ~a, 0.9, 0.5)).astype(int)
        weights = rng.choice([0.5, 1.0, 2.0], n) if weighted else None
        found = measure(p, p, {"a": a, "b": b}, weights=weights, against="a", draws=1).against
        assert found is not None
        interval = found.groups["b"]["selection_rate"]
        shared = 0.4 * overlap / (0.4 * overlap + 0.6 * 0.7)
        hits += interval.low <= 0.4 * (1 - shared) <= interval.high
    assert hits / trials >= 0.93


def test_limits_are_made_of_wilson_limits() -> None:
    y, p, groups = rows(6)
    result = measure(y, p, groups, against="a", confidence=0.9, draws=20)
    assert result.against is not None
    ends = {}
    for name in "ab":
        hits = p[groups == name]
        ends[name] = wilson(int(hits.sum()), len(hits), 0.9)
    one, two = (result.groups[name].selection_rate for name in "ba")
    found = result.against.groups["b"]["selection_rate"]
    down = np.hypot(one - ends["b"][0], ends["a"][1] - two)
    up = np.hypot(ends["b"][1] - one, two - ends["a"][0])
    assert (found.low, found.high) == pytest.approx((one - two - down, one - two + up))
