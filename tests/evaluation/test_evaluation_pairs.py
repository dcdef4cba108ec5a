"""Two models at equal selection rates: thresholds on the compared rows, and what they decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mergekit_fair.evaluation.paired_models import PairedModels, paired_models
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import HEADLINE, MetricSettings
from mergekit_fair.fairness.claims import JudgedDifference, judged

N = 3000
SETTINGS = MetricSettings(min_group_size=30)


def rows(shift: float = 0.0, apart: float = 0.8, seed: int = 0) -> Predictions:
    """A model that scores group b higher by `apart`; all share their luck."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, N).astype(np.int8)
    in_b = rng.random(N) < 0.4
    luck = rng.normal(size=N) + 0.2 * np.random.default_rng(seed).normal(size=N)
    scores = luck + 1.5 * (labels - 0.5) + apart * (in_b - 0.4) + shift
    empty = Predictions("task", tuple(range(N)), labels, labels, {"a": ~in_b, "b": in_b}, ())
    return empty.with_scores(scores)


def without_scores(model: Predictions) -> Predictions:
    return replace(model, logit_gaps=None)


def pair(a: Predictions, b: Predictions) -> PairedModels:
    return paired_models({"a": a, "b": b}, {"b": ("a", "b")}, SETTINGS)


def found(a: Predictions, b: Predictions) -> dict[str, JudgedDifference]:
    return judged(pair(a, b).evidence, 0.95)["b"]


def marks(a: Predictions, b: Predictions) -> dict[str, bool]:
    return {name: each.claimed for name, each in found(a, b).items() if each.claimed}


def test_a_smaller_gap_is_claimed_with_and_without_scores() -> None:
    unfair, fair = rows(), rows(apart=0.0)
    assert {"dpd", "eod"} <= set(marks(unfair, fair))
    assert {"dpd", "eod"} <= set(marks(without_scores(unfair), without_scores(fair)))


@pytest.mark.parametrize("shift", [-2.0, 1.0, 9.0])
def test_who_selects_more_or_fewer_wins_nothing_by_it(shift: float) -> None:
    """Its DPD is smaller, at its own threshold; at equal selection rates nothing is left."""
    first, moved = rows(), rows(shift)
    gaps = found(first, moved)
    assert gaps["dpd"].value is not None
    assert gaps["dpd"].value < -0.02
    assert not any(gaps[name].claimed for name in ("dpd", "eod"))
    assert gaps["dpd"].withheld
    assert gaps["level_matched.dpd"].value == pytest.approx(0.0, abs=0.01)
    blind = found(without_scores(first), without_scores(moved))
    assert not any(blind[name].claimed for name in ("dpd", "eod"))
    assert "level_matched.dpd" not in blind
    coin = replace(first, predicted=(np.arange(N) % 2).astype(np.int8), logit_gaps=None)
    always = replace(moved, logit_gaps=None, predicted=(np.arange(N) % 40 > 0).astype(np.int8))
    assert not any(found(coin, always)[name].claimed for name in HEADLINE)


def test_the_other_way_round_marks_and_p_values_are_the_same() -> None:
    fair, yes = rows(apart=0.0, shift=0.5), rows(shift=4.0, seed=1)
    for other in (fair, without_scores(yes)):
        there, back = found(rows(), other), found(other, rows())
        for name in HEADLINE:
            one, turned = there[name], back[name]
            assert one.value == -(turned.value or 0.0)
            assert one.low == -(turned.high or 0.0)
            assert (one.claimed, one.withheld) == (turned.claimed, turned.withheld)
            assert one.adjusted_p_value == turned.adjusted_p_value


def test_thresholds_read_neither_labels_nor_groups() -> None:
    first, moved = rows(), rows(2.0)
    other = {"c": np.arange(N) % 3 == 0, "d": np.arange(N) % 3 > 0}
    one, two = (
        pair(replace(first, **changes), replace(moved, **changes)).evidence["b"].at_a
        for changes in ({}, {"labels": 1 - first.labels, "groups": other})
    )
    assert one is not None
    assert two is not None
    assert one["selection_rate"] == two["selection_rate"]
    assert one["selection_rate"].value == pytest.approx(0.0, abs=1 / N)


def test_ties_and_missing_scores() -> None:
    first, moved = rows(), rows(2.0)
    assert moved.logit_gaps is not None
    gaps = moved.logit_gaps.copy()
    gaps[::50] = np.nan
    level = pair(first, moved.with_scores(gaps)).evidence["b"].at_a
    assert level is not None
    assert level["selection_rate"].value == pytest.approx(0.0, abs=0.02)
    # Two scores: no threshold selects half, so that there is no level.
    two = moved.with_scores(np.where(moved.predicted == 1, 1.0, -1.0))
    assert pair(first, two).evidence["b"].at_a is None
    assert pair(first, two).evidence["b"].at_b is not None
    nothing = first.with_scores(np.full(N, np.nan))
    assert pair(first, nothing).evidence["b"].at_a is None
    assert pair(nothing, first).evidence["b"].at_a is None
    assert marks(first, nothing) == {"acc": True}  # which is lost: no answer is a wrong one


def test_weights_count_as_repeated_rows() -> None:
    weights = np.random.default_rng(3).integers(1, 4, N).astype(float)
    at = np.repeat(np.arange(N), weights.astype(int))

    def repeated(model: Predictions) -> Predictions:
        assert model.logit_gaps is not None
        return replace(
            model,
            **{"keys": tuple(range(len(at))), "logit_gaps": model.logit_gaps[at]},
            **{"labels": model.labels[at], "predicted": model.predicted[at]},
            groups={name: mask[at] for name, mask in model.groups.items()},
        )

    models = rows(), rows(2.0)
    weighted = found(*(replace(model, weights=weights) for model in models))
    plain = found(*map(repeated, models))
    for name, each in plain.items():
        assert weighted[name].value == each.value, name


def test_each_model_is_measured_once_and_others_change_no_difference() -> None:
    models = {"a": rows(), "b": rows(1.0), "c": rows(apart=0.3)}
    pairs = {name: ("a", name) for name in "bc"}
    both = paired_models(models, pairs, SETTINGS)
    alone = paired_models({n: models[n] for n in "ab"}, {"b": ("a", "b")}, SETTINGS)
    assert both.evidence["b"] == alone.evidence["b"]
    assert list(both.own) == ["a", "b", "c"]
    assert both.own["a"].gaps["dpd"].value == pytest.approx(0.25, abs=0.1)
