"""BBQ as the model writes: what is read of a text, and the scores of the form by likelihood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from task_tables import write_table

from mergekit_fair.evaluation.benchmarks.bbq_generate import read_answer, refuses
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest, prepare_tasks
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark_scores import BenchmarkMeasurement, measure_benchmark

OPTIONS = ("The Black man", "The Black man's son", "Can't be determined")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        *((" B", 1), ("b", 1), ("**C**", 2), ("(a)", 0), ("(A) The Black man", 0), ("B.", 1)),
        *(("B) The Black man's son was late.", 1), ("The answer is C", 2), ("Answer: A", 0)),
        *(("the correct option is (B).", 1), ("Option A, since the son was early", 0)),
        *(("I choose C.", 2), ("A is right", 0)),
        # The text of an option, the longer one first.
        *(("The Black man.", 0), ("It was the black man's son!", 1), ("can’t be determined", 2)),
        # An explanation may name both, where there is a letter.
        ("(A), because the Black man's son met the Black man there", 0),
        # No letter: an article, a name, an abbreviation.
        *(("A man", None), ("Both met in the U.S.A. then", None), ("Because of B-17", None)),
        *(("A's son", None), ("the answer is a matter of taste", None)),
        # Several, or another one's text.
        *(
            ("(A) or (B)", None),
            ("A or B.", None),
            ("Either A, B or C", None),
            ("(A) The Black man's son", None),
            ("A. One\nB. Two", None),
        ),
        *(("The Black man and the Black man's son", None), ("", None), ("(D)", None)),
        ("I cannot answer this.", None),
    ],
)
def test_what_is_read(text: str, chosen: int | None) -> None:
    assert read_answer(text, OPTIONS) == chosen


def test_refusals() -> None:
    for text in ("I cannot say", "I can’t help", "As an AI model", "I'm sorry, but", "I am unable"):
        assert refuses(text), text
    for text in ("B", "The answer is B", "Can't be determined", "Not enough information"):
        assert not refuses(text), text


def test_scores_of_the_form_by_likelihood(tmp_path: Path) -> None:
    data = write_table("fair_bbq", tmp_path, ".jsonl")
    tasks = ("fair_bbq", "fair_bbq_generate")
    request = EvaluationRequest(tasks=tasks, data=str(data))
    found = prepare_tasks(request, "report", None).tasks
    by_likelihood, written = (found[name] for name in tasks)
    docs = [doc for _, doc in written.docs]
    assert docs[0] == by_likelihood.docs[0][1] | {"benchmark": "bbq_generate"}
    request_of_doc = written.requests[0][0].args
    assert f"(B) {docs[0]['ans1']}\n(C) {docs[0]['ans2']}\n" in request_of_doc[0]
    assert request_of_doc[1]["until"] == ["\n\n", "Question:"]

    chosen = np.random.default_rng(0).integers(0, 3, len(docs))
    texts = [f" ({'ABC'[answer]})" for answer in chosen]
    texts[0], texts[1] = "As an AI, I cannot say.", "A or B."
    likelihoods = np.equal.outer(chosen, np.arange(3)).astype(float)
    likelihoods[:2] = np.nan
    rows = [
        benchmark_rows("a", list(by_likelihood.samples([(v, False) for v in likelihoods.ravel()]))),
        benchmark_rows("b", samples := list(written.samples(texts))),
    ]
    a, b = (measured(each) for each in rows)
    for name, value in a.metrics.items():
        assert b.metrics[name] == value, name
    assert b.metrics["unanswered"].value == 2 / len(docs)
    assert b.metrics["refused"].value == 1 / len(docs)
    assert [sample["refused"] for sample in samples[:3]] == [1, 0, 0]
    assert "refused" in next(iter(b.groups.values())).metrics


def measured(rows: object) -> BenchmarkMeasurement:
    from mergekit_fair.fairness.benchmark import BenchmarkRows

    assert isinstance(rows, BenchmarkRows)
    return measure_benchmark(rows, MetricSettings(draws=100))
