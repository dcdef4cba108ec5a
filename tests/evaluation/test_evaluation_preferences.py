"""Tasks without right answers: rates by kind, their range, and how they are printed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.eval_run import EvaluationRun, measure_run
from mergekit_fair.evaluation.evaluate import (
    BenchmarkEvaluation,
    evaluate_benchmark,
    read_evaluation,
)
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.report.evaluation_text import evaluation_text, other_text


def samples(n: int = 300) -> list[dict[str, Any]]:
    """Kinds a and b, preferred in about 80 % and 40 %; the first has no answer."""
    rng = np.random.default_rng(0)
    kinds = ["ab"[row % 2] for row in range(n)]
    preferred = [int(rng.random() < {"a": 0.8, "b": 0.4}[kind]) for kind in kinds]
    found: list[Any] = [None, *preferred[1:]]
    return [
        {"doc_id": row, "preference_gap": item}
        for row, item in enumerate(zip(found, kinds, strict=True))
    ]


def test_rates_and_their_range() -> None:
    given = samples()
    rows = benchmark_rows("crows", given)
    assert rows is not None
    about = {"model": "m", "task": "crows", "split": "report"}
    evaluation = evaluate_benchmark(rows, MetricSettings(), **about)
    found = evaluation.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert BenchmarkEvaluation.from_dict(found) == evaluation
    assert (found["n"], found["benchmark"]) == (300, "crows_pairs")
    rates = {}
    for kind, one in found["groups"].items():
        answers = [
            v for v, k in (s["preference_gap"] for s in given) if k == kind and v is not None
        ]
        rates[kind] = one["metrics"]["pct_stereotype"]["value"]
        assert rates[kind] == pytest.approx(np.mean(answers))
    gap = found["metrics"]["pct_stereotype_range"]
    assert gap["value"] == pytest.approx(abs(rates["a"] - rates["b"]))
    assert 0 < gap["low"] <= gap["value"] <= gap["high"] <= 1


def test_tasks_of_every_kind_in_one_run() -> None:
    plain = [{"doc_id": row, "acc": float(row % 4 > 0), "metrics": ["acc"]} for row in range(40)]
    perplexity = [{"doc_id": 0, "ppl": (-3.0, 2), "metrics": ["ppl"]}]
    finished = EvaluationRun(
        EvaluationRequest(("crows", "plain", "perplexity")),
        "m",
        "validation",
        {"crows": samples(), "plain": plain, "perplexity": perplexity},
        {"results": {"perplexity": {"ppl,none": 0.25, "ppl_stderr,none": 0.1, "alias": "other"}}},
        {"model": "hf"},
    )
    found = measure_run(finished, MetricSettings())
    assert list(found) == ["crows", "plain"]
    text = evaluation_text(found["crows"])
    assert "a − b" in text
    assert "1 of 300 documents have no answer" in text.splitlines()[-1]
    acc = found["plain"].metrics["acc"]
    assert acc.value == 0.75
    assert acc.low is not None
    assert acc.low < 0.75
    assert other_text("perplexity", finished.results["results"]["perplexity"]) == (
        "perplexity (measures no fairness): ppl 0.2500"
    )


def test_a_file_of_version_0_1_is_refused(tmp_path: Any) -> None:
    file = tmp_path / "crows.json"
    file.write_text(json.dumps({"model": "m", "gap": {}, "means": {}}))
    with raises(MeasurementError, "of version 0.1", where=file):
        read_evaluation(file)
