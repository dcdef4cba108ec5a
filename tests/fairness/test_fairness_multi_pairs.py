"""Paired differences of classes and labels, and offsets that give wanted selection rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import (
    compare,
    compare_classes,
    compare_labels,
    measure_classes,
    measure_labels,
)
from mergekit_fair.fairness.level_offsets import level_offsets
from mergekit_fair.fairness.multi_pairs import mean_difference
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.fairness.pair import Difference

N = 240
NAMES = ("hate", "offensive", "neither")


def answers(seed: int, bias: float = 0.0) -> tuple[Any, Any, Any, Any]:
    """Truth, two predictions, groups."""
    rng = np.random.default_rng(seed)
    truth, groups = rng.integers(0, 3, N), rng.choice(["a", "b", "c"], N)
    said = []
    for shift in (bias, 0.0):
        logits = 2 * np.eye(3)[truth] + rng.gumbel(size=(N, 3))
        logits[groups == "a", 0] += shift
        said.append(np.array(NAMES)[logits.argmax(axis=1)])
    return np.array(NAMES)[truth], said[0], said[1], groups


class TestClasses:
    def test_values_are_those_of_the_two_measurements(self) -> None:
        truth, a, b, groups = answers(0, 1.0)
        found = compare_classes(truth, a, b, groups)
        one, two = (measure_classes(truth, each, groups) for each in (a, b))
        for name in MULTI_METRICS:
            expected = two.metrics[name].value - one.metrics[name].value
            assert found.metrics[name].value == pytest.approx(expected, abs=1e-12), name

    def test_a_view_is_the_binary_comparison(self) -> None:
        truth, a, b, groups = answers(1, 1.0)
        found = compare_classes(truth, a, b, groups)
        for name in NAMES:
            binary = compare(truth == name, a == name, b == name, groups)
            for metric, difference in found.views[name].items():
                assert difference.value == binary.metrics[metric].value, (name, metric)

    def test_the_other_order_has_the_other_sign(self) -> None:
        truth, a, b, groups = answers(2, 1.0)
        there, back = (compare_classes(truth, *pair, groups) for pair in ((a, b), (b, a)))
        for name, difference in there.metrics.items():
            other = back.metrics[name]
            assert (difference.value, difference.low, difference.high) == pytest.approx(
                (-other.value, -other.high, -other.low), abs=1e-12
            )
            assert difference.p_value == pytest.approx(other.p_value, abs=1e-12)

    def test_equal_predictions_differ_by_nothing(self) -> None:
        truth, a, _, groups = answers(3, 1.0)
        for difference in compare_classes(truth, a, a, groups).metrics.values():
            assert difference.value == 0
            assert difference.low <= 0 <= difference.high
            assert difference.p_value == 1

    def test_of_two_classes_all_gaps_are_the_binary_gap(self) -> None:
        truth, a, b, groups = answers(4, 1.0)
        two = [np.where(each == "hate", "hate", "other") for each in (truth, a, b)]
        found = compare_classes(*two, groups)
        binary = compare(*(each == "hate" for each in two), groups)
        for gap in ("dpd", "eod"):
            for over in ("macro", "worst"):
                value = found.metrics[f"{over}_{gap}"].value
                assert value == pytest.approx(binary.metrics[gap].value, abs=1e-12)

    def test_the_order_of_rows_and_names_of_groups_say_nothing(self) -> None:
        truth, a, b, groups = answers(5, 1.0)
        mixed = np.random.default_rng(0).permutation(N)
        renamed = np.array([{"a": "z", "b": "y", "c": "x"}[each] for each in groups])
        plain = compare_classes(truth, a, b, groups)
        again = compare_classes(truth[mixed], a[mixed], b[mixed], renamed[mixed])
        for name, difference in plain.metrics.items():
            assert again.metrics[name].value == pytest.approx(difference.value, abs=1e-12)

    def test_an_unanswered_row_is_wrong_and_predicts_no_class(self) -> None:
        truth, a, b, groups = answers(6)
        silent = np.array(b, dtype=object)
        silent[:5] = None
        found = compare_classes(truth, a, silent, groups)
        two = measure_classes(truth, silent, groups)
        one = measure_classes(truth, a, groups)
        assert found.metrics["acc"].value == pytest.approx(two.acc.value - one.acc.value, abs=1e-12)

    def test_weights_are_copies_of_rows_in_the_value(self) -> None:
        truth, a, b, groups = answers(7, 1.0)
        weights = np.random.default_rng(0).integers(1, 4, N)
        weighted = compare_classes(truth, a, b, groups, weights=weights)
        copied = compare_classes(*(np.repeat(each, weights) for each in (truth, a, b, groups)))
        for name, difference in weighted.metrics.items():
            assert difference.value == pytest.approx(copied.metrics[name].value, abs=1e-12)

    def test_clusters_widen(self) -> None:
        truth, a, b, groups = answers(8, 2.0)
        found = {}
        for name, clusters in (("rows", None), ("copies", np.tile(np.arange(N), 4))):
            rows = [np.tile(each, 4) for each in (truth, a, b, groups)]
            found[name] = compare_classes(*rows, clusters=clusters).metrics
        for name in ("acc", "macro_dpd", "worst_dpd"):
            rows, copies = found["rows"][name], found["copies"][name]
            assert copies.value == pytest.approx(rows.value, abs=1e-12)
            assert copies.high - copies.low > 1.5 * (rows.high - rows.low), name

    def test_a_gap_of_a_class_that_one_group_has_alone_is_undefined_in_both(self) -> None:
        truth, a, b, groups = answers(9)
        only = truth.copy()
        only[(groups != "a") & (truth == "hate")] = "neither"
        found = compare_classes(only, a, b, groups, classes=NAMES)
        assert found.views["hate"]["eod"].value is None
        assert found.metrics["macro_eod"].value is not None


class TestLabels:
    def test_values_are_those_of_the_two_measurements(self) -> None:
        rng = np.random.default_rng(0)
        truth = {name: rng.integers(0, 2, N) for name in ("toxic", "threat")}
        a, b = (
            {name: np.where(rng.random(N) < right, of, 1 - of) for name, of in truth.items()}
            for right in (0.7, 0.9)
        )
        groups = rng.choice(["x", "y"], N)
        found = compare_labels(truth, a, b, groups)
        one, two = (measure_labels(truth, each, groups) for each in (a, b))
        for name in MULTI_METRICS:
            expected = two.metrics[name].value - one.metrics[name].value
            assert found.metrics[name].value == pytest.approx(expected, abs=1e-12)
        assert found.metrics["acc"].p_value < 0.001

    def test_other_labels_are_refused(self) -> None:
        columns = {"toxic": [0, 1]}
        with pytest.raises(MeasurementError, match="needs the labels of y_true"):
            compare_labels(columns, columns, {"threat": [0, 1]}, ["a", "b"])


class TestMeans:
    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_of_equal_differences_is_that_difference(self, size: int) -> None:
        one = Difference(value=-0.2, low=-0.3, high=-0.1, p_value=0.001)
        mean = mean_difference([one] * size, 0.95)
        assert (mean.value, mean.low, mean.high) == pytest.approx((-0.2, -0.3, -0.1))

    @given(
        st.lists(st.tuples(st.floats(-1, 1), *[st.floats(0.001, 1)] * 2), min_size=1),
        st.sampled_from([0.8, 0.9, 0.95, 0.99]),
    )
    @settings(max_examples=100, deadline=None)
    def test_p_values_and_limits_agree(
        self, each: list[tuple[float, float, float]], confidence: float
    ) -> None:
        found = mean_difference(
            [Difference(value=v, low=v - down, high=v + up, p_value=0.5) for v, down, up in each],
            confidence,
        )
        alpha = 1 - confidence
        if found.low > 1e-9 or found.high < -1e-9:
            assert found.p_value <= alpha + 1e-9
        elif found.low < -1e-9 and found.high > 1e-9:
            assert found.p_value >= alpha - 1e-9

    def test_a_difference_without_limits_has_none_in_the_mean(self) -> None:
        limits = Difference(value=0.1, low=0.0, high=0.2, p_value=0.1)
        mean = mean_difference([limits, Difference(value=0.3)], 0.95)
        assert (mean.value, mean.low, mean.p_value) == (pytest.approx(0.2), None, None)
        assert mean_difference([limits, Difference()], 0.95).value == pytest.approx(0.1)
        assert mean_difference([Difference()], 0.95).value is None


class TestOffsets:
    @given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_distinct_scores_reach_wanted_shares(
        self, seed: int, size: int, is_exclusive: bool
    ) -> None:
        rng = np.random.default_rng(seed)
        scores = rng.normal(size=(100, size))
        rates = rng.dirichlet(np.ones(size)) if is_exclusive else rng.random(size)
        shifted = scores + level_offsets(scores, rates, is_exclusive=is_exclusive)
        shares = (
            np.bincount(shifted.argmax(axis=1), minlength=size) / 100
            if is_exclusive
            else (shifted > 0).mean(axis=0)
        )
        assert np.abs(shares - rates).max() <= 0.011

    def test_own_shares_change_no_prediction(self) -> None:
        scores = np.random.default_rng(0).normal(size=(200, 4))
        before = scores.argmax(axis=1)
        rates = np.bincount(before, minlength=4) / 200
        after = (scores + level_offsets(scores, rates, is_exclusive=True)).argmax(axis=1)
        assert (before == after).mean() >= 0.99

    def test_all_or_none(self) -> None:
        scores = np.random.default_rng(0).normal(size=(50, 2))
        shifted = scores + level_offsets(scores, np.array([0.0, 1.0]), is_exclusive=False)
        assert (shifted > 0).mean(axis=0).tolist() == [0.0, 1.0]

    def test_weights_count(self) -> None:
        scores = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
        weights = np.array([1.0, 1.0, 2.0])
        offsets = level_offsets(scores, np.array([0.5, 0.5]), weights, is_exclusive=True)
        assert (scores + offsets).argmax(axis=1).tolist() == [0, 0, 1]
