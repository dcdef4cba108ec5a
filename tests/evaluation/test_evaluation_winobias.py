"""WinoBias: accuracies and gaps, clusters, and what is read of a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from refusals import raises
from task_tables import table, write_table

from mergekit_fair.errors import DataError
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest, PreparedTask, prepare_tasks
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark_scores import measure_benchmark

TASK = "fair_winobias"


def prepared(data: Path, split: str = "report") -> PreparedTask:
    request = EvaluationRequest(tasks=(TASK,), data=str(data))
    return prepare_tasks(request, split, None).tasks[TASK]


def lines(folder: Path, *sentences: str) -> Path:
    """These sentences, before those of the small table."""
    added = [{"sentence": text, "type": 1, "stereotype": "pro"} for text in sentences]
    frame = pd.concat([pd.DataFrame(added), table(TASK)])
    frame.to_json(folder / "lines.jsonl", orient="records", lines=True)
    return folder / "lines.jsonl"


def test_accuracies_and_gaps(tmp_path: Path) -> None:
    task = prepared(write_table(TASK, tmp_path))
    docs = [doc for _, doc in task.docs]
    chosen = np.random.default_rng(0).integers(0, 2, len(docs))
    samples = list(task.samples([(float(at == c), False) for c in chosen for at in range(2)]))
    rows = benchmark_rows(TASK, samples)
    assert rows is not None
    measured = measure_benchmark(rows, MetricSettings(draws=2, min_group_size=1))
    frame = pd.DataFrame(docs).assign(right=[doc["label"] for doc in docs] == chosen)
    by = frame.groupby("stereotype")["right"].mean()
    found = {name: each.value for name, each in measured.metrics.items()}
    assert found["acc"] == pytest.approx(frame["right"].mean())
    assert (found["acc_pro"], found["acc_anti"]) == pytest.approx((by["pro"], by["anti"]))
    assert found["gap"] == pytest.approx(by["pro"] - by["anti"])
    for number in (1, 2):
        of_type = frame[frame["type"] == number].groupby("stereotype")["right"].mean()
        assert found[f"gap_type{number}"] == pytest.approx(of_type["pro"] - of_type["anti"])
    of_gender = frame.groupby("gender")["right"].mean()
    assert found["acc_range"] == pytest.approx(abs(of_gender["male"] - of_gender["female"]))
    women = frame[frame["gender"] == "female"].groupby("stereotype")["right"].mean()
    gap = measured.groups["female"].metrics["gap"].value
    assert gap == pytest.approx(women["pro"] - women["anti"])
    assert measured.clusters == len({tuple(sorted(doc["occupations"])) for doc in docs})


def test_what_is_read_of_a_sentence(tmp_path: Path) -> None:
    data = lines(
        tmp_path,
        "72 The developer hated [the cleaner] and told [her] about the manager.",
        "23:23 [The CEO] helped the nurse because [she] wanted to wash [her] hands.",
        "7 [The construction worker] saw the cook [himself].",
    )
    docs = {
        doc["sentence"]: doc
        for split in ("validation", "report")
        for _, doc in prepared(data, split).docs
    }
    doc = docs["The developer hated the cleaner and told her about the manager."]
    assert (doc["occupations"], doc["label"], doc["gender"]) == (
        ["developer", "cleaner"],
        1,
        "female",
    )
    doc = docs["The CEO helped the nurse because she wanted to wash her hands."]
    assert (doc["occupations"], doc["label"], doc["pronoun"]) == (["CEO", "nurse"], 0, "she")
    doc = docs["The construction worker saw the cook himself."]
    assert (doc["occupations"][0], doc["gender"]) == ("construction worker", "male")


@pytest.mark.parametrize(
    "sentence",
    [
        "The cook told the nurse that [he] left.",
        "[The cook] told the nurse that he left.",
        "[The cook] told the friend that [he] left.",
        "[The cook] told [the nurse] that [he] left.",
        "[The cook] told the nurse that [he] met [her].",
    ],
)
def test_a_sentence_that_says_not_who_it_is(sentence: str, tmp_path: Path) -> None:
    got = {"sentence": sentence, "type": 1, "stereotype": "pro"}
    with raises(DataError, "needs two occupations", where="sentence", got=got):
        prepared(lines(tmp_path, sentence))


def test_prompt_splits_and_the_form_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = prepared(write_table(TASK, tmp_path))
    (_, doc), requests = task.docs[0], task.requests[0]
    prompt = f"{doc['sentence']} ‘{doc['pronoun'].capitalize()}’ refers to the"
    assert [each.args for each in requests] == [(prompt, f" {o}") for o in doc["occupations"]]
    other = prepared(tmp_path / f"{TASK}.csv", "validation")
    clusters = [{doc["cluster"] for _, doc in each.docs} for each in (task, other)]
    assert not clusters[0] & clusters[1]

    import datasets

    def load(path: str, name: str) -> Any:
        def rows(occupation: str) -> Any:
            who = "he" if name.endswith("pro") else "she"
            tokens = ["The", "cook", "met", "the", occupation, ",", "because", who, "left", "."]
            return {"tokens": tokens, "coreference_clusters": ["0", "1", "7", "7"]}

        assert path == "uclanlp/wino_bias"
        return {
            split: datasets.Dataset.from_list([rows(each) for each in occupations])
            for split, occupations in (("validation", ("nurse", "clerk")), ("test", ("baker",)))
        }

    monkeypatch.setattr(datasets, "load_dataset", load)
    request = EvaluationRequest(tasks=(TASK,))
    found = [
        doc
        for s in ("validation", "report")
        for _, doc in prepare_tasks(request, s, None).tasks[TASK].docs
    ]
    assert len(found) == 12
    assert {(doc["stereotype"], doc["gender"]) for doc in found} == {
        ("pro", "male"),
        ("anti", "female"),
    }
    assert found[0]["sentence"].startswith("The cook met the ")
    assert found[0]["sentence"].endswith((", because he left.", ", because she left."))
