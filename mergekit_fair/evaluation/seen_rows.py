"""Rows that a model is measured on and was trained on: refused, or counted and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mergekit_fair.checkpoints.trained_rows import TrainedRows, rows_of, trained_rows
from mergekit_fair.data import Rows, source_fingerprint
from mergekit_fair.data.row_keys import row_keys
from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.advice import option
from mergekit_fair.evaluation.documents import rows_behind
from mergekit_fair.evaluation.evaluate import Evaluated
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.sample_files import read_samples
from mergekit_fair.schema import differences, parse_json

if TYPE_CHECKING:
    from mergekit_fair.evaluation.prepared_tasks import PreparedTask

Kind = TypeVar("Kind", bound=Evaluated)

# Arguments of lm-eval's model classes that name a further model.
_FURTHER = ("pretrained", "peft", "delta")
# What of a description decides which row is in which split.
_DEALING = ("keep", "one_row_per", "text", "splits")
_SHOWN = 8


def models_of(model: str, arguments: Mapping[str, Any]) -> list[str]:
    """A model and the further ones that the arguments of its class name, such as an adapter."""
    further = [str(arguments[key]) for key in _FURTHER if arguments.get(key)]
    return list(dict.fromkeys([model, *further]))


class SeenRows:
    """What models have seen of an evaluator's rows.

    A row counts if its input, or the row of the same source, is in the train split that a model
    was trained on. Tasks over a data description are looked at; of others nothing is known.

    Args:
        evaluator: whose request says whether such rows are allowed.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def require_unseen(self, models: Sequence[str], split: str) -> None:
        """Check that no model was trained on rows that it is measured on.

        A row whose input the description has in its own train split, too, is the data's own leak,
        of which its warnings tell: it is counted and not refused.

        Raises:
            MeasurementError: names model, task, count, and how the two descriptions differ.
            CheckpointError: a file about the training rows is damaged.
        """
        if self._evaluator.request.allow_trained_rows:
            return
        for name, task in self._evaluator.prepared(split).tasks.items():
            for model in models:
                seen = self._seen(model, split, name)
                rows = rows_behind(task.task)
                if rows is None or not seen.any():
                    continue
                own = np.isin(_keys(task, rows), rows.take(rows.split == "train").keys())
                if count := int((seen & ~own).sum()):
                    of_all = f"{count:,} of the {len(task.docs):,} {split} rows"
                    raise MeasurementError(
                        f"was trained on {of_all} of {name}",
                        where=model,
                        got="; ".join(self._differences(model, rows)) or None,
                        fix="measure with the description that its train.json has, train it with "
                        f"this one, or have such rows counted: {option('allow_trained_rows')}",
                    )

    def counts(self, models: Sequence[str], split: str) -> dict[str, int]:
        """Task → rows that any of the models, which are merged, was trained on; without zeros."""
        tasks = self._evaluator.prepared(split).tasks
        masks = {name: [self._seen(model, split, name) for model in models] for name in tasks}
        found = {name: int(np.any(each, axis=0).sum()) for name, each in masks.items() if each}
        return {name: count for name, count in found.items() if count}

    @cache  # noqa: B019 (lives as long as the evaluation)
    def remarks(self, model: str) -> tuple[str, ...]:
        """What is not known of a model."""
        found = self._trained(model)
        return tuple(
            f"{model}: nothing is known of the rows that {place} was trained on: its data are gone "
            "or others now, and it was made before version 0.2"
            for place in (found.unknown if found else ())
        )

    @cache  # noqa: B019
    def _trained(self, model: str) -> TrainedRows | None:
        return trained_rows(model)

    @cache  # noqa: B019
    def _seen(self, model: str, split: str, name: str) -> np.ndarray:
        """Bool (n,): the documents of a task that a model was trained on."""
        task = self._evaluator.prepared(split).tasks[name]
        seen = np.zeros(len(task.docs), dtype=bool)
        rows, trained = rows_behind(task.task), self._trained(model)
        if rows is None or trained is None:
            return seen
        seen |= np.isin(_keys(task, rows), trained.keys)
        for origin in trained.origins:
            if (ids := _ids_in_other_words(origin, rows)) is not None:
                seen |= np.isin([doc["id"] for _, doc in task.docs], ids)
        return seen

    def _differences(self, model: str, rows: Rows) -> list[str]:
        """Between the descriptions of training and of measuring, in what decides the splits."""
        trained = self._trained(model)
        if rows.spec is None or trained is None:
            return []
        mine = _dealing(rows.spec.to_dict(), source_fingerprint(rows.spec))
        found = [
            text
            for origin in trained.origins
            for text in differences(_dealing(origin["data"], origin["source"]), mine)
        ]
        return list(dict.fromkeys(found))[:_SHOWN]


def seen_in_samples(path: Path, model: str | None = None) -> int:
    """Rows of a file of samples that their model was trained on, as far as that is known.

    Samples of stock lm-eval, and of `eval` before version 0.2, do not say it.

    Args:
        path: of the file.
        model: that gave them; None: as lm-eval's results beside them say.
    """
    models = _models_beside(path) if model is None else [model]
    trained = TrainedRows.union(filter(None, map(trained_rows, models)))
    if trained is None:
        return 0
    docs = [sample["doc"] for sample in read_samples(path)]
    texts = [doc["text"] for doc in docs if "prompt" in doc and isinstance(doc.get("text"), str)]
    return int(np.isin(row_keys(texts, "text"), trained.keys).sum())


def _models_beside(path: Path) -> list[str]:
    """The models that lm-eval's latest results in a folder of samples name."""
    for file in sorted(path.parent.glob("results_*.json"), reverse=True):
        try:
            arguments = parse_json(file.read_text(encoding="utf-8"))["config"]["model_args"]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if isinstance(arguments, str):
            pairs = (part.partition("=") for part in arguments.split(","))
            arguments = {key: value for key, _, value in pairs}
        if isinstance(arguments, Mapping):
            return [str(arguments[key]) for key in _FURTHER if arguments.get(key)]
    return []


def told(evaluation: Kind, count: int | None, total: int) -> Kind:
    """An evaluation that says how many of its rows the model was trained on, if any."""
    if not count:
        return evaluation
    text = f"the model was trained on {count:,} of these {total:,} rows: its figures are optimistic"
    changes = {"trained_rows": count, "warnings": (*vars(evaluation)["warnings"], text)}
    return evaluation.model_copy(update=changes)


def _keys(task: PreparedTask, rows: Rows) -> np.ndarray:
    return row_keys([str(doc[rows.kind]) for _, doc in task.docs], rows.kind)


def _ids_in_other_words(origin: Mapping[str, Any], rows: Rows) -> np.ndarray | None:
    """Row numbers of the training rows, where the same source was put into other words.

    Their keys are others then. None: the words are the same, or it is another source.
    """
    if rows.spec is None or rows.kind == "image":
        return None
    mine, theirs = rows.spec.to_dict(), origin["data"]
    if mine.get("text") == theirs.get("text"):
        return None
    source = {key: value for key, value in source_fingerprint(rows.spec).items() if key != "path"}
    if source != {key: value for key, value in origin["source"].items() if key != "path"}:
        return None
    dealt = rows_of({**origin, "data": {**theirs, "source": mine["source"]}})
    return None if dealt is None else dealt.of("train").ids


def _dealing(data: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    about = {key: value for key, value in source.items() if key not in ("path", "bytes")}
    if "sha256" in about:
        about["sha256"] = f"{about['sha256'][:12]}…"
    return {"source": about, **{key: data[key] for key in _DEALING if key in data}}
