"""One evaluation: its JSON, its warnings, and what it must not depend on."""

import json
import math

import numpy as np
import pytest

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import (
    CountTable,
    MetricSettings,
    compare,
    estimate,
    measure,
    measure_table,
)
from mergekit_fair.fairness.settings import REFERENCES

UNDEFINED = (
    "DPD, EOD, equal opportunity, FPR difference, accuracy difference, predictive parity and the "
    "ratios are undefined"
)
DPD_UNDEFINED = f"1 usable group(s), two are needed: {UNDEFINED}"


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    n = 400
    y_true = rng.integers(0, 2, n)
    y_pred = np.where(rng.random(n) < 0.8, y_true, 1 - y_true)
    return y_true, y_pred, rng.choice(["a", "b", "c"], n)


def test_the_json(rows):
    y_true, y_pred, groups = rows
    result = measure(*rows, draws=200).to_dict()
    assert list(result) == [
        "n", "n_pos", "unanswered", "reference", "confidence", "degenerate", "metrics",
        "uncertainty", "between_groups", "one_vs_rest", "to_overall", "labels", "groups",
        "deciding", "warnings",
    ]  # fmt: skip
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["n"] == 400
    assert result["warnings"] == []
    assert list(result["metrics"]) == [
        "acc", "dpd", "eod", "bal_acc", "worst_group_acc", "selection_rate", "tpr", "fpr",
        "fnr", "equal_opportunity", "fpr_gap", "acc_gap", "predictive_parity", "dp_ratio",
        "eo_ratio",
    ]  # fmt: skip
    for interval in result["metrics"].values():
        assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
    assert result["metrics"]["dpd"]["value"] == result["between_groups"]["dpd"]
    assert result["labels"]["base_rate"] == y_true.mean()
    labels = [y_true[groups == name].mean() for name in "abc"]
    assert result["labels"]["dpd"] == pytest.approx(max(labels) - min(labels))
    group = groups == "b"
    assert result["groups"]["b"] == pytest.approx(
        {
            "n": group.sum(),
            "n_pos": y_true[group].sum(),
            "selection_rate": y_pred[group].mean(),
            "tpr": y_pred[group & (y_true == 1)].mean(),
            "fpr": y_pred[group & (y_true == 0)].mean(),
            "fnr": 1 - y_pred[group & (y_true == 1)].mean(),
            "ppv": y_true[group & (y_pred == 1)].mean(),
            "acc": (y_pred == y_true)[group].mean(),
            "bal_acc": (
                y_pred[group & (y_true == 1)].mean() + 1 - y_pred[group & (y_true == 0)].mean()
            )
            / 2,
            "unanswered": 0,
        }
    )


def test_the_reference_decides_dpd_and_eod(rows):
    result = measure(*rows, reference="one_vs_rest", draws=50).to_dict()
    for metric in ("dpd", "eod"):
        against_rest = {g: v[metric] for g, v in result["one_vs_rest"]["groups"].items()}
        summary = result["one_vs_rest"][metric]
        assert result["metrics"][metric]["value"] == summary["worst"] == max(against_rest.values())
        assert against_rest[summary["worst_group"]] == summary["worst"]
        assert summary["macro"] == pytest.approx(np.mean(list(against_rest.values())))
    overall = measure(*rows, reference="to_overall", draws=50).to_dict()
    assert overall["metrics"]["eod"]["value"] == overall["to_overall"]["eod"]


def test_deterministic_and_free_of_row_and_group_order(rows):
    first = measure(*rows, seed=5, draws=100).to_dict()
    assert measure(*rows, seed=5, draws=100).to_dict() == first
    assert measure(*rows, seed=6, draws=100).to_dict() != first
    order = np.random.default_rng(0).permutation(len(rows[0]))
    assert measure(*(column[order] for column in rows), seed=5, draws=100).to_dict() == first
    masks = {name: rows[2] == name for name in "cab"}
    assert measure(*rows[:2], masks, seed=5, draws=100).to_dict() == first
    lists = [[name] for name in rows[2]]
    assert measure(*rows[:2], lists, seed=5, draws=100).to_dict() == first
    assert (
        measure_table(CountTable.tally(*rows), MetricSettings(seed=5, draws=100)).to_dict() == first
    )


@pytest.mark.parametrize("constant", [0, 1])
def test_a_constant_predictor_is_degenerate(rows, constant):
    y_true, _, groups = rows
    result = measure(y_true, np.full(len(y_true), constant), groups, draws=50).to_dict()
    assert result["degenerate"] is True
    for name in ("dpd", "eod", "equal_opportunity"):
        interval = result["metrics"][name]
        assert interval["value"] == interval["low"] == 0.0
        assert 0.0 < interval["high"] < 0.1  # other rows might be predicted otherwise
    assert result["metrics"]["bal_acc"]["value"] == 0.5
    of_selected = [
        "predictive_parity is undefined: a group that decides has no row that is predicted "
        "positive",
        "dp_ratio is undefined: no row of any group is predicted positive",
        "eo_ratio is undefined: TPR and FPR are 0 in every group that has them",
    ]
    assert result["warnings"] == [
        "predictions are (nearly) constant: small gaps say nothing about fairness",
        *(of_selected if constant == 0 else []),
        "bal_acc is the same in every bootstrap draw: its interval has no width",
    ]


def test_one_group_has_no_gap(rows):
    y_true, y_pred, _ = rows
    result = measure(y_true, y_pred, ["all"] * len(y_true), draws=50).to_dict()
    assert result["metrics"]["dpd"] == {"value": None, "low": None, "high": None}
    assert result["between_groups"] == result["to_overall"] == {"dpd": None, "eod": None}
    assert result["one_vs_rest"]["dpd"] == {"macro": None, "worst": None, "worst_group": None}
    assert result["warnings"] == [
        DPD_UNDEFINED,
        "group 'all' holds every row: its one-vs-rest gaps are undefined",
    ]


def test_no_group_at_all():
    result = measure([0, 1] * 50, [0, 1] * 50, [None] * 100, draws=50).to_dict()
    assert result["groups"] == {}
    assert result["metrics"]["worst_group_acc"]["value"] is None
    assert result["metrics"]["acc"]["value"] == 1.0
    assert "no usable group: worst-group accuracy is undefined" in result["warnings"]


def test_a_group_without_positives_is_left_out_of_tpr():
    y_true = [0, 1] * 60 + [0] * 30
    y_pred = [0, 1] * 60 + [0, 1, 0] * 10
    result = measure(y_true, y_pred, ["a"] * 60 + ["b"] * 60 + ["x"] * 30, draws=50).to_dict()
    assert result["groups"]["x"]["tpr"] is None
    assert result["metrics"]["eod"]["value"] == pytest.approx(1 / 3)
    assert (
        "too few rows to decide a gap (min_group_size 1): 'x' (0 positive rows: too few for TPR)"
        in result["warnings"]
    )


HALF = "EOD is undefined: {} cannot be compared between two usable groups"
NEITHER = "EOD is undefined: neither TPR nor FPR can be compared between two usable groups"


@pytest.mark.parametrize(
    ("y_true", "y_pred", "eod", "warning"),
    [
        ([0, 0, 0, 0, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1, 0, 1], None, HALF.format("TPR")),
        ([1, 1, 1, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1, 0, 1], None, HALF.format("FPR")),
        ([0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0, 1, 0], None, NEITHER),
    ],
)
def test_half_an_eod_is_none(y_true, y_pred, eod, warning):
    groups = ["a"] * 4 + ["b"] * 4
    for reference in REFERENCES:
        result = measure(y_true, y_pred, groups, draws=50, reference=reference).to_dict()
        assert result["metrics"]["eod"] == {"value": eod, "low": None, "high": None}
        assert result["metrics"]["eo_ratio"]["value"] is None
        assert set(result["uncertainty"]["eod"].values()) == {None}
        assert warning in result["warnings"]
    assert result["between_groups"]["eod"] is result["to_overall"]["eod"] is eod
    of_rest = result["one_vs_rest"]
    assert set(of_rest["eod"].values()) == {of_rest["groups"]["a"]["eod"]} == {None}
    assert math.isnan(estimate(y_true, y_pred, groups)["eod"])
    compared = compare(y_true, [1 - y for y in y_pred], y_pred, groups, draws=50)
    assert compared.metrics["eod"].value is None
    assert "the difference in eod is undefined" in compared.warnings


def test_small_and_excluded_groups_are_reported_but_decide_nothing():
    y_true = [0, 1] * 45
    y_pred = [0, 1] * 20 + [0, 1] * 19 + [1, 1] + [1, 1] * 2 + [1] * 6
    groups = ["a"] * 40 + ["b"] * 40 + ["tiny"] * 4 + ["other"] * 6
    result = measure(
        y_true, y_pred, groups, min_group_size=5, exclude=["other"], draws=100
    ).to_dict()
    assert result["between_groups"]["dpd"] == pytest.approx(1 / 40)
    assert result["groups"]["other"]["selection_rate"] == 1.0
    assert result["metrics"]["worst_group_acc"]["value"] == 39 / 40
    assert result["one_vs_rest"]["dpd"]["worst_group"] in ("a", "b")
    assert result["one_vs_rest"]["groups"]["tiny"]["dpd"] > 0.4
    assert "too few rows to decide a gap (min_group_size 5): 'tiny' (4 rows)" in result["warnings"]


def test_an_empty_mask_and_one_class_of_labels():
    masks = {"a": np.arange(60) < 30, "b": np.arange(60) >= 30, "none": np.zeros(60, dtype=bool)}
    result = measure([0] * 60, [0, 1] * 30, masks, draws=50).to_dict()
    assert result["groups"]["none"] == {
        "n": 0, "n_pos": 0, "selection_rate": None, "tpr": None, "fpr": None, "fnr": None,
        "ppv": None, "acc": None, "bal_acc": None, "unanswered": 0,
    }  # fmt: skip
    assert result["metrics"]["bal_acc"]["value"] is None
    assert (
        "group 'none' has no rows: its rates are undefined, left out of every gap"
        in result["warnings"]
    )
    assert (
        "there are no positive labels: TPR and balanced accuracy are undefined"
        in result["warnings"]
    )


def test_an_interval_too_often_undefined_is_not_given():
    y_true = [1] + [0] * 29
    result = measure(y_true, [1, 0, 1] * 10, ["a", "b"] * 15, draws=500).to_dict()
    assert result["metrics"]["bal_acc"]["low"] is None
    (warning,) = [text for text in result["warnings"] if text.startswith("bal_acc")]
    assert warning.endswith("of the bootstrap draws, more than 5%: no interval")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"exclude": ["otter"]},
            "exclude: no such group; got 'otter'; allowed: a, b. Name groups as they are named in "
            "the data.",
        ),
        ({"min_group_size": 0}, "min_group_size: must be an integer, at least 1; got 0."),
        (
            {"reference": "macro"},
            "reference: unknown reference for DPD and EOD; got 'macro'; allowed: between_groups, "
            "one_vs_rest, to_overall.",
        ),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(MeasurementError) as caught:
        measure([0, 1], [0, 1], ["a", "b"], **options)
    assert str(caught.value) == message


def test_excluded_names_are_compared_as_strings():
    y_true = [0, 1] * 30
    groups = [7, 8, 9] * 20
    result = measure(y_true, y_true, groups, exclude=[9], draws=50)
    assert result == measure(y_true, y_true, list(map(str, groups)), exclude="9", draws=50)
    assert result.metrics["dpd"].value == 0.0
