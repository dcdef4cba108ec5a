"""Tasks of lm-eval, asked of many models: documents and requests are built once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_fair.compat.lm_eval import (
    loglikelihood_of_tokens,
    scores_tokens,
    set_torch_model,
    token_pairs,
)
from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.evaluation.evaluator import Part
from mergekit_fair.evaluation.lm_eval_run import Request, heard, lm_of, task_manager
from mergekit_fair.evaluation.predictions import Answers, Scores
from mergekit_fair.progress import Progress

_FEWSHOT_SEED = 1234  # lm-eval's default, so that few-shot prompts are those of `eval`


@dataclass(frozen=True, eq=False)
class Asked:
    """One task on one split.

    Attributes:
        task: lm-eval's.
        docs: (doc_id, document), in lm-eval's order.
        instances: the requests of every document, in the order of `docs`.
    """

    task: Any
    docs: list[tuple[int, Any]]
    instances: list[list[Any]]

    def samples(self, rows: Sequence[int], responses: Sequence[Any]) -> list[dict[str, Any]]:
        """What lm-eval makes of the responses to the requests of some documents, in order."""
        instances = [instance for row in rows for instance in self.instances[row]]
        for instance, response in zip(instances, responses, strict=True):
            instance.resps, instance.filtered_resps = [response], {}
        self.task._instances = instances
        self.task.apply_filters()
        return [self._sample(row) for row in rows]

    def _sample(self, row: int) -> dict[str, Any]:
        doc_id, doc = self.docs[row]
        key = next(iter(self.instances[row][0].filtered_resps))
        found = [instance.filtered_resps[key] for instance in self.instances[row]]
        metrics = self.task.process_results(doc, found)
        return {
            "doc_id": doc_id,
            "doc_hash": None,
            "doc": doc,
            "filtered_resps": found,
            "metrics": list(metrics),
            **metrics,
        }


@dataclass(frozen=True, eq=False)
class TasksExam:
    """Fairness tasks.

    Attributes:
        request: tasks and settings as for one run; its model and split are not looked at.
    """

    request: Request
    _warnings: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.asked("validation"))

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._warnings))

    @cache  # noqa: B019 (lives as long as the sweep)
    def asked(self, split: str) -> Mapping[str, Asked]:
        """Task → its documents and requests of a split.

        Raises:
            ConfigError: an unknown task, or one that measures no fairness or has no choices.
            DataError: data that cannot be had.
        """
        request = self.request
        metadata: dict[str, Any] = {**request.model_args, "split": split}
        if request.data is not None:
            metadata["data"] = request.data
        with heard() as warnings:
            loaded = task_manager(request, metadata).load(list(request.tasks))["tasks"]
            found = {name: _asked(name, task, request) for name, task in loaded.items()}
        self._warnings.extend(warnings)
        return found

    @cache  # noqa: B019
    def sheets(self, split: str) -> Mapping[str, Answers]:
        return {name: _blank(name, asked) for name, asked in self.asked(split).items()}

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for split in ("validation", "report"):
            for name, asked in self.asked(split).items():
                version = getattr(asked.task, "VERSION", None)
                arguments = [[i.args[:2] for i in row] for row in asked.instances]
                labels = self.sheets(split)[name].labels.tolist()
                content = [name, split, version, arguments, [doc for _, doc in asked.docs], labels]
                digest.update(json.dumps(content, sort_keys=True, default=str).encode())
                for _, doc in asked.docs:
                    digest.update(_picture(doc))
        return digest.hexdigest()

    def open(self, model: str, device: str) -> TasksExaminer:
        return TasksExaminer(self, model, device)


class TasksExaminer:
    """An lm-eval model, whose weights are written from outside."""

    def __init__(self, exam: TasksExam, model: str, device: str) -> None:
        self._exam = exam
        self._ready: dict[Any, Callable[[], list[Any]]] = {}
        self.device = device
        self._lm = lm_of(exam.request, model, device)

    @property
    def model(self) -> Any:
        return self._lm.model

    @model.setter
    def model(self, model: Any) -> None:
        set_torch_model(self._lm, model)

    def ask(
        self, split: str, part: Part | None, progress: Progress, label: str
    ) -> Mapping[str, Scores]:
        found = {}
        for number, (name, asked) in enumerate(self._exam.asked(split).items()):
            if part is not None and number:
                break
            rows = range(len(asked.docs)) if part is None else part.tolist()
            key = (split, name, None if part is None else part.tobytes())
            if key not in self._ready:
                requests = [instance for row in rows for instance in asked.instances[row]]
                self._ready[key] = prepared(self._lm, requests)
            progress.start(label, len(rows))
            try:
                samples = asked.samples(rows, self._ready[key]())
                progress.advance(len(rows))
            finally:
                progress.stop()
            found[name] = Answers.of_samples(name, samples).scores
        return found

    def costs(self, split: str) -> Sequence[int]:
        asked = next(iter(self._exam.asked(split).values()))
        return [sum(len(str(i.args[0])) for i in row) for row in asked.instances]


def _asked(name: str, task: Any, request: Request) -> Asked:
    from lm_eval.evaluator_utils import get_sample_size

    if task.get_config("output_type") != "multiple_choice":
        raise ConfigError(
            "a sweep runs multiple-choice tasks only",
            where=f"evaluate.tasks: {name}",
            got=task.get_config("output_type"),
            fix="use a task of `mergekit-fair tasks-dir`, or `mergekit-fair eval` for this one",
        )
    if request.num_fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=request.num_fewshot)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    limit = get_sample_size(task, request.limit)
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    docs = list(task.doc_iterator(rank=0, limit=limit, world_size=1))
    by_doc: dict[int, list[Any]] = {doc_id: [] for doc_id, _ in docs}
    for instance in task.instances:
        by_doc[instance.doc_id].append(instance)
    instances = [sorted(by_doc[doc_id], key=lambda found: found.idx) for doc_id, _ in docs]
    if not docs:
        raise DataError("has no documents", where=f"evaluate.tasks: {name}")
    return Asked(task, docs, instances)


def _picture(doc: Any) -> bytes:
    """The bytes of the file that a document's `image` names; none for other documents."""
    path = doc.get("image") if isinstance(doc, Mapping) else None
    return Path(path).read_bytes() if isinstance(path, str) and Path(path).is_file() else b""


def _blank(name: str, asked: Asked) -> Answers:
    """Labels and groups, by asking the task about made-up answers."""
    made_up = [(-float(place), not place) for row in asked.instances for place in range(len(row))]
    samples = asked.samples(range(len(asked.docs)), made_up)
    found = Answers.of_samples(name, samples)
    return found.given(np.full(len(found), np.nan))


def prepared(lm: Any, requests: Sequence[Any]) -> Callable[[], list[Any]]:
    """A function that gives lm's answers to these log-likelihood requests, by its own scoring."""
    if hasattr(lm, "prepare"):
        ready = lm.prepare(requests)
        return lambda: lm.answer(ready, quiet=True)
    if scores_tokens(lm):
        pairs = token_pairs(lm, requests)
        return lambda: loglikelihood_of_tokens(lm, pairs)
    return lambda: lm.loglikelihood(list(requests), disable_tqdm=True)
