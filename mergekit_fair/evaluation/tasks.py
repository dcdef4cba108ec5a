"""The functions that the tasks in `evals/` name: documents in, predictions and metrics out.

lm-eval calls `dataset` with the task's `dataset_kwargs` and with all metadata: `--metadata`, every
model argument, and `config_source`, the task's YAML file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mergekit_fair.data.images import open_image
from mergekit_fair.errors import ConfigError
from mergekit_fair.escaping import one_line
from mergekit_fair.evaluation.aggregations import SCORE_METRICS
from mergekit_fair.evaluation.documents import (
    answer_kind,
    documents,
    evaluated_split,
    read_rows,
    with_rows,
)
from mergekit_fair.evaluation.predictions import choice_gaps
from mergekit_fair.fairness.metrics import COMPARED
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS

if TYPE_CHECKING:
    import datasets

    from mergekit_fair.data import Rows

log = logging.getLogger(__name__)

# Train documents are few-shot examples only, and lm-eval makes a list of all of them: 5 s per
# 100,000. These are a random sample.
FEW_SHOT = 10_000

# What a document's item stands under; `acc` and `unanswered` are means of numbers.
ITEM_METRICS = tuple(name for name in COMPARED if name != "acc")
# The same of documents with several classes or labels.
VIEW_METRICS = tuple(name for name in MULTI_METRICS if name != "acc")
# A task that measures fairness has one of these metrics, and the item stands under it.
FAIR_ITEMS = frozenset({"dpd", "macro_dpd"})

Result = tuple[float, bool]  # log-probability of one choice, and whether it is the greedy one


class LabelAnswer(NamedTuple):
    """What a classifier says of one label, which says nothing of the others.

    Attributes:
        log_prob: log P(the document has the label).
        is_likely: whether that is more than one half.
    """

    log_prob: float
    is_likely: bool


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
    """One document's metrics; the choices are no, yes, or the names of its classes or labels.

    Raises:
        ConfigError: labels that a model has answered which is no classifier of labels.
    """
    kind = answer_kind(doc)
    names = None if kind == "binary" else doc[kind]
    prediction: int | list[int] | None
    label: int | list[int]
    if kind == "labels":
        prediction, label = likely_labels(results), list(doc["label"])
    else:
        prediction, label = answer(results), int(doc["label"])
    groups = [name for name in doc["groups"] if name not in doc["excluded"]]
    weight = doc.get("weight")
    items = fairness_items(prediction, label, groups, weight, names)
    # `FairTask` gives weighted documents another aggregation of `acc` than the mean.
    correct = int(prediction == label) if weight is None else next(iter(items.values()))
    return {"acc": correct, **items}


def process_scored_results(doc: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """The same, and what the AUCs of `aggregations.SCORE_METRICS` take; the choices are no, yes.

    Raises:
        ConfigError: documents with classes or labels.
    """
    if (kind := answer_kind(doc)) != "binary":
        raise ConfigError(
            f"AUCs are of answers by no or yes, and the documents have {kind}",
            where="process_results",
            fix="use process_results: !function mergekit_fair.evaluation.tasks.process_results",
        )
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


def likely_labels(results: Sequence[Result]) -> list[int] | None:
    """Of every label 1 where its probability is more than one half, else 0; None with a NaN.

    Raises:
        ConfigError: the model is none that says of each label whether a document has it.
    """
    if not all(isinstance(result, LabelAnswer) for result in results):
        raise ConfigError(
            "the documents have several labels, and the model does not say of each of them "
            "whether a document has it",
            where="process_results",
            allowed="a classifier with problem_type: multi_label_classification",
            fix="ask a language model about one label at a time: describe one data set per label",
        )
    values = [float(value) for value, _ in results]
    if any(math.isnan(value) for value in values):
        return None
    return [int(value > -math.log(2)) for value in values]


class WeightedItem(tuple[Any, ...]):
    """The item of a document that counts for `weight` rows."""

    weight: float = 1.0


def fairness_items(
    prediction: int | list[int] | None,
    label: int | list[int],
    groups: Collection[str],
    weight: float | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What the aggregations of `evaluation.aggregations` take, under every metric's name.

    Args:
        prediction: 0, 1, a class's number, or 0 or 1 of every label; None: no answer.
        label: likewise.
        groups: those that may decide a maximum.
        weight: rows that the document counts for.
        names: of the classes or labels; None for no and yes.
    """
    item: tuple[Any, ...] = (prediction, label, list(groups))
    if names is not None:
        item = (*item, list(names))
    if weight is not None:
        item = WeightedItem(item)
        item.weight = weight
    metrics = ITEM_METRICS if names is None else VIEW_METRICS
    return {**dict.fromkeys(metrics, item), "unanswered": int(prediction is None)}
