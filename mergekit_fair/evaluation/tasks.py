"""The functions that the tasks in `evals/` name: documents in, predictions and metrics out.

lm-eval calls `dataset` with the task's `dataset_kwargs` and with all metadata: `--metadata`, every
model argument, and `config_source`, the task's YAML file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.data.images import open_image
from mergekit_fair.escaping import one_line
from mergekit_fair.evaluation.aggregations import SCORE_METRICS
from mergekit_fair.evaluation.documents import documents, evaluated_split, read_rows, with_rows
from mergekit_fair.evaluation.predictions import choice_gaps
from mergekit_fair.fairness.metrics import COMPARED

if TYPE_CHECKING:
    import datasets

    from mergekit_fair.data import Rows

log = logging.getLogger(__name__)

# Train documents are few-shot examples only, and lm-eval makes a list of all of them: 5 s per
# 100,000. These are a random sample.
FEW_SHOT = 10_000

# What a document's item stands under; `acc` and `unanswered` are means of numbers.
ITEM_METRICS = tuple(name for name in COMPARED if name != "acc")

Result = tuple[float, bool]  # log-probability of one choice, and whether it is the greedy one


def dataset(
    *,
    spec: str | Mapping[str, Any],
    question: str,
    split: str = "validation",
    data: str | None = None,
    config_source: str = "inline",
    **others: Any,
) -> datasets.DatasetDict:
    """The documents of a task: `evaluated` is the chosen split, `train` is for few-shot examples.

    Args:
        spec: the data set's block, or the name of a YAML file beside the task's.
        question: ends every prompt.
        split: validation, or report.
        data: a csv, tsv, jsonl or parquet file that replaces the source and has its columns, or
            a .yml file that replaces the whole description.
        config_source: the task's YAML file.
        others: metadata that is meant for somebody else.

    Raises:
        ConfigError, DataError: the description or the data are not what they should be.
    """
    del others
    split = evaluated_split(split, config_source)
    return split_dataset(read_rows(spec, data, config_source), split, question)


def split_dataset(rows: Rows, split: str, question: str) -> datasets.DatasetDict:
    """The documents of a data set, as `dataset`.

    Raises:
        DataError: the split has no rows.
    """
    import datasets

    for warning in rows.warnings:
        log.warning("%s: %s", one_line(rows.name), one_line(warning))
    rows.of(split)  # an error if it has no rows
    loaded = datasets.DatasetDict(
        {
            "train": documents(rows, "train", question, most=FEW_SHOT),
            "evaluated": documents(rows, split, question),
        }
    )
    return with_rows(loaded, rows)


def image(doc: Mapping[str, Any]) -> list[Any]:
    """The picture of a document, as a list of one PIL image in RGB."""
    return [open_image(doc["image"])]


def process_results(doc: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """One document's metrics; the choices are no, yes."""
    prediction = answer(results)
    groups = [name for name in doc["groups"] if name not in doc["excluded"]]
    weight = doc.get("weight")
    items = fairness_items(prediction, int(doc["label"]), groups, weight)
    # `FairTask` gives weighted documents another aggregation of `acc` than the mean.
    correct = int(prediction == doc["label"]) if weight is None else items["dpd"]
    return {"acc": correct, **items}


def process_scored_results(doc: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """The same, and what the AUCs of `aggregations.SCORE_METRICS` take."""
    (gap,) = choice_gaps(np.array([[float(value) for value, *_ in results]])).tolist()
    groups = [name for name in doc["groups"] if name not in doc["excluded"]]
    item = (None if math.isnan(gap) else gap, int(doc["label"]), groups, doc.get("weight"))
    return {**process_results(doc, results), **dict.fromkeys(SCORE_METRICS, item)}


def answer(results: Sequence[Result]) -> int | None:
    """The number of the likeliest choice, the first of equals; None if the model gave no answer.

    No answer: a log-probability is NaN, or all are -inf.
    """
    values = [float(value) for value, *_ in results]
    if any(math.isnan(value) for value in values) or max(values) == -math.inf:
        return None
    return values.index(max(values))


class WeightedItem(tuple[int | None, int, list[str]]):
    """(prediction, label, groups) of a document that counts for `weight` rows."""

    weight: float = 1.0


def fairness_items(
    prediction: int | None, label: int, groups: Collection[str], weight: float | None = None
) -> dict[str, Any]:
    """What the aggregations of `evaluation.aggregations` take, under every metric's name."""
    item: tuple[int | None, int, list[str]] = (prediction, label, list(groups))
    if weight is not None:
        item = WeightedItem(item)
        item.weight = weight
    return {**dict.fromkeys(ITEM_METRICS, item), "unanswered": int(prediction is None)}
