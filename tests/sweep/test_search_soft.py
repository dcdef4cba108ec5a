"""Soft rates in the place of predictions: against a table of weighted rows, and what they leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from mergekit_fair.evaluation.evaluate import evaluate
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings, measure
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.search.rate_model import COMPOSED, GroupLayout
from mergekit_fair.sweep.search.soft_rates import SOFTNESS, soft_predictions, softened

N = 240
LAYOUTS = {"partition": True, "overlap": False}


def rows(layout: str, gaps: np.ndarray | None = None) -> Predictions:
    rng = np.random.default_rng(3)
    first = rng.random(N) < 0.4
    second = ~first if layout == "partition" else rng.random(N) < 0.5
    labels = (rng.random(N) < 0.5).astype(np.int8)
    scores = 1.5 * labels - 0.7 + 0.8 * first + rng.normal(0, 1, N)
    unanswered = np.full(N, 2, dtype=np.int8)
    groups = {"a": first, "b": second}
    empty = Predictions("t", tuple(range(N)), labels, unanswered, groups, ())
    return empty.with_scores(scores if gaps is None else gaps)


def point(predictions: Predictions) -> PointResult:
    evaluation = evaluate(predictions, MetricSettings(), model="m", split="validation")
    planned = {"id": "0", "kind": "search", "label": "x", "settings": {}, "lambda_eff": None}
    return PointResult(**planned, lambda_=None, split="validation", evaluation=evaluation)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_soft_rates_are_those_of_rows_that_count_for_both_answers(layout: str) -> None:
    given = rows(layout)
    assert given.logit_gaps is not None
    chances = expit(given.logit_gaps / (SOFTNESS * given.logit_gaps.std()))
    found = softened(point(given), given, GroupLayout(is_partition=LAYOUTS[layout])).evaluation
    assert found is not None
    expected = measure(
        np.tile(given.labels, 2),
        np.repeat([1, 0], N),
        {name: np.tile(mask, 2) for name, mask in given.groups.items()},
        weights=np.concatenate([chances, 1 - chances]),
        draws=100,
    )
    for name in set(COMPOSED) - {"selection_rate"}:
        assert found.metrics[name].value == pytest.approx(expected.metrics[name].value), name
    for name, group in found.groups.items():
        for rate in ("selection_rate", "tpr", "fpr", "acc"):
            assert getattr(group, rate) == pytest.approx(getattr(expected.groups[name], rate))
        assert group.n == given.groups[name].sum()


def test_the_level_stays_that_of_predictions_and_larger_scores_change_nothing() -> None:
    given, layout = rows("partition"), GroupLayout(is_partition=True)
    assert given.logit_gaps is not None
    hard, larger = point(given), given.with_scores(8 * given.logit_gaps)
    soft = softened(hard, given, layout)
    assert soft.value("selection_rate") == hard.value("selection_rate")
    assert soft.value("acc") != hard.value("acc")
    assert softened(hard, larger, layout) == soft


def test_without_scores_the_point_stays_as_it_is() -> None:
    given = rows("partition")
    for other in (
        replace(given, logit_gaps=None),
        rows("partition", np.where(np.arange(N) == 0, np.nan, given.scores)),
        rows("partition", np.ones(N)),
        replace(given, threshold=0.4),
    ):
        hard = point(other)
        assert soft_predictions(other) is None
        assert softened(hard, other, GroupLayout(is_partition=True)) is hard
