"""Weights of rows: repeated rows, plain loops, fairlearn, and what must change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refusals import raises
from transfers import matrix

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import (
    METRICS,
    compare,
    compare_many,
    estimate,
    matching_threshold,
    measure,
    measure_classes,
    measure_labels,
    measure_scores,
)
from mergekit_fair.fairness.intervals import wilson
from mergekit_fair.fairness.metric_kinds import Proportion
from mergekit_fair.fairness.settings import REFERENCES


class Rows:
    """n rows of overlapping groups or a partition, some unanswered, some labels of one class."""

    def __init__(self, seed: int, n: int = 120) -> None:
        rng = np.random.default_rng(seed)
        self.y = (rng.random(n) < rng.choice([0.1, 0.5, 0.5, 1.0])).astype(int)
        self.a, self.b = (self._predicted(rng, n, seed % 3) for _ in range(2))
        which = rng.integers(0, 4, n)
        self.groups: Any = {
            name: rng.random(n) < 0.4 if seed % 2 else which == at for at, name in enumerate("wxyz")
        }
        self.whole = rng.integers(1, 5, n)
        self.weights = rng.gamma(1.0, 1.0, n) + 1e-3
        self.scores = rng.random(n)
        self.rng = rng

    def _predicted(self, rng: np.random.Generator, n: int, lost: int) -> Any:
        predicted = np.where(rng.random(n) < 0.75, self.y, 1 - self.y).astype(object)
        predicted[rng.choice(n, lost, replace=False)] = None
        return predicted

    def take(self, at: Any) -> tuple[Any, Any, Any]:
        return self.y[at], self.a[at], {name: mask[at] for name, mask in self.groups.items()}


def points(result: Any) -> dict[str, float | None]:
    """Every point value of a measurement, by path; numbers of rows and what is drawn left out."""
    found = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                if name not in ("low", "high", "uncertainty", "warnings", "n", "n_pos", "weighted"):
                    walk(part, f"{path}/{name}")
        else:
            found[path] = value

    walk(result, "")
    return {path: value for path, value in found.items() if not path.endswith("unanswered")}


@pytest.mark.parametrize("seed", range(12))
def test_whole_weights_are_repeated_rows(seed: int) -> None:
    rows = Rows(seed)
    again = np.repeat(np.arange(len(rows.y)), rows.whole)
    reference = REFERENCES[seed % 3]
    options: Any = {"reference": reference, "draws": 10}
    weighted = measure(rows.y, rows.a, rows.groups, weights=rows.whole, **options)
    assert points(weighted.to_dict()) == points(measure(*rows.take(again), **options).to_dict())
    assert weighted.weighted
    assert weighted.n == len(rows.y)
    assert {name: group.n for name, group in weighted.groups.items()} == {
        name: mask.sum() for name, mask in rows.groups.items()
    }
    found = estimate(rows.y, rows.a, rows.groups, weights=rows.whole, reference=reference)
    np.testing.assert_equal(found, estimate(*rows.take(again), reference=reference))


@pytest.mark.parametrize("seed", range(4))
def test_whole_weights_are_repeated_rows_everywhere_else(seed: int) -> None:
    rows = Rows(seed)
    again = np.repeat(np.arange(len(rows.y)), rows.whole)
    y, a, groups = rows.take(again)
    few: Any = {"draws": 10}
    both = {"p": rows.y, "q": rows.b == 1}
    predicted = {"p": rows.a, "q": rows.y}
    topic = np.where(rows.groups["w"], "news", np.where(rows.y == 1, "art", "sport"))
    guess = np.where(rows.scores < 0.7, topic, "art")
    weights = rows.whole
    pairs = [
        (
            compare(rows.y, rows.a, rows.b, rows.groups, weights=weights, **few).to_dict(),
            compare(y, a, rows.b[again], groups, **few).to_dict(),
        ),
        (
            measure_scores(rows.scores, rows.groups, weights=weights, **few).to_dict(),
            measure_scores(rows.scores[again], groups, **few).to_dict(),
        ),
        (
            measure_labels(both, predicted, rows.groups, weights=weights, **few).to_dict(),
            measure_labels(
                {k: v[again] for k, v in both.items()},
                {k: v[again] for k, v in predicted.items()},
                groups,
                **few,
            ).to_dict(),
        ),
        (
            measure_classes(topic, guess, rows.groups, weights=weights, **few).to_dict(),
            measure_classes(topic[again], guess[again], groups, **few).to_dict(),
        ),
    ]
    for found, expected in pairs:
        left, right = points(found), points(expected)
        dropped = [path for path in left if "/sizes" in path or path.endswith("p_value")]
        for path in dropped:
            del left[path], right[path]
        assert left == pytest.approx(right, abs=1e-12)
    threshold = matching_threshold(rows.scores, 0.3, weights)
    assert threshold == matching_threshold(rows.scores[again], 0.3)
    moved = matrix(rows.y, rows.a, {"w": rows.b}, rows.groups, weights=weights, step=0.1)
    repeated = matrix(y, a, {"w": rows.b[again]}, groups, step=0.1)
    for metric, value in moved.change.value.items():
        np.testing.assert_array_equal(value, repeated.change.value[metric])


@pytest.mark.parametrize("weight", [1, 3.0, 0.1, 1e-30])
def test_equal_weights_are_none(weight: float) -> None:
    rows = Rows(3)
    equal = np.full(len(rows.y), weight)
    options: Any = {"draws": 50}
    data = rows.y, rows.a, rows.groups
    assert measure(*data, weights=equal, **options) == measure(*data, **options)
    assert compare(rows.y, rows.a, rows.b, rows.groups, weights=equal, **options) == compare(
        rows.y, rows.a, rows.b, rows.groups, **options
    )
    scores: Any = (rows.scores, rows.groups)
    assert measure_scores(*scores, weights=equal) == measure_scores(*scores)
    labels = {"p": rows.y}, {"p": rows.a}, rows.groups
    assert measure_labels(*labels, weights=equal) == measure_labels(*labels)


def test_rows_of_weight_0_are_not_there() -> None:
    rows = Rows(4)
    kept = rows.rng.random(len(rows.y)) < 0.7
    left_out = f"{(~kept).sum()} rows have weight 0: left out"
    for weights in (kept.astype(float), np.where(kept, rows.weights, 0.0)):
        picked = weights[kept] if len(set(weights[kept])) > 1 else None
        found = measure(rows.y, rows.a, rows.groups, weights=weights, draws=50)
        expected = measure(*rows.take(kept), weights=picked, draws=50)
        assert found.warnings == (left_out, *expected.warnings)
        assert found.model_copy(update={"warnings": expected.warnings}) == expected
    compared = compare(rows.y, rows.a, rows.b, rows.groups, weights=weights, draws=50)
    assert compared.n == kept.sum()
    assert compared.warnings[0] == left_out
    scores = measure_scores(rows.scores, rows.groups, weights=weights, draws=50)
    assert scores.n == kept.sum()
    assert scores.warnings[0] == left_out


@pytest.mark.parametrize("reference", REFERENCES)
def test_the_scale_of_weights_changes_nothing(reference: str) -> None:
    rows = Rows(5)
    data, options = (rows.y, rows.a, rows.groups), {"reference": reference, "draws": 100}
    first = measure(*data, weights=rows.weights, **options).to_dict()
    exact = measure(*data, weights=rows.weights * 2.0**40, **options).to_dict()
    assert exact == first
    rounded = measure(*data, weights=rows.weights * 3e5, **options).to_dict()
    flat, other = (numbers(result) for result in (first, rounded))
    assert flat == pytest.approx(other, rel=1e-9, abs=1e-9)


def numbers(value: Any, path: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        parts = [numbers(part, f"{path}/{name}") for name, part in value.items()]
        return {name: number for part in parts for name, number in part.items()}
    return {path: value} if isinstance(value, float) else {}


def test_the_order_of_rows_changes_nothing() -> None:
    rows = Rows(1)
    order = rows.rng.permutation(len(rows.y))
    for weights in (rows.weights, np.round(rows.weights, 1) + 1):
        first = measure(rows.y, rows.a, rows.groups, weights=weights, draws=50)
        assert measure(*rows.take(order), weights=weights[order], draws=50) == first
        compared = compare(rows.y, rows.a, rows.b, rows.groups, weights=weights, draws=50)
        y, a, groups = rows.take(order)
        again = compare(y, a, rows.b[order], groups, weights=weights[order], draws=50)
        assert again == compared


@pytest.mark.parametrize("seed", range(30))
def test_rates_are_shares_of_weight(seed: int) -> None:
    """Every rate by group, and every proportion with its effective number of rows, by a loop."""
    rows = Rows(seed)
    w, y, a = rows.weights, rows.y, rows.a
    answered = np.array([p is not None for p in a])
    right = np.array([p == t for p, t in zip(a, y, strict=True)])
    positive = np.array([p == 1 for p in a])
    every = np.ones(len(y), dtype=bool)
    kinds = {
        "acc": (right, every),
        "selection_rate": (positive, answered),
        "tpr": (positive, answered & (y == 1)),
        "fpr": (positive, answered & (y == 0)),
        "ppv": (y == 1, positive),
        "fnr": (~positive, answered & (y == 1)),
    }

    def share(hits: Any, among: Any) -> float | None:
        return float(w[hits & among].sum() / w[among].sum()) if among.any() else None

    found = measure(y, a, rows.groups, weights=w, draws=10)
    for name, (hits, among) in kinds.items():
        for group, mask in rows.groups.items():
            expected = share(hits, among & mask)
            got = getattr(found.groups[group], name, expected)
            assert got == (None if expected is None else pytest.approx(expected, abs=1e-12))
        if name in METRICS and isinstance(METRICS[name], Proportion) and among.any():
            n = w[among].sum() ** 2 / (w[among] ** 2).sum()
            low, high = wilson(share(hits, among) * n, n, 0.95)
            expected = {"value": share(hits, among), "low": low, "high": high}
            assert found.metrics[name].to_dict() == pytest.approx(expected, abs=1e-9)
    rest = {group: share(positive, answered & ~mask) for group, mask in rows.groups.items()}
    for group, gaps in found.one_vs_rest.groups.items():
        own = share(positive, answered & rows.groups[group])
        known = own is not None and rest[group] is not None
        assert gaps.dpd == (pytest.approx(abs(own - rest[group]), abs=1e-12) if known else None)


def test_a_group_of_all_rows_has_no_rest() -> None:
    """Sums of weights leave no residue that could pass for a rate."""
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, (2, 101))
    groups = {"all": np.ones(101, dtype=bool), "some": rng.random(101) < 0.5}
    weights = rng.random(101) + 0.1
    for reference in REFERENCES:
        found = measure(y, p, groups, weights=weights, reference=reference, draws=50)
        assert found.one_vs_rest.groups["all"].dpd is None
        assert found.one_vs_rest.groups["all"].eod is None
    overall = found.metrics["selection_rate"].value
    assert found.groups["all"].selection_rate == overall


def test_two_groups_of_the_same_rows_are_alike_to_the_bit() -> None:
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 2, (2, 300))
    mask = rng.random(300) < 0.4
    found = estimate(y, p, {"a": mask, "b": mask.copy()}, weights=rng.random(300) + 0.1)
    assert found["dpd"] == found["eod"] == found["predictive_parity"] == 0.0


def test_replicates_are_rows_resampled_with_their_weights() -> None:
    rng = np.random.default_rng(2)
    n = 200
    y, p = rng.integers(0, 2, (2, n))
    groups, weights = rng.choice(["a", "b"], n), rng.choice([0.5, 1.0, 4.0], n)
    found = measure(y, p, groups, weights=weights, draws=4000)
    slow = []
    for _ in range(500):
        at = rng.integers(0, n, n)
        slow.append(estimate(y[at], p[at], groups[at], weights=weights[at])["dpd"])
    more = found.uncertainty["dpd"]
    assert more.standard_error == pytest.approx(np.std(slow), rel=0.12)
    assert more.bias + found.metrics["dpd"].value == pytest.approx(np.mean(slow), abs=0.01)


def test_permutations_leave_weights_with_their_groups() -> None:
    """A weighted null by shuffling predictions among rows (of equal y for EOD)."""
    from mergekit_fair.fairness.counts import CountTable
    from mergekit_fair.fairness.rates import DPD_RATES, gap_of
    from mergekit_fair.fairness.uncertainty import permuted

    rng = np.random.default_rng(3)
    n = 90
    y, p = rng.integers(0, 2, (2, n))
    groups, weights = rng.choice(["a", "b", "c"], n), rng.choice([0.5, 1.0, 4.0], n)
    table, usable = CountTable.tally(y, p, groups, weights), np.ones(3, dtype=bool)
    fast = gap_of(DPD_RATES, permuted(table, 3000, 1, within_labels=False), usable)
    slow = [estimate(y, rng.permutation(p), groups, weights=weights)["dpd"] for _ in range(600)]
    assert fast.mean() == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / np.sqrt(600))
    assert fast.std() == pytest.approx(np.std(slow), rel=0.12)


@pytest.mark.parametrize("seed", range(100))
def test_equal_to_fairlearn(seed: int) -> None:
    from fairlearn.metrics import (
        demographic_parity_difference,
        demographic_parity_ratio,
        equal_opportunity_difference,
        equalized_odds_difference,
        equalized_odds_ratio,
    )

    rng = np.random.default_rng(seed)
    n, k = 200, int(rng.integers(2, 6))
    groups = rng.permutation(np.arange(n) % k).astype(str)
    y, p = rng.integers(0, 2, (2, n))
    w = rng.gamma(0.7, 1.0, n)
    theirs: Any = {
        "dpd": demographic_parity_difference,
        "eod": equalized_odds_difference,
        "equal_opportunity": equal_opportunity_difference,
        "dp_ratio": demographic_parity_ratio,
        "eo_ratio": equalized_odds_ratio,
    }
    for reference in ("between_groups", "to_overall"):
        found = estimate(y, p, groups, weights=w, reference=reference)
        for name, metric in theirs.items():
            if name.endswith("ratio") and reference == "to_overall":
                continue
            expected = metric(y, p, sensitive_features=groups, sample_weight=w, method=reference)
            assert found[name] == pytest.approx(expected, abs=1e-9), name


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -1, 1, 1], "row 1"),
        ([1, 1, float("nan"), 1], "row 2"),
        ([1, 1, None, 1], "row 2"),
        ([1, float("inf"), 1, 1], "row 1"),
        ([0, 0, 0, 0], "all 0"),
        ([1, 1, 1], "one number per row"),
        ([[1, 1, 1, 1]], "one number per row"),
        (2.0, "one number per row"),
        (["1", "1", "1", "1"], "numbers"),
        ([True, True, False, True], "numbers"),
        ([1, 1, "1", 1], "numbers"),
        ([1 + 1j, 1, 1, 1], "numbers"),
        ([1, 1e-200, 1, 1], "too far apart"),
    ],
)
def test_what_is_no_weight(weights: Any, message: str) -> None:
    y, p, groups = [0, 1, 0, 1], [0, 1, 1, 1], ["a", "a", "b", "b"]
    calls: list[Any] = [
        lambda: measure(y, p, groups, weights=weights),
        lambda: estimate(y, p, groups, weights=weights),
        lambda: compare(y, p, y, groups, weights=weights),
        lambda: compare_many(y, {"p": p, "q": y}, groups, baseline="p", weights=weights),
        lambda: measure_scores([0.1, 0.2, 0.3, 0.4], groups, weights=weights),
        lambda: measure_classes(y, p, groups, weights=weights),
        lambda: measure_labels({"l": y}, {"l": p}, groups, weights=weights),
        lambda: matching_threshold([0.1, 0.2, 0.3, 0.4], 0.5, weights),
        lambda: matrix(y, p, {"a": y}, groups, step=0.1, weights=weights),
    ]
    for call in calls:
        with raises(MeasurementError, message, where="weights"):
            call()


def test_min_group_size_counts_rows_and_missing_predictions_their_weight() -> None:
    y, p = [0, 1] * 20, [0, 1] * 19 + [0, None]
    groups, weights = ["a"] * 20 + ["b"] * 20, np.ones(40)
    weights[:20] = 100.0
    small = measure(y, p, groups, weights=weights, min_group_size=21, draws=10)
    assert small.metrics["dpd"].value is None
    assert measure(y, p, groups, weights=weights, draws=10).metrics["dpd"].value is not None
    weights[-1] = 5.0  # 5 of 24 of b's weight
    assert measure(y, p, groups, weights=weights, draws=10).metrics["dpd"].value is None


def test_weights_of_predictions_decide_their_shares() -> None:
    labels, predicted = (np.array(v, dtype=np.int8) for v in ([1, 0, 0], [1, 2, 0]))
    rows = Predictions("t", (0, 1, 2), labels, predicted, {}, (), weights=np.array([3.0, 1.0, 1.0]))
    assert rows.base_rate == 0.6
    assert rows.selection_rate == 0.75
    assert rows.is_weighted
    unanswered = rows.without_predictions()
    assert np.isnan(unanswered.selection_rate)
    assert unanswered.weights is rows.weights


def test_a_measurement_says_that_it_is_weighted() -> None:
    rows = Rows(0)
    found = measure(rows.y, rows.a, rows.groups, weights=rows.weights, draws=10)
    assert list(found.to_dict())[:3] == ["n", "n_pos", "weighted"]
    assert type(found).from_dict(found.to_dict()) == found
    assert "weighted" not in measure(rows.y, rows.a, rows.groups, draws=10).to_dict()
