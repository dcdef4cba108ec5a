"""Tasks without right answers: rates by kind, their gap, and how they are printed."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from mergekit_fair.evaluation.eval_run import EvaluationRun, measure_run
from mergekit_fair.evaluation.evaluate import measure_preferences
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.report.evaluation_text import evaluation_text, other_text


def samples(n: int = 300) -> list[dict[str, Any]]:
    """Kinds a and b, preferred in about 80 % and 40 %; the first has no answer."""
    rng = np.random.default_rng(0)
    kinds = ["ab"[row % 2] for row in range(n)]
    preferred = [int(rng.random() < {"a": 0.8, "b": 0.4}[kind]) for kind in kinds]
    found: list[Any] = [None, *preferred[1:]]
    return [{"preference_gap": item} for item in zip(found, kinds, strict=True)]


def test_rates_and_their_gap() -> None:
    given = samples()
    found = measure_preferences(
        "crows", given, MetricSettings(), model="m", split="report"
    ).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["n"], found["unanswered"]) == (300, 1)
    for kind, mean in found["means"].items():
        answers = [
            v for v, k in (s["preference_gap"] for s in given) if k == kind and v is not None
        ]
        assert mean == pytest.approx(np.mean(answers))
        assert found["sizes"][kind] == len(answers)
    gap = found["gap"]
    assert gap["value"] == pytest.approx(abs(found["means"]["a"] - found["means"]["b"]))
    assert 0 < gap["low"] <= gap["value"] <= gap["high"] <= 1


def test_tasks_of_every_kind_in_one_run() -> None:
    finished = EvaluationRun(
        EvaluationRequest(("crows", "other")),
        "m",
        "validation",
        {"crows": samples(), "other": [{"acc": 1.0}]},
        {"results": {"other": {"acc,none": 0.25, "acc_stderr,none": 0.1, "alias": "other"}}},
        {"model": "hf"},
    )
    found = measure_run(finished, MetricSettings())
    assert list(found) == ["crows"]
    text = evaluation_text(found["crows"])
    assert "largest − smallest: 0." in text
    assert "1 of 150 scores are not finite" in text.splitlines()[-1]
    assert other_text("other", finished.results["results"]["other"]) == (
        "other (measures no fairness): acc 0.2500"
    )
    assert not math.isnan(found["crows"].gap.value)
