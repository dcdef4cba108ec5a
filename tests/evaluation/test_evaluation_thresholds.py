"""Thresholds by group: on groups that overlap and on weighted rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from refusals import raises
from scipy.optimize import check_grad

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.group_offsets import GroupOffsets, fit_offsets
from mergekit_fair.evaluation.group_thresholds import GroupThresholds, fit
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.soft_objective import SoftObjective, deciding_groups
from mergekit_fair.fairness import MetricSettings, estimate

SETTINGS = MetricSettings(min_group_size=30)
SHARES = (0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.005)


def overlapping(seed: int, n: int = 1500) -> Predictions:
    """Seven groups, some rows in several and some in none; scores that favour some of them."""
    rng = np.random.default_rng(seed)
    members = rng.random((len(SHARES), n)) < np.array(SHARES)[:, np.newaxis]
    members[:, rng.random(n) < 0.2] = False
    truth = rng.normal(-0.5, 1.6, n) + np.linspace(-0.4, 0.4, len(SHARES)) @ members
    labels = (rng.random(n) < 1 / (1 + np.exp(-truth))).astype(np.int8)
    scores = truth + rng.normal(0, 1, n) + np.array([1, -1, 1, -1, 0.5, -1, 1]) @ members
    groups = dict(zip("abcdefg", members, strict=True))
    unmeasured = np.zeros(n, dtype=np.int8)
    rows = Predictions("task", tuple(range(n)), labels, unmeasured, groups, (), scores)
    return rows.with_scores(scores)


def gap_of(name: str, rows: Predictions, settings: MetricSettings = SETTINGS) -> float:
    sizes = {"min_group_size": settings.min_group_size, "exclude": rows.excluded}
    values = estimate(rows.labels, rows.predicted, rows.groups, weights=rows.weights, **sizes)
    return values[name]


def thresholded(rows: Predictions, thresholds: Any) -> Predictions:
    return rows.with_scores(thresholds.scores(rows))


@pytest.mark.parametrize("gap", ["dpd", "eod"])
def test_overlapping_groups_end_with_a_smaller_gap_on_rows_never_seen(gap: Any) -> None:
    found = []
    for seed in range(6):
        seen, unseen = overlapping(seed), overlapping(seed + 100)
        thresholds = fit(gap, seen, SETTINGS)
        assert isinstance(thresholds, GroupOffsets)
        own, after = thresholded(seen, thresholds), thresholded(unseen, thresholds)
        assert gap_of(gap, own) < gap_of(gap, seen)
        # No gain by selecting fewer: as many are selected as before, and as rightly.
        assert abs(after.selection_rate - unseen.selection_rate) < 0.1
        right, before = (float((p.predicted == p.labels).mean()) for p in (after, unseen))
        assert right > before - 0.02
        found.append(gap_of(gap, unseen) - gap_of(gap, after))
    assert min(found) > 0
    assert np.mean(found) > 0.1


def test_several_groups_add_up_and_none_changes_nothing() -> None:
    rows = overlapping(0)
    thresholds = fit("dpd", rows, SETTINGS)
    assert isinstance(thresholds, GroupOffsets)
    assert list(thresholds.offsets) == list("abcdef")  # g has some ten rows
    expected = rows.scores + sum(rows.groups[n] * a for n, a in thresholds.offsets.items())
    np.testing.assert_allclose(thresholds.scores(rows), expected, atol=1e-12)
    outside = ~np.any([rows.groups[name] for name in "abcdef"], axis=0)
    assert outside.sum() > 100
    assert (thresholds.scores(rows) == rows.scores)[outside].all()
    unknown = replace(rows, groups={"new": rows.groups["a"]})
    assert (thresholds.scores(unknown) == rows.scores).all()


def test_excluded_groups_and_rows_without_an_answer_take_no_part() -> None:
    rows = replace(overlapping(0), excluded=("a",))
    scores = rows.scores.copy()
    scores[:40] = np.nan
    rows = rows.with_scores(scores)
    thresholds = fit("dpd", rows, SETTINGS)
    assert list(thresholds.groups) == list("bcdef")
    assert np.isnan(thresholds.scores(rows)[:40]).all()
    assert np.isfinite(thresholds.scores(rows)[40:]).all()


def test_sizes_count_labels_where_the_gap_does() -> None:
    rows = overlapping(0)
    few = rows.groups["a"] & (np.cumsum(rows.groups["a"] & (rows.labels == 1)) <= 12)
    rows = replace(rows, groups={**rows.groups, "a": few | (rows.groups["a"] & (rows.labels == 0))})
    least = MetricSettings(min_group_size=60)
    assert "a" in deciding_groups("eod", rows, least)  # by its negatives
    sized = {n: [(m & (rows.labels == y)).sum() for y in (0, 1)] for n, m in rows.groups.items()}
    expected = [name for name, counts in sized.items() if max(counts) >= 60]
    assert deciding_groups("eod", rows, least) == expected
    assert deciding_groups("dpd", rows, least) == [n for n, c in sized.items() if sum(c) >= 60]


@pytest.mark.parametrize("gap", ["dpd", "eod"])
def test_the_gradient_is_the_objectives(gap: Any) -> None:
    rows, settings = overlapping(0, 300), MetricSettings(min_group_size=5)
    groups = deciding_groups(gap, rows, settings)
    objective = SoftObjective.of(gap, rows, settings, [rows.groups[name] for name in groups])
    at = np.random.default_rng(0).normal(0, 0.3, len(groups))
    assert check_grad(lambda b: objective(b)[0], lambda b: objective(b)[1], at) < 1e-5


def test_weights_stand_for_rows() -> None:
    rows = overlapping(0)
    weights = np.random.default_rng(1).integers(0, 4, len(rows))
    weighted = replace(rows, weights=weights.astype(float))
    at = np.repeat(np.arange(len(rows)), weights)
    repeated = replace(
        rows,
        keys=tuple(range(len(at))),
        labels=rows.labels[at],
        predicted=rows.predicted[at],
        groups={name: inside[at] for name, inside in rows.groups.items()},
        logit_gaps=rows.scores[at],
    )
    settings = MetricSettings()  # sizes count rows, of which one has more
    found, expected = (fit_offsets("eod", p, settings).offsets for p in (weighted, repeated))
    assert found == pytest.approx(expected, abs=1e-3)  # both are minimised to a tolerance
    disjoint = {"a": rows.groups["a"], "b": rows.groups["b"] & ~rows.groups["a"]}
    assert isinstance(fit("dpd", replace(rows, groups=disjoint), settings), GroupThresholds)
    assert isinstance(fit("dpd", replace(weighted, groups=disjoint), settings), GroupOffsets)


def test_groups_that_are_too_small_keep_the_models_threshold() -> None:
    rows = overlapping(0)
    outside = ~(rows.groups["a"] | rows.groups["b"])
    small = outside & (np.cumsum(outside) <= 12)
    groups = {"a": rows.groups["a"] & ~rows.groups["b"], "b": rows.groups["b"], "small": small}
    rows = replace(rows, groups=groups)
    thresholds = fit("eod", rows, SETTINGS)
    assert isinstance(thresholds, GroupThresholds)  # they do not overlap
    assert thresholds.groups == ("a", "b")
    after = thresholded(rows, thresholds)
    assert (after.predicted == rows.predicted)[outside].all()
    assert (after.predicted != rows.predicted).any()


def test_what_helps_nothing_is_refused() -> None:
    rows = overlapping(0)
    with raises(MeasurementError, "fewer than two", where="task"):
        fit("dpd", replace(rows, groups={"a": rows.groups["a"]}), SETTINGS)
    with raises(MeasurementError, "each label", where="task"):
        fit("eod", rows, MetricSettings(min_group_size=250))
    with raises(MeasurementError, "no scores", where="task"):
        fit("dpd", rows.with_scores(np.where(rows.predicted == 1, np.inf, -np.inf)), SETTINGS)
    # No gap is left to close: every group is selected at one rate.
    alike = np.ones(len(rows))
    for members in (~rows.groups["a"], rows.groups["a"]):
        at = np.flatnonzero(members)
        alike[at[: len(at) // 2 * 2 : 2]] = -1
        alike[at[-1]] = 1 if len(at) % 2 else alike[at[-1]]
    pair = {"a": rows.groups["a"], "rest": ~rows.groups["a"]}
    fair = replace(rows, groups=pair, labels=(alike > 0).astype(np.int8)).with_scores(alike)
    with raises(MeasurementError, "no thresholds by group", where="task"):
        fit("dpd", fair, SETTINGS)
    # Of a constant predictor there is no gap to be smaller than.
    with raises(MeasurementError, where="task", got=None, allowed=None):
        fit("dpd", rows.with_scores(np.full(len(rows), -1.0)), SETTINGS)


def test_drawn_predictions_are_the_seeds() -> None:
    """Where the optimum mixes two thresholds, a row's prediction is drawn: by the seed alone."""
    rows = overlapping(0)
    groups = {"a": rows.groups["a"], "b": rows.groups["b"] & ~rows.groups["a"]}
    rows = replace(rows, groups=groups)
    found = [
        GroupThresholds("equalized_odds", rows, ("a", "b"), seed).scores(rows)
        for seed in (0, 0, 1, 2**32)
    ]
    assert (found[0] == found[1]).all()
    assert (found[0] == found[3]).all()  # which is 0 as far as numpy's seeds go
    assert 0 < (found[0] != found[2]).sum() < len(rows) / 10
