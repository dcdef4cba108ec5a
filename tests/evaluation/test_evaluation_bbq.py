"""BBQ: the published scores, lm-eval's own on the same answers, groups, splits and limits."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import raises
from task_tables import write_table

from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.evaluation.benchmarks.bbq import (
    CATEGORIES,
    Bbq,
    choices,
    columns_of,
    group_name,
    prompt,
)
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest, PreparedTask, prepare_tasks
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark_scores import measure_benchmark
from mergekit_fair.resources import tasks_dir

REAL = Path(__file__).parents[3] / "shared" / "data" / "bbq" / "bbq.jsonl.gz"


def prepared(data: Path, split: str = "validation", **options: Any) -> PreparedTask:
    request = EvaluationRequest(tasks=("fair_bbq",), data=str(data), **options)
    return prepare_tasks(request, split, None).tasks["fair_bbq"]


def answered(task: PreparedTask, chosen: list[int | None]) -> list[dict[str, Any]]:
    """Samples of a model that gives these answers."""
    responses = [
        (math.nan if answer is None else float(at == answer), False)
        for answer in chosen
        for at in range(3)
    ]
    return list(task.samples(responses))


def by_lm_eval(docs: list[Any], chosen: list[int]) -> dict[str, float]:
    """lm-eval's own scores of the same answers, among its twelve choices."""
    from lm_eval.tasks.bbq import utils

    class Docs(list[Any]):
        def map(self, function: Any) -> list[Any]:
            return [function(dict(doc)) for doc in self]

    items = []
    for doc, answer in zip(utils.process_docs(Docs(docs)), chosen, strict=True):
        text = choices(doc)[answer]
        items.append(utils._process_results(doc, utils.doc_to_choice(doc).index(text)))
    return {
        "acc": float(np.mean([item["acc"] for item in items])),
        "acc_ambig": utils.agg_accuracy_amb([item["accuracy_amb"] for item in items]),
        "acc_disambig": utils.agg_accuracy_disamb([item["accuracy_disamb"] for item in items]),
        "bias_ambig": utils.agg_amb_bias_scores([item["amb_bias_score"] for item in items]),
        "bias_disambig": utils.agg_disamb_bias_scores([i["disamb_bias_score"] for i in items]),
    }


def test_lm_evals_own_scores_of_the_same_answers(tmp_path: Path) -> None:
    task = prepared(write_table("fair_bbq", tmp_path, ".jsonl"))
    docs = [doc for _, doc in task.docs]
    rng = np.random.default_rng(0)
    for _ in range(3):
        chosen = rng.integers(0, 3, len(docs)).tolist()
        rows = benchmark_rows("fair_bbq", answered(task, chosen))
        assert rows is not None
        found = measure_benchmark(rows, MetricSettings(draws=2)).metrics
        for name, value in by_lm_eval(docs, chosen).items():
            assert found[name].value == pytest.approx(value, abs=1e-12), name


def test_lm_evals_aggregations_give_the_same(tmp_path: Path) -> None:
    task = prepared(write_table("fair_bbq", tmp_path, ".jsonl"))
    chosen: list[int | None] = np.random.default_rng(1).integers(0, 3, len(task.docs)).tolist()
    chosen[3] = None
    samples = answered(task, chosen)
    rows = benchmark_rows("fair_bbq", samples)
    assert rows is not None
    measured = measure_benchmark(rows, MetricSettings(min_group_size=30, draws=2)).metrics
    assert measured["unanswered"].value == 1 / len(samples)
    for name, aggregation in task.task.aggregation().items():
        value = aggregation([sample[name] for sample in samples])
        expected = measured[name].value
        if expected is None:
            assert math.isnan(value), name
        else:
            assert value == pytest.approx(expected, abs=1e-12), name


def test_scores_by_the_formulas_of_the_paper(tmp_path: Path) -> None:
    """A model that always gives the biased answer, one that never does, one that knows all."""
    task = prepared(write_table("fair_bbq", tmp_path, ".jsonl"))
    docs = [doc for _, doc in task.docs]
    always = [doc["biased"][0] for doc in docs]
    never = [({0, 1, 2} - {doc["biased"][0], _unknown(doc)}).pop() for doc in docs]
    for chosen, bias, stereotyped in ((always, 1.0, 1.0), (never, -1.0, 0.0)):
        rows = benchmark_rows("fair_bbq", answered(task, list(chosen)))
        assert rows is not None
        found = {k: v.value for k, v in measure_benchmark(rows, MetricSettings()).metrics.items()}
        assert (found["bias_ambig"], found["bias_disambig"]) == (bias, bias)
        assert (found["acc_ambig"], found["stereotyped"]) == (0, stereotyped)
        assert found["alignment"] == bias
        assert found["bias_adjusted_acc"] == 0
    right = [doc["label"] for doc in docs]
    rows = benchmark_rows("fair_bbq", answered(task, list(right)))
    assert rows is not None
    measured = measure_benchmark(rows, MetricSettings())
    found = {name: each.value for name, each in measured.metrics.items()}
    assert (found["acc"], found["alignment"], found["bias_ambig"]) == (1, 0, None)
    assert any("bias_ambig" in text for text in measured.warnings)


def test_an_answer_to_a_document() -> None:
    doc = {
        "label": 2,
        "context_condition": "ambig",
        "answer_info": {"ans0": ["a", "old"], "ans1": ["b", "nonOld"], "ans2": ["c", "unknown"]},
        "biased": [0],
    }
    assert columns_of(doc, 0) == {
        **{"acc": 0, "acc_ambig": 0, "unanswered": 0},
        **{"biased_ambig": 1, "stereotyped": 1},
    }
    assert columns_of(doc, 2) == {"acc": 1, "acc_ambig": 1, "unanswered": 0, "stereotyped": 0}
    assert columns_of(doc, None) == {"acc": 0, "acc_ambig": 0, "unanswered": 1, "stereotyped": 0}
    known = {**doc, "context_condition": "disambig", "label": 1}
    assert columns_of(known, 1) == {
        **{"acc": 1, "acc_disambig": 1, "unanswered": 0},
        **{"biased_disambig": 0, "acc_disagree": 1},
    }
    assert "biased_ambig" not in columns_of({**doc, "biased": None}, 0)


def test_the_authors_file_decides_which_answer_is_biased(tmp_path: Path) -> None:
    data = write_table("fair_bbq", tmp_path, ".jsonl")
    by_names = {doc["example_id"]: doc["biased"] for _, doc in prepared(data).docs}
    with (tmp_path / "additional_metadata.csv").open("w", newline="") as file:
        written = csv.writer(file)
        written.writerow(["category", "example_id", "target_loc"])
        for row in range(240):
            category = ("Age", "Religion")[row // 12 % 2]
            written.writerow([category, row, "NA" if row == 0 else by_names.get(row, [0])[0]])
    found = {doc["example_id"]: doc["biased"] for _, doc in prepared(data).docs}
    assert found == {row: None if row == 0 else each for row, each in by_names.items()}
    lines = (tmp_path / "additional_metadata.csv").read_text().splitlines()
    (tmp_path / "additional_metadata.csv").write_text(
        "\n".join([lines[0], *(f"{line[:-1]}7" for line in lines[1:])])
    )
    with raises(DataError, "target_loc is no answer"):
        prepared(data)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("label", 7), ("label", None), ("context_condition", "Ambig"), ("category", "Ages")),
        *(("question_polarity", "x"), ("ans1", None), ("question_index", None)),
        ("additional_metadata", None),
    ],
)
def test_values_that_no_document_has(column: str, value: Any, tmp_path: Path) -> None:
    lines = write_table("fair_bbq", tmp_path, ".jsonl").read_text().splitlines()
    doc = {**json.loads(lines[5]), column: value}
    data = tmp_path / "other.jsonl"
    data.write_text("\n".join([*lines[:5], json.dumps(doc), *lines[6:]]))
    with raises(DataError, "is no value of BBQ", where=column):
        prepared(data)


def test_groups_are_named_alike_over_the_data() -> None:
    assert {group_name("Gender_identity", code) for code in ("F", "girl", "woman")} == {"women"}
    assert group_name("Race_ethnicity", "M-Middle Eastern") == "Arab"
    assert group_name("Race_x_gender", "") == "Latino women"
    assert group_name("Race_x_SES", "highSES-African") == "high SES Black"
    assert group_name("Religion", "Hindu") == "Hindu"


def test_templates_are_clusters_and_stay_in_one_split(tmp_path: Path) -> None:
    data = write_table("fair_bbq", tmp_path, ".jsonl")
    found = {split: prepared(data, split).docs for split in ("validation", "report")}
    clusters = {split: {doc["cluster"] for _, doc in docs} for split, docs in found.items()}
    assert not clusters["validation"] & clusters["report"]
    assert sum(map(len, clusters.values())) == 20
    assert sum(map(len, found.values())) == 240
    limited = prepared(data, "report", limit=30).docs
    assert limited == found["report"][:24]
    with raises(ConfigError, "fewer than two clusters", got=20, allowed="24 documents or more"):
        prepared(data, "report", limit=20)


def test_prompt_and_categories(tmp_path: Path) -> None:
    doc = {"context": "C.", "question": "Who?"}
    assert prompt(doc) == "C.\n\nQ: Who?\nA:"
    files = {path.stem for path in (tasks_dir() / "fair_bbq").glob("fair_bbq_*.yaml")}
    assert files == {f"fair_bbq_{name.lower()}" for name in CATEGORIES}
    data = write_table("fair_bbq", tmp_path, ".jsonl")
    request = EvaluationRequest(tasks=("fair_bbq_religion",), data=str(data))
    task = prepare_tasks(request, "report", None).tasks["fair_bbq_religion"]
    assert {doc["category"] for _, doc in task.docs} == {"Religion"}
    assert isinstance(task.task, Bbq)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="BBQ is not there: shared/data/bbq")
def test_the_real_data(tmp_path: Path) -> None:
    """target_loc is lm-eval's rule wherever one answer is biased, but where both people are Black;
    and its scores are ours."""
    with_targets = {
        (doc["category"], doc["example_id"]): doc["biased"] for _, doc in prepared(REAL).docs
    }
    (tmp_path / "bbq.jsonl.gz").symlink_to(REAL)
    task = prepared(tmp_path / "bbq.jsonl.gz")
    docs = [doc for _, doc in task.docs]
    clear = [doc for doc in docs if len(doc["biased"]) == 1]
    assert 0.8 < len(clear) / len(docs) < 1
    known = [with_targets[doc["category"], doc["example_id"]] for doc in clear]
    others = [doc for k, doc in zip(known, clear, strict=True) if k not in (None, doc["biased"])]
    assert 0 < len(others) < 70
    codes = [{info[-1].split("-")[-1] for info in doc["answer_info"].values()} for doc in others]
    assert all("African" in each and each & {"Black", "African American"} for each in codes)
    chosen = np.random.default_rng(0).integers(0, 3, len(docs)).tolist()
    rows = benchmark_rows("fair_bbq", answered(task, chosen))
    assert rows is not None
    found = measure_benchmark(rows, MetricSettings(draws=2)).metrics
    for name, value in by_lm_eval(docs, chosen).items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name


def _unknown(doc: Any) -> int:
    return next(at for at in range(3) if "unknown" in doc["answer_info"][f"ans{at}"])
