"""lm-eval's own tasks with our metrics: the stock metrics stay what they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import datasets
import pytest
from lm_eval.api.task import ConfigurableTask
from refusals import raises
from task_tables import table, write_table

from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.evaluation.dealt_tasks import split_documents
from mergekit_fair.evaluation.fair_task import FairTask
from mergekit_fair.evaluation.tasks import process_results
from mergekit_fair.evaluation.wrapped_tasks import (
    BIAS_TYPES,
    CrowsPairs,
    ToxiGen,
    Winogender,
    WrappedTask,
    _stock_config,
)

EVALS = Path(__file__).parents[2] / "evals"
WRAPPED = {
    "fair_toxigen": (ToxiGen, "toxigen/toxigen.yaml"),
    "fair_winogender": (Winogender, "winogender/winogender.yaml"),
    "fair_crows_pairs": (CrowsPairs, "crows_pairs/crows_pairs_english.yaml"),
}
ANSWERS = [(-1.5, -2.5), (-3.0, -1.0), (-2.0, -2.0)]


def build(task: str, folder: Path, **metadata: Any) -> WrappedTask:
    cls, wraps = WRAPPED[task]
    metadata = {"data": str(write_table(task, folder, ".jsonl")), **metadata}
    return cls({"task": task, "class": cls, "wraps": wraps, "metadata": metadata})


@pytest.mark.parametrize("task", WRAPPED)
def test_prompt_choices_and_metrics_are_the_stock_tasks(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = build(task, tmp_path)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda **_: datasets.DatasetDict(test=ours.eval_docs)
    )
    config = {**_stock_config(WRAPPED[task][1]), "task": "stock", "training_split": None}
    stock = ConfigurableTask(config=config)
    assert len(stock.eval_docs) == len(ours.eval_docs) > 10
    for number, (mine, theirs) in enumerate(zip(ours.eval_docs, stock.eval_docs, strict=True)):
        assert ours.doc_to_text(mine) == stock.doc_to_text(theirs)
        assert ours.doc_to_choice(mine) == stock.doc_to_choice(theirs)
        assert ours.doc_to_target(mine) == stock.doc_to_target(theirs)
        results = [(value, False) for value in ANSWERS[number % 3]]
        found, expected = (
            ours.process_results(mine, results),
            stock.process_results(theirs, results),
        )
        assert {name: found[name] for name in expected} == expected


def test_every_pronoun_version_of_a_template_is_in_one_split(tmp_path: Path) -> None:
    found = {}
    for split in ("validation", "report"):
        docs = build("fair_winogender", tmp_path, split=split).eval_docs
        found[split] = {(doc["occupation"], doc["label"]) for doc in docs}
        assert len(docs) == 6 * len(found[split])
    assert not found["validation"] & found["report"]
    assert len(found["validation"] | found["report"]) == 20


def test_winogender_asks_whether_the_occupation_is_meant(tmp_path: Path) -> None:
    task = build("fair_winogender", tmp_path)
    doc = {**table("fair_winogender").to_dict("records")[0], "label": 0, "gender": "female"}
    occupation = task.fair_metrics(doc, [(-1.0, False), (-2.0, False)])
    assert occupation["dpd"] == (1, 1, ["female"])
    participant = task.fair_metrics({**doc, "label": 1}, [(-2.0, False), (-1.0, False)])
    assert participant["dpd"] == (0, 0, ["female"])


def test_toxigen_groups_that_are_spelled_in_two_ways(tmp_path: Path) -> None:
    task = build("fair_toxigen", tmp_path)
    groups = {name for doc in task.eval_docs for name in task.groups(doc)}
    assert groups == {"women", "black/african-american folks"}
    assert task.groups({"target_group": None}) == []


def test_crows_pairs(tmp_path: Path) -> None:
    task = build("fair_crows_pairs", tmp_path)
    doc = {"sent_more": "m", "sent_less": "l", "bias_type": "age"}
    tie = task.process_results(doc, [(-1.0, False), (-1.0, False)])
    assert (tie["pct_stereotype"], tie["pct_stereotype_age"], tie["preference_gap"]) == (
        0.0,
        0,
        (0, "age"),
    )
    assert tie["pct_stereotype_gender"] is None
    more = task.process_results(doc, [(-1.0, False), (-2.0, False)])
    assert (more["pct_stereotype"], more["pct_stereotype_age"]) == (1.0, 1)
    none = task.fair_metrics(doc, [(math.nan, False), (-1.0, False)])
    assert (none["preference_gap"], none["unanswered"]) == ((None, "age"), 1)
    listed = (EVALS / "fair_crows_pairs" / "fair_crows_pairs.yaml").read_text()
    assert all(f"metric: pct_stereotype_{kind}\n" in listed for kind in BIAS_TYPES)
    with pytest.raises(DataError, match="unknown type of bias; got 'height'; allowed: age, autre"):
        task.groups({**doc, "bias_type": "height"})


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task 'fair_toxigen': no such split.* 'train'"):
        build("fair_toxigen", tmp_path, split="train")
    with pytest.raises(DataError, match="data must be a file"):
        build("fair_toxigen", tmp_path, data="other.yml")
    write_table("fair_toxigen", tmp_path, n=1).rename(tmp_path / "one.csv")
    with pytest.raises(DataError, match="the split 'validation' has no documents"):
        build("fair_toxigen", tmp_path, data=str(tmp_path / "one.csv"))
    with pytest.raises(ConfigError, match="the installed lm_eval has no such task file"):
        ToxiGen({"task": "t", "wraps": "nowhere.yaml"})


def test_without_a_train_split_there_are_no_few_shot_examples(tmp_path: Path) -> None:
    task = build("fair_winogender", tmp_path)
    assert (task.config.num_fewshot, task.config.training_split) == (None, None)
    task.set_config("num_fewshot", 1)
    with raises(ConfigError, where="fair_winogender", got=0):
        task.build_all_requests()


def test_the_stock_train_split_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = datasets.Dataset.from_pandas(table("fair_toxigen"))
    examples = [{**doc, "text": f"another {row}"} for row, doc in enumerate(docs.select(range(5)))]
    train = datasets.Dataset.from_list([*examples, docs[7], docs[50]])
    both = datasets.DatasetDict(train=train, test=docs)
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: both)
    task = build("fair_toxigen", tmp_path, data=None)
    # without what is evaluated, on this split or the other
    assert task.training_docs()["text"] == [doc["text"] for doc in examples]
    assert task.config.num_fewshot is None
    assert task.config.metadata["wraps_version"] == 1.0


def test_dealing() -> None:
    units = [row // 3 for row in range(300)]
    strata = [unit % 2 for unit in units]
    parts = {name: split_documents(units, strata, name) for name in ("validation", "report")}
    assert sorted(parts["validation"] + parts["report"]) == list(range(300))
    assert len(parts["validation"]) == 120
    assert {units[row] for row in parts["validation"]}.isdisjoint(
        units[row] for row in parts["report"]
    )
    assert sum(strata[row] for row in parts["validation"]) == 60
    assert parts["report"] == split_documents(units, strata, "report")
    assert parts["report"] != sorted(parts["report"])


def test_a_task_that_lists_no_fairness_metric_has_them_all() -> None:
    """lm-eval takes the mean of what is not listed, and fails after all inference."""
    rows = {"prompt": ["p"], "label": [1], "groups": [["a"]], "excluded": [[]]}
    task = FairTask(
        {
            "task": "own",
            "class": FairTask,
            "custom_dataset": lambda **_: datasets.DatasetDict(
                evaluated=datasets.Dataset.from_dict(rows)
            ),
            "output_type": "multiple_choice",
            "test_split": "evaluated",
            "doc_to_text": "prompt",
            "doc_to_target": "label",
            "doc_to_choice": ["no", "yes"],
            "process_results": process_results,
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    )
    items = task.process_results(task.eval_docs[0], [(-2.0, False), (-1.0, True)])
    assert set(items) <= set(task.aggregation())
    assert set(task.aggregation()) == {row["metric"] for row in task.config.metric_list}
    assert set(task.aggregation()) == set(task.higher_is_better())
    for name, item in items.items():
        value = task.aggregation()[name]([item, item])
        assert 0 <= value <= 1 or math.isnan(value)
