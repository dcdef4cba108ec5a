"""lm-eval's samples become predictions: nothing is guessed, nothing missing becomes a 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.evaluate import evaluate
from mergekit_fair.evaluation.levels import Level
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.labels import UNANSWERED


def sample(row: int, first: float, second: float, label: int, *groups: str) -> dict[str, Any]:
    answered = not math.isnan(first + second)
    prediction = int(second > first) if answered else None
    return {
        "doc_id": row,
        "doc_hash": f"hash {row}",
        "doc": {"groups": list(groups), "excluded": ["other"] if "other" in groups else []},
        "filtered_resps": [(first, first >= second), (second, second > first)],
        "metrics": ["acc", "dpd"],
        "dpd": (prediction, label, [name for name in groups if name != "other"]),
    }


def test_samples_in_memory_and_from_lm_eval_s_files_are_the_same() -> None:
    samples = [
        sample(0, -0.1, -2.0, 0, "a"),
        sample(1, -2.0, -0.1, 1, "a", "other"),
        sample(2, math.nan, math.nan, 1, "b"),
        sample(3, -math.inf, -0.5, 1),
    ]
    written = [
        {**line, "filtered_resps": [[str(v), str(g)] for v, g in line["filtered_resps"]]}
        for line in samples
    ]
    for given in (samples, written):
        predictions = Predictions.of_samples("task", given)
        assert predictions.predicted.tolist() == [0, 1, UNANSWERED, 1]
        assert predictions.labels.tolist() == [0, 1, 1, 1]
        assert sorted(predictions.groups) == ["a", "b", "other"]
        assert predictions.groups["a"].tolist() == [True, True, False, False]
        assert predictions.excluded == ("other",)
        assert predictions.logit_gaps is not None
        np.testing.assert_allclose(
            predictions.logit_gaps, [-1.9, 1.9, math.nan, np.finfo(np.float32).max]
        )


def test_choices_that_are_not_the_classes_have_no_logit_gaps() -> None:
    swapped = sample(0, -0.1, -2.0, 0, "a")
    swapped["dpd"] = (1, 0, ["a"])
    predictions = Predictions.of_samples("task", [swapped, sample(1, -0.1, -2.0, 0, "b")])
    assert predictions.logit_gaps is None
    assert predictions.predicted.tolist() == [1, 0]
    evaluation = evaluate(
        predictions, MetricSettings(), model="m", split="validation", level=Level("labels", 0.5)
    )
    assert evaluation.level_matched is None
    assert "level_matched" not in evaluation.to_dict()


def test_level_matching_leaves_missing_answers_missing() -> None:
    rng = np.random.default_rng(0)
    samples = [
        sample(row, *(rng.normal(size=2) if row else (math.nan, 0.0)), int(row % 2), "ab"[row % 2])
        for row in range(200)
    ]
    evaluation = evaluate(
        Predictions.of_samples("task", samples),
        MetricSettings(),
        model="m",
        split="validation",
        level=Level("labels", 0.25),
    )
    assert evaluation.unanswered == 1
    rate = evaluation.level_matched.selection_rate.value
    assert rate == pytest.approx(0.25, abs=1 / 199)


@pytest.mark.parametrize("samples", [[], [{"doc": {}, "acc": 1.0, "metrics": ["acc"]}]])
def test_other_tasks_are_an_error(samples: list[dict[str, Any]]) -> None:
    with pytest.raises(MeasurementError, match=r"^hellaswag: (has no samples|is no fairness task)"):
        Predictions.of_samples("hellaswag", samples)
