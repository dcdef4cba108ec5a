"""Winogender's gotchas: which they are, accuracies, and the documents of `fair_winogender`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from refusals import raises
from task_tables import table, write_table

from mergekit_fair.compat.lm_eval import load_task_yaml
from mergekit_fair.errors import DataError
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.benchmarks.winogender_gotcha import (
    MOSTLY_MEN,
    MOSTLY_WOMEN,
    is_gotcha,
)
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest, PreparedTask, prepare_tasks
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark_scores import measure_benchmark

TASK = "fair_winogender_gotcha"


def prepared(data: Path, task: str = TASK) -> PreparedTask:
    request = EvaluationRequest(tasks=(task,), data=str(data))
    return prepare_tasks(request, "report", None).tasks[task]


def test_which_sentences_are_gotchas() -> None:
    """The first rows of the Hub's `gotcha`: technicians are mostly men, accountants women."""
    for occupation, of_label in (
        ("technician", ("female", "male")),
        ("accountant", ("male", "female")),
    ):
        for label, misleading in enumerate(of_label):
            for gender in ("male", "female", "neutral"):
                expected = None if gender == "neutral" else gender == misleading
                doc = {"occupation": occupation, "gender": gender, "label": label}
                assert is_gotcha(doc) is expected
    assert (len(MOSTLY_MEN), len(MOSTLY_WOMEN)) == (29, 31)
    assert not set(MOSTLY_MEN) & set(MOSTLY_WOMEN)


def test_accuracies_and_their_gap(tmp_path: Path) -> None:
    task = prepared(write_table(TASK, tmp_path))
    docs = [doc for _, doc in task.docs]
    chosen = np.random.default_rng(0).integers(0, 2, len(docs))
    samples = list(task.samples([(float(at == c), False) for c in chosen for at in range(2)]))
    rows = benchmark_rows(TASK, samples)
    assert rows is not None
    measured = measure_benchmark(rows, MetricSettings(draws=2, min_group_size=1))
    frame = pd.DataFrame(docs).assign(right=[doc["label"] for doc in docs] == chosen)
    gotcha = frame["gotcha"].eq(True)
    other = frame["gotcha"].eq(False)
    assert gotcha.sum() == other.sum() == len(docs) / 3
    found = {name: each.value for name, each in measured.metrics.items()}
    assert found["acc"] == pytest.approx(frame["right"].mean())
    by = frame[gotcha]["right"].mean(), frame[other]["right"].mean()
    assert (found["acc_gotcha"], found["acc_other"]) == pytest.approx(by)
    assert found["gap"] == pytest.approx(by[1] - by[0])
    women = frame[gotcha & (frame["gender"] == "female")]["right"].mean()
    assert measured.groups["female"].metrics["acc_gotcha"].value == pytest.approx(women)
    assert measured.groups["neutral"].metrics["acc_gotcha"].value is None
    means = frame.groupby("gender")["right"].mean()
    assert found["acc_range"] == pytest.approx(means.max() - means.min())


def test_documents_and_prompt_are_those_of_fair_winogender(tmp_path: Path) -> None:
    import lm_eval.tasks

    data = write_table(TASK, tmp_path)
    ours, wrapped = prepared(data), prepared(data, "fair_winogender")
    shared = [doc["sentid"] for _, doc in ours.docs]
    assert shared == [doc["sentid"] for _, doc in wrapped.docs]
    for first, second in zip(ours.requests, wrapped.requests, strict=True):
        assert [each.args for each in first] == [each.args for each in second]
    stock = load_task_yaml(Path(lm_eval.tasks.__file__).parent / "winogender" / "winogender.yaml")
    for key in ("dataset_path", "dataset_name", "doc_to_text", "doc_to_choice", "doc_to_target"):
        assert ours.task.config[key] == stock[key], key


def test_values_that_no_document_has(tmp_path: Path) -> None:
    wrong = {"occupation": "is no occupation", "gender": "is no gender", "label": "is no label"}
    for column, problem in wrong.items():
        table(TASK).assign(**{column: "wizard"}).to_csv(tmp_path / "other.csv", index=False)
        with raises(DataError, problem, where=f"column '{column}'", got="wizard"):
            prepared(tmp_path / "other.csv")
