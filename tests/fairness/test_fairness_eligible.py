"""Which groups decide: one function, the same everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import (
    CountTable,
    Measurement,
    MetricSettings,
    measure,
    measure_scores,
)
from mergekit_fair.fairness.deciding import Deciding
from mergekit_fair.fairness.eligible_groups import (
    EligibleGroups,
    eligible_groups,
    is_answered,
    worst_group,
)
from mergekit_fair.fairness.rates import DPD_RATES, EOD_RATES, positive_predictive_value
from mergekit_fair.fairness.settings import REFERENCES

NAMES = ("a", "b", "empty", "other")


@pytest.mark.parametrize(
    ("least", "exclude", "expected"),
    [
        (1, (), [True, True, False, True]),
        (5, (), [True, False, False, True]),
        (1, ("other",), [True, True, False, False]),
        (41, (), [False, False, False, False]),
    ],
)
def test_present_large_enough_and_not_excluded(least, exclude, expected):  # type: ignore[no-untyped-def]
    settings = MetricSettings(min_group_size=least, exclude=exclude)
    assert eligible_groups(NAMES, [40, 4, 0, 30], settings).tolist() == expected


def test_an_unknown_name_is_refused() -> None:
    with raises(MeasurementError, where="exclude", got="others", allowed=NAMES):
        eligible_groups(NAMES, [1, 1, 1, 1], MetricSettings(exclude=["others"]))


def test_five_percent_may_be_missing_and_no_row_more() -> None:
    for size in (20, 60, 100, 140, 1000):
        allowed = size // 20
        assert is_answered([allowed], [size])
        assert not is_answered([0, allowed + 1], [size, size])


def test_tables_and_scores_decide_alike() -> None:
    """One missing row of 20 is allowed, two are not; an excluded group may miss them all."""
    groups = ["a"] * 20 + ["b"] * 200 + ["c"] * 4
    for missing, exclude, comparable in (
        ([0], (), True),
        ([0, 1], (), False),
        ([220, 221], ("c",), True),
        ([220, 221], (), False),
    ):
        settings = MetricSettings(exclude=exclude)
        y_pred = [None if row in missing else row % 2 for row in range(224)]
        table = CountTable.tally([row % 2 for row in range(224)], y_pred, groups)
        assert EligibleGroups.of(table, settings).is_answered == comparable
        scores = measure_scores(y_pred, groups, exclude=exclude, draws=20)
        assert (scores.gap.value is not None) == comparable


def test_the_worst_group_is_eligible_too() -> None:
    gaps = {"a": 0.1, "b": 0.3, "empty": None, "other": 0.9}
    sizes = {"a": 40, "b": 4, "empty": 0, "other": 30}
    evaluation = {
        "one_vs_rest": {"groups": {name: {"dpd": gap, "eod": gap} for name, gap in gaps.items()}},
        "groups": {name: {"n": 2 * n, "n_pos": n} for name, n in sizes.items()},
        "n": 2 * sum(sizes.values()),
        "n_pos": sum(sizes.values()),
    }
    options = {"candidates": NAMES, "excluded": ["other", "nobody"]}
    assert worst_group(evaluation, **options) == ("b", {"a": 0.1, "b": 0.3})
    assert worst_group(evaluation, **options, min_group_size=5) == ("a", {"a": 0.1})
    with raises(MeasurementError):
        worst_group(evaluation, candidates=["empty"])


def test_masks_are_numpy_of_groups() -> None:
    mask = eligible_groups((), [], MetricSettings())
    assert mask.shape == (0,)
    assert np.asarray(mask).dtype == bool


def rows_of(**groups: tuple[int, int, int, int]) -> tuple[list[int], list[int], list[str]]:
    """Labels, predictions and groups; of each group rows with y, ŷ = 00, 01, 10, 11."""
    cells = [(0, 0), (0, 1), (1, 0), (1, 1)]
    rows = [
        (y, p, name)
        for name, counts in groups.items()
        for (y, p), count in zip(cells, counts, strict=True)
        for _ in range(count)
    ]
    labels, predicted, names = zip(*rows, strict=True)
    return list(labels), list(predicted), list(names)


# c has 60 rows, 6 of them positive: it may decide DPD and the gap of FPR, no gap of TPR.
FEW_POSITIVES = {"a": (60, 20, 10, 40), "b": (50, 30, 20, 50), "c": (34, 20, 6, 0)}


def test_a_rate_decides_by_the_rows_of_its_label() -> None:
    rows = rows_of(**FEW_POSITIVES)
    loose = measure(*rows, draws=20)
    assert loose.metrics["equal_opportunity"].value == pytest.approx(0.8)  # 40 of 50, none of 6
    found = measure(*rows, min_group_size=30, draws=20)
    assert found.metrics["equal_opportunity"].value == pytest.approx(0.8 - 5 / 7)
    assert found.metrics["fpr_gap"].value == pytest.approx(3 / 8 - 1 / 4)
    assert found.metrics["dpd"].value == loose.metrics["dpd"].value
    assert found.deciding["dpd"].groups == ("b", "c")
    assert found.deciding["eod"] == Deciding(rate="fpr", highest="b", lowest="a")
    (warning,) = [text for text in found.warnings if "too few rows" in text]
    assert "'c' (6 positive rows: too few for TPR)" in warning
    assert "'a'" not in warning


@pytest.mark.parametrize("reference", REFERENCES)
def test_labels_decide_and_no_predictions(reference: str) -> None:
    """Two models of the same rows have the same deciding groups, whatever they predict."""
    y_true, y_pred, groups = rows_of(**FEW_POSITIVES)
    settings = MetricSettings(reference, min_group_size=30)
    for rates in (DPD_RATES, EOD_RATES, (positive_predictive_value,)):
        one, other = (
            EligibleGroups.of(CountTable.tally(y_true, p, groups), settings).sizes.deciding(
                rates, reference
            )
            for p in (y_pred, [1 - p for p in y_pred])
        )
        np.testing.assert_array_equal(one, other)


def test_no_model_leaves_predictive_parity_by_predicting_a_group_never() -> None:
    y_true, y_pred, groups = rows_of(**FEW_POSITIVES)
    hidden = [0 if name == "c" else p for name, p in zip(groups, y_pred, strict=True)]
    found = measure(y_true, hidden, groups, min_group_size=30, draws=20)
    assert found.metrics["predictive_parity"].value is None
    assert "predictive_parity" not in found.deciding
    assert any(text.startswith("predictive_parity is undefined") for text in found.warnings)


def test_against_the_rest_the_rest_must_be_large() -> None:
    """970 rows against 30 of one group: either gap rests on the 20 of them that are positive."""
    rows = rows_of(most=(400, 85, 85, 400), few=(5, 5, 0, 20))
    options: Any = {"reference": "one_vs_rest", "draws": 20}
    assert measure(*rows, **options).metrics["eod"].value is not None
    found = measure(*rows, **options, min_group_size=30)
    assert found.metrics["dpd"].value is not None
    assert found.metrics["eod"].value is None
    y, p, _ = rows
    masks = {"all but 20": np.arange(len(y)) >= 20, "half": np.arange(len(y)) % 2 == 0}
    overlapping = measure(y, p, masks, **options, min_group_size=30)
    assert overlapping.deciding["dpd"].groups == ("half",)
    assert any("'all but 20' (20 rows outside it" in text for text in overlapping.warnings)
    worst = worst_group(overlapping.to_dict(), candidates=masks, min_group_size=30)
    assert list(worst[1]) == ["half"]


def test_weighted_rows_are_counted() -> None:
    y, p, names = rows_of(a=(30, 10, 10, 30), b=(10, 5, 4, 6))
    heavy = [100.0 if name == "b" else 0.01 for name in names]
    found = measure(y, p, names, weights=heavy, min_group_size=30, draws=20)
    assert found.metrics["dpd"].value is None
    assert found.groups["b"].n == 25


def test_overlapping_groups_decide_each_by_its_own_rows() -> None:
    masks = {"a": np.arange(200) < 120, "b": np.arange(200) >= 60, "c": np.arange(200) % 20 == 0}
    y, p = np.arange(200) % 2, np.arange(200) % 3 > 0
    found = measure(y, p, masks, min_group_size=30, draws=20)
    assert set(found.deciding["dpd"].groups) == {"a", "b"}
    assert any("'c' (10 rows, none positive)" in text for text in found.warnings)


def test_equal_groups_are_named_by_their_names_in_any_order() -> None:
    rows = {
        "b": (30, 10, 10, 30),
        "a": (30, 10, 10, 30),
        "d": (20, 20, 10, 30),
        "c": (20, 20, 10, 30),
    }
    for names in (rows, dict(reversed(rows.items()))):
        found = measure(*rows_of(**{name: rows[name] for name in names}), draws=20)
        assert found.deciding["dpd"] == Deciding(rate="selection_rate", highest="c", lowest="a")
        assert found.deciding["worst_group_acc"] == Deciding(rate="acc", lowest="c")
        signed = measure(
            *rows_of(**{name: rows[name] for name in names}), reference="to_overall", draws=20
        )
        assert signed.deciding["dpd"] == Deciding(rate="selection_rate", lowest="a")


def test_a_measurement_reads_its_deciding_groups_again() -> None:
    found = measure(*rows_of(**FEW_POSITIVES), draws=20)
    assert Measurement.from_dict(found.to_dict()) == found
    assert found.to_dict()["deciding"]["worst_group_acc"] == {"rate": "acc", "lowest": "c"}


def test_a_small_reference_group_is_said() -> None:
    found = measure(*rows_of(**FEW_POSITIVES), min_group_size=70, against="c", draws=20)
    assert any("every difference from 'c' rests on its 60 rows" in text for text in found.warnings)
