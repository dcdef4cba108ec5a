"""AUC by group and against the background: brute force over pairs, scikit-learn, weights."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import raises
from sklearn.metrics import roc_auc_score

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import jackknife, score_quality
from mergekit_fair.fairness.ranking import RankedRows

Table = dict[str, Any]


def _table(seed: int, n: int = 60) -> Table:
    """Ties, overlapping groups, weights with zeros, missing scores; a group without a class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    scores = np.round(rng.normal(size=n) + y, rng.integers(0, 3))
    scores[rng.random(n) < rng.choice([0, 0.03, 0.2])] = np.nan
    groups = {
        name: rng.random(n) < share for name, share in zip("abc", (0.2, 0.5, 0.8), strict=True)
    }
    groups["only"] = (y == 1) & (rng.random(n) < 0.2)
    weights = np.where(rng.random(n) < 0.1, 0.0, rng.choice([1.0, 2.5, 1 / 3], n))
    return {"y_true": y, "scores": scores, "groups": groups, "weights": weights}


def _by_pairs(table: Table, positives: np.ndarray, negatives: np.ndarray) -> float | None:
    """The definition, one pair at a time."""
    won = total = 0.0
    y, s, w = table["y_true"], table["scores"], table["weights"]
    for i, j in itertools.product(np.flatnonzero(positives), np.flatnonzero(negatives)):
        if y[i] == 1 and y[j] == 0 and np.isfinite(s[i]) and np.isfinite(s[j]):
            total += w[i] * w[j]
            won += w[i] * w[j] * ((s[i] > s[j]) + (s[i] == s[j]) / 2)
    return won / total if total else None


@pytest.mark.parametrize("seed", range(25))
def test_by_pairs_and_by_scikit_learn(seed: int) -> None:
    table = _table(seed)
    found = score_quality(**table, draws=20)
    every = np.ones(len(table["y_true"]), dtype=bool)
    expected = {"all": _by_pairs(table, every, every)}
    actual = {"all": found.auc.value}
    for name, mask in table["groups"].items():
        group = found.groups[name]
        expected[name] = _by_pairs(table, mask, mask)
        expected[f"{name}, bpsn"] = _by_pairs(table, ~mask, mask)
        expected[f"{name}, bnsp"] = _by_pairs(table, mask, ~mask)
        actual[name] = group.auc.value
        actual[f"{name}, bpsn"] = group.bpsn_auc.value
        actual[f"{name}, bnsp"] = group.bnsp_auc.value
        rows = mask & np.isfinite(table["scores"]) & (table["weights"] > 0)
        assert group.n == rows.sum()
        assert group.n_pos == table["y_true"][rows].sum()
        if expected[name] is not None:
            columns = (table[key][rows] for key in ("y_true", "scores"))
            theirs = roc_auc_score(*columns, sample_weight=table["weights"][rows])
            assert actual[name] == pytest.approx(theirs, abs=1e-12)
    assert actual == pytest.approx(expected, abs=1e-12)
    assert actual["only"] is None  # never 0 or 0.5
    assert any("of group 'only' are undefined" in text for text in found.warnings)


@pytest.mark.parametrize("seed", range(5))
def test_whole_weights_are_repeated_rows_to_the_bit(seed: int) -> None:
    table = _table(seed, 200)
    table["weights"] = np.random.default_rng(seed).integers(0, 6, 200)
    chances = 1 / (1 + np.exp(-np.nan_to_num(table["scores"])))
    index = np.repeat(np.arange(200), table["weights"])
    repeated = {
        **{key: table[key][index] for key in ("y_true", "scores")},
        "groups": {name: mask[index] for name, mask in table["groups"].items()},
    }
    weighted = score_quality(**table, probabilities=chances, draws=20).to_dict()
    plain = score_quality(**repeated, probabilities=chances[index], draws=20).to_dict()
    assert weighted["power_means"] == plain["power_means"]
    for found in (weighted, plain):
        assert found["auc"]["value"] is not None
    for name in ("auc", "auc_gap", "bpsn_auc_gap", "bnsp_auc_gap", "calibration"):
        assert weighted[name]["value"] == plain[name]["value"], name
    for name, group in weighted["groups"].items():
        for key in ("auc", "bpsn_auc", "bnsp_auc", "calibration"):
            assert group[key]["value"] == plain["groups"][name][key]["value"], (name, key)


def test_no_order_matters() -> None:
    table = _table(3, 300)
    chances = 1 / (1 + np.exp(-np.nan_to_num(table["scores"])))
    first = score_quality(**table, probabilities=chances, draws=50).to_dict()
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    order = np.random.default_rng(0).permutation(300)
    other = {key: table[key][order] for key in ("y_true", "scores", "weights")}
    masks = {name: table["groups"][name][order] for name in reversed(table["groups"])}
    again = score_quality(**other, groups=masks, probabilities=chances[order], draws=50).to_dict()
    warnings = {name: sorted(found.pop("warnings")) for name, found in (("a", first), ("b", again))}
    assert (again, warnings["a"]) == (first, warnings["b"])


def test_blocks_of_groups_give_the_same_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table(4, 200)
    whole = score_quality(**table)
    monkeypatch.setattr(jackknife, "_AT_ONCE", 400)  # two groups at once
    for name in ("auc_gap", "bpsn_auc_gap"):
        gap = getattr(score_quality(**table), name)
        assert gap.to_dict() == pytest.approx(getattr(whole, name).to_dict(), abs=1e-12)


def test_moves_are_what_leaving_a_row_out_changes() -> None:
    rng = np.random.default_rng(0)
    n = 30
    rows = RankedRows(
        rng.integers(0, 12, n), rng.random(n) < 0.4, rng.random(n) + 0.1, np.ones((n, 1), bool)
    )
    whole = rows.overall()
    assert whole is not None
    for row in range(n):
        keep = np.arange(n) != row
        rest = RankedRows(
            rows.rank[keep], rows.positive[keep], rows.weights[keep], rows.members[keep]
        ).overall()
        assert rest is not None
        assert whole.value - rest.value == pytest.approx(whole.moves[row], abs=1e-12)


def test_a_perfect_ranking_has_an_interval_with_width() -> None:
    found = score_quality([0, 1] * 10, [0.1, 0.9] * 10, ["a", "b"] * 5 + ["b", "a"] * 5)
    assert found.auc.value == found.auc.high == 1.0
    assert 0.6 < found.auc.low < 0.9
    assert score_quality([0, 1] * 10, [0.9, 0.1] * 10, ["a"] * 20).auc.value == 0.0


def test_one_class_is_undefined_with_a_reason() -> None:
    found = score_quality(
        [1, 1, 1], [0.1, 0.2, 0.3], ["a", "b", "b"], probabilities=[0.1, 0.2, 0.3]
    )
    assert found.auc.value is found.groups["a"].auc.value is found.auc_gap.value is None
    assert found.power_means.combined is None
    assert found.calibration.value == pytest.approx(-0.8)
    assert any("positive and a negative" in text for text in found.warnings)


def test_a_group_that_holds_every_row_has_no_background() -> None:
    found = score_quality([0, 1, 0, 1], [1, 2, 3, 4], ["a"] * 4)
    assert found.groups["a"].auc.value == 0.75
    assert found.groups["a"].bpsn_auc.value is found.groups["a"].bnsp_auc.value is None


def test_missing_scores_are_left_out_and_many_hide_no_group() -> None:
    y, groups = [0, 1] * 40, (["a"] * 2 + ["b"] * 2) * 20
    scores = np.linspace(0, 1, 80)
    few, many = scores.copy(), scores.copy()
    few[[0, 2]], many[:24:4] = np.nan, np.inf
    found = score_quality(y, few, groups)
    assert (found.n, found.missing, found.groups["a"].missing) == (78, 2, 1)
    assert found.auc_gap.value is not None
    hidden = score_quality(y, many, groups)
    assert hidden.groups["a"].auc.value is not None
    assert hidden.auc_gap.value is hidden.power_means.auc is None
    assert any("more than 5%" in text for text in hidden.warnings)
    assert score_quality(y, [None] * 80, groups).auc.value is None


def test_small_and_excluded_groups_decide_nothing() -> None:
    rng = np.random.default_rng(1)
    y, scores = rng.integers(0, 2, 90), rng.normal(size=90)
    groups = np.array(["a"] * 40 + ["b"] * 40 + ["small"] * 5 + ["other"] * 5)
    found = score_quality(y, scores, groups, min_group_size=10, exclude="other")
    values = [found.groups[name].auc.value for name in "ab"]
    assert found.auc_gap.value == pytest.approx(abs(values[0] - values[1]))
    assert set(found.groups) == {"a", "b", "small", "other"}


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_mirror_of_scores_and_of_labels(rows: list[tuple[int, int]]) -> None:
    y, scores = map(np.array, zip(*rows, strict=True))
    auc = score_quality(y, scores, ["a"] * len(y), draws=1).auc.value
    mirrored = score_quality(y, -scores, ["a"] * len(y), draws=1).auc.value
    assert (auc is None) == (len(set(y)) < 2)
    if auc is not None and mirrored is not None:
        assert auc + mirrored == pytest.approx(1)
        assert score_quality(1 - y, -scores, ["a"] * len(y), draws=1).auc.value == auc


def test_refusals() -> None:
    with raises(MeasurementError, where="scores", got=3, allowed=4):
        score_quality([0, 1, 0, 1], [1, 2, 3], ["a"] * 4)
    with raises(MeasurementError, where="scores"):
        score_quality([0, 1], ["0.5", "0.7"], ["a"] * 2)
    with raises(MeasurementError, "row 1", where="probabilities", got=1.5):
        score_quality([0, 1], [0.5, 1.5], ["a"] * 2, probabilities=[0.5, 1.5])
    with raises(MeasurementError, where="probabilities", got=1, allowed=2):
        score_quality([0, 1], [0.5, 1.5], ["a"] * 2, probabilities=[0.5])
    with raises(MeasurementError, where="exclude", got="x"):
        score_quality([0, 1], [0.5, 1.5], ["a", "b"], exclude="x")
