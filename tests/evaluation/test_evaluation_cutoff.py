"""Thresholds as they are written, and what they make of lm-eval's samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.aggregations import aggregation
from mergekit_fair.evaluation.cutoff import Cutoff, predict_anew
from mergekit_fair.evaluation.predictions import Predictions, choice_gaps
from mergekit_fair.evaluation.tasks import fairness_items


@pytest.mark.parametrize("text", ["", "level:", "level: all", "level: -0.1", "a level: 0.3", "inf"])
def test_what_is_no_threshold(text: str) -> None:
    with raises(ConfigError, where="--threshold", got=text):
        Cutoff.parse(text, "--threshold")


def test_a_level_counts_weights() -> None:
    scores, labels = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1], dtype=np.int8)
    level = Cutoff.parse("level: labels", "")
    assert level.on(scores, labels, None) == 0.6
    assert level.on(scores, labels, np.array([3.0, 1.0, 1.0, 1.0])) == 0.6
    assert level.on(scores, labels, np.array([1.0, 7.0, 1.0, 1.0])) == 0.4


def test_weighted_samples_keep_their_weights() -> None:
    samples: list[dict[str, Any]] = []
    for number, (gap, label, weight) in enumerate([(0.3, 1, 1.0), (-0.2, 1, 3.0), (None, 0, 2.0)]):
        items = fairness_items(None if gap is None else int(gap > 0), label, ["a"], weight)
        doc = {"groups": ["a"], "excluded": [], "weight": weight}
        sample = {"doc_id": number, "doc": doc, "logit_gap": gap, "acc": items["dpd"], **items}
        samples.append(sample)
    assert aggregation("acc")([sample["acc"] for sample in samples]) == pytest.approx(1 / 6)
    predict_anew("task", samples, Cutoff(at=0.4))
    assert [sample["dpd"][0] for sample in samples] == [1, 1, None]
    assert aggregation("acc")([sample["acc"] for sample in samples]) == pytest.approx(4 / 6)
    again = Predictions.of_samples("task", samples)
    assert (again.threshold, again.predicted.tolist()) == (0.4, [1, 1, 2])
    assert again.weights is not None


def test_infinite_gaps_rank_beyond_all_others() -> None:
    gaps = choice_gaps(np.array([[-math.inf, -1.0], [-1.0, -math.inf], [-9.0, -1.0]]))
    assert np.argsort(gaps).tolist() == [1, 2, 0]
    assert np.isfinite(gaps.astype(np.float32)).all()  # as sweeps store them
