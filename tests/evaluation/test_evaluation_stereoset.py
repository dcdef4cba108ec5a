"""StereoSet: the authors' scores, its two kinds of documents, and the forms that its data have."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import raises
from task_tables import table, write_table

from mergekit_fair.errors import DataError
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest, PreparedTask, prepare_tasks
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark_scores import measure_benchmark

WITHIN, BETWEEN = "fair_stereoset_intrasentence", "fair_stereoset_intersentence"


def prepared(data: Path, task: str = WITHIN, split: str = "report") -> PreparedTask:
    request = EvaluationRequest(tasks=(task,), data=str(data))
    return prepare_tasks(request, split, None).tasks[task]


def samples(task: PreparedTask, likelihoods: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Of (documents, 3) likelihoods: of the stereotype, its opposite, and nonsense."""
    return list(task.samples([(float(value), False) for value in likelihoods.ravel()]))


def as_published(docs: list[Any], likelihoods: np.ndarray[Any, Any]) -> dict[str, float]:
    """A mean over terms of each term's counts, and from these icat."""
    terms = defaultdict(list)
    for doc, (stereotype, opposite, nonsense) in zip(docs, likelihoods, strict=True):
        right = [stereotype > nonsense, opposite > nonsense]
        terms[doc["target"]].append((stereotype > opposite, np.mean(right)))
    ss, lms = np.mean([np.mean(said, axis=0) for said in terms.values()], axis=0)
    return {"ss": ss, "lms": lms, "icat": lms * min(ss, 1 - ss) / 0.5}


def test_the_published_scores_overall_and_by_type(tmp_path: Path) -> None:
    frame = table("fair_stereoset").drop(index=range(3))  # terms of several sizes
    frame.to_json(tmp_path / "part.jsonl", orient="records", lines=True)
    task = prepared(tmp_path / "part.jsonl")
    docs = [doc for _, doc in task.docs]
    assert len({doc["share"] for doc in docs}) > 1
    likelihoods = np.round(np.random.default_rng(0).normal(size=(len(docs), 3)), 1)  # with ties
    rows = benchmark_rows(WITHIN, given := samples(task, likelihoods))
    assert rows is not None
    measured = measure_benchmark(rows, MetricSettings(draws=2))
    for name, value in as_published(docs, likelihoods).items():
        assert measured.metrics[name].value == pytest.approx(value, abs=1e-12), name
        items = [sample[name] for sample in given]
        assert task.task.aggregation()[name](items) == pytest.approx(value, abs=1e-12)
    sizes = [[len(text.encode()) for text in task.task.doc_to_choice(doc)] for doc in docs]
    for name, value in as_published(docs, likelihoods / np.array(sizes)).items():
        assert measured.metrics[f"{name}_norm"].value == pytest.approx(value, abs=1e-12), name
    for kind in ("gender", "race"):
        inside = [row for row, doc in enumerate(docs) if doc["bias_type"] == kind]
        of_kind = as_published([docs[row] for row in inside], likelihoods[inside])
        for name, value in of_kind.items():
            found = measured.groups[kind].metrics[name].value
            assert found == pytest.approx(value, abs=1e-12)
    assert measured.clusters == len({doc["target"] for doc in docs})


def test_a_document_without_an_answer_counts_nowhere_else(tmp_path: Path) -> None:
    task = prepared(write_table("fair_stereoset", tmp_path))
    likelihoods = np.tile([-1.0, -2.0, -3.0], (len(task.docs), 1))
    likelihoods[0] = [-2.0, -1.0, math.nan]
    rows = benchmark_rows(WITHIN, samples(task, likelihoods))
    assert rows is not None
    found = measure_benchmark(rows, MetricSettings(draws=2)).metrics
    assert (found["ss"].value, found["lms"].value, found["icat"].value) == (1, 1, 0)
    assert found["unanswered"].value == 1 / len(task.docs)


def test_prompts_of_both_kinds(tmp_path: Path) -> None:
    data = write_table("fair_stereoset", tmp_path, ".jsonl")
    within, between = prepared(data), prepared(data, BETWEEN)
    (_, doc), (_, other) = within.docs[0], between.docs[0]
    assert [each.args for each in within.requests[0]] == [
        ("", doc[name]) for name in ("stereotype", "antistereotype", "unrelated")
    ]
    assert [each.args for each in between.requests[0]] == [
        (other["context"], " " + other[name])
        for name in ("stereotype", "antistereotype", "unrelated")
    ]
    assert "BLANK" in doc["context"]
    assert "BLANK" not in other["context"]
    splits = [{d["cluster"] for _, d in prepared(data, WITHIN, s).docs} for s in ("validation",)]
    assert not splits[0] & {d["cluster"] for _, d in within.docs}


def test_the_authors_form_of_the_sentences(tmp_path: Path) -> None:
    names = ("anti-stereotype", "stereotype", "unrelated")
    frame = table("fair_stereoset")
    authors = [
        [
            {"sentence": s, "gold_label": names[label], "labels": []}
            for s, label in zip(*each, strict=True)
        ]
        for each in (tuple(cell.values()) for cell in frame["sentences"])
    ]
    frame.assign(sentences=authors).to_json(
        tmp_path / "authors.jsonl", orient="records", lines=True
    )
    hub = prepared(write_table("fair_stereoset", tmp_path, ".jsonl"))
    assert prepared(tmp_path / "authors.jsonl").docs == hub.docs
    for wrong, problem in (
        (authors[0][:2], "a sentence of every label"),
        ([*authors[0][:2], {"sentence": " ", "gold_label": "unrelated"}], "a sentence of every"),
        ([*authors[0][:2], {"sentence": "x", "gold_label": "related"}], "must be a list"),
        ([*authors[0][:2], {"sentence": None, "gold_label": "unrelated"}], "must be a list"),
    ):
        frame.assign(sentences=[wrong, *authors[1:]]).to_json(
            tmp_path / "wrong.jsonl", orient="records", lines=True
        )
        with raises(DataError, problem, where="document s0: sentences"):
            prepared(tmp_path / "wrong.jsonl")
    mixed = [*authors[0][:2], {"sentence": "x", "gold_label": -1}]
    frame.assign(sentences=[mixed, *authors[1:]]).to_json(
        tmp_path / "wrong.jsonl", orient="records", lines=True
    )
    with raises(DataError, "values of several kinds", where=tmp_path / "wrong.jsonl"):
        prepared(tmp_path / "wrong.jsonl")
    frame.assign(context=[None, *frame["context"][1:]]).to_json(
        tmp_path / "wrong.jsonl", orient="records", lines=True
    )
    with raises(DataError, "must be a text", where="document s0: context"):
        prepared(tmp_path / "wrong.jsonl")
