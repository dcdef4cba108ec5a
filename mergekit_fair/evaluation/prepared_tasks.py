"""Tasks of lm-eval with their documents and requests, built once: the suite's, one's own, inline.

The steps are those of lm-eval's `evaluate`, by its public `Task` interface.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_fair.compat.lm_eval import load_task_yaml
from mergekit_fair.data import DataSpec, load_rows
from mergekit_fair.data.label_rules import LabelKind
from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.evaluation.aggregations import SIZE
from mergekit_fair.evaluation.documents import READ_BY, answer_kind, picture_bytes
from mergekit_fair.evaluation.multi_predictions import (
    AnyPredictions,
    MultiPredictions,
    read_samples_of,
)
from mergekit_fair.evaluation.predictions import Predictions, clusters_of, weights_of
from mergekit_fair.evaluation.tasks import FAIR_ITEMS, process_results, split_dataset
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.fairness.measure_warnings import small_group_warnings
from mergekit_fair.fairness.settings import MIN_GROUP_SIZE
from mergekit_fair.resources import tasks_dir
from mergekit_fair.schema import nearest

_FEWSHOT_SEED = 1234  # lm-eval's own


@dataclass(frozen=True)
class EvaluationRequest:
    """What models are measured on, and how they are run.

    Attributes:
        tasks: names of tasks, groups or tags, the suite's and lm-eval's own; or one data
            description, which becomes a task of its own (its name is the data set's).
        data: a file in place of the tasks' data, or None.
        question: ends the prompts of a data description's task; language models need it.
        lm: lm-eval's name of the model class; None finds it from the checkpoint.
        model_args: further arguments of that class.
        batch_size: rows of one forward pass, `auto`, or None for the class's default.
        limit: rows of a task, a random sample of them; None for all.
        num_fewshot: examples in the prompt of a language model.
        include_path: a further folder of tasks.
        apply_chat_template: put prompts into the model's chat template.
        system_instruction: begins every prompt of a language model.
        seed: of the few-shot examples; 0 is lm-eval's default.
        allow_trained_rows: count rows that a model was trained on, and measure it all the same.
        min_group_size: as in `MetricSettings`.
    """

    tasks: tuple[str, ...] | DataSpec
    data: str | None = None
    question: str | None = None
    lm: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | str | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    include_path: str | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    seed: int = 0
    allow_trained_rows: bool = False
    min_group_size: int = MIN_GROUP_SIZE


@dataclass(frozen=True, eq=False)
class PreparedTask:
    """One task on one split.

    Attributes:
        task: lm-eval's.
        docs: (doc_id, document), in lm-eval's order.
        requests: the instances of every document, in the order of `docs`.
    """

    task: Any
    docs: list[tuple[int, Any]]
    requests: list[list[Any]]

    @property
    def name(self) -> str:
        return str(self.task.task_name)

    @property
    def instances(self) -> list[Any]:
        """The requests of all documents, one after the other."""
        return [instance for row in self.requests for instance in row]

    @cached_property
    def kind(self) -> LabelKind | None:
        """How its documents are answered, by the log-probabilities of their choices alone.

        That is so for tasks over a data description. Any other task, None, is asked document by
        document what it makes of the model's responses.
        """
        doc = self.docs[0][1]
        kind = answer_kind(doc)
        size = 2 if kind == "binary" else len(doc[kind])
        is_ours = self.task.config.process_results is process_results and all(
            len(row) == size and row[0].repeats == 1 for row in self.requests
        )
        return kind if is_ours else None

    @property
    def is_two_class(self) -> bool:
        """Whether predictions are the likelier of two choices, no and yes, and nothing else."""
        return self.kind == "binary"

    @property
    def has_groups(self) -> bool:
        """Whether it measures fairness, and its documents say of which groups they are."""
        is_choice = self.task.get_config("output_type") == "multiple_choice"
        return is_choice and not FAIR_ITEMS.isdisjoint(self.task.aggregation())

    def group_names(self) -> set[str]:
        """Whom its documents are about."""
        if self.has_groups:
            return set(self.labels().groups)
        return {str(name) for _, doc in self.docs for name in doc.get("groups") or ()}

    def small_groups(self, least: int, split: str) -> Iterator[str]:
        """Warn about groups that are too small to decide, before any model is run.

        Args:
            least: `min_group_size`.
            split: of the documents.
        """
        if self.has_groups:
            settings, where = MetricSettings(min_group_size=least), f"{self.name}, {split} rows"
            rows = self.labels()
            if isinstance(rows, Predictions):
                yield from small_group_warnings(rows.sizes(settings), where=where)
                return
            for name, view in rows.views.items():
                yield from small_group_warnings(view.sizes(settings), where=f"{where}, {name!r}")

    def labels(self) -> AnyPredictions:
        """Labels and groups of the documents, without predictions.

        Raises:
            ConfigError: the task is not multiple choice.
            MeasurementError: it measures no fairness.
        """
        if self.task.get_config("output_type") != "multiple_choice":
            raise ConfigError(
                "a sweep runs multiple-choice tasks only",
                where=f"evaluate.tasks: {self.name}",
                got=self.task.get_config("output_type"),
                fix="use a task of `mergekit-fair tasks-dir`, or `mergekit-fair eval` for this one",
            )
        if self.kind is not None:
            return self._labels_of_docs(self.kind)
        # By asking the task about made-up responses.
        made_up = [(-float(at), not at) for row in self.requests for at in range(len(row))]
        samples = list(self.samples(made_up))
        return read_samples_of(self.name, samples).without_predictions()

    def _labels_of_docs(self, kind: LabelKind) -> AnyPredictions:
        docs = [doc for _, doc in self.docs]
        names = sorted({name for doc in docs for name in doc["groups"]})
        said = [{"doc": doc} for doc in docs]
        labels = np.array([doc["label"] for doc in docs], dtype=np.int8)
        about: dict[str, Any] = {
            "task": self.name,
            "keys": tuple(doc_id for doc_id, _ in self.docs),
            "groups": {name: np.array([name in doc["groups"] for doc in docs]) for name in names},
            "excluded": tuple(sorted({name for doc in docs for name in doc["excluded"]})),
            "weights": weights_of(said, self.name),
            "clusters": clusters_of(said, self.name),
        }
        if kind != "binary":
            named = tuple(docs[0][kind])
            if kind == "classes":
                labels = (labels[:, None] == np.arange(len(named))).astype(np.int8)
            return MultiPredictions(
                kind=kind,
                names=named,
                labels=labels,
                predicted=np.full(labels.shape, UNANSWERED, dtype=np.int8),
                log_probs=np.full(labels.shape, np.nan),
                **about,
            )
        return Predictions(
            labels=labels,
            predicted=np.full(len(docs), UNANSWERED, dtype=np.int8),
            logit_gaps=np.full(len(docs), np.nan),
            **about,
        )

    def samples(self, responses: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """What lm-eval makes of the responses to all requests: a sample a document and filter.

        Args:
            responses: of `instances`, each `repeats` times.
        """
        answers = iter(responses)
        for instance in self.instances:
            instance.resps = [next(answers) for _ in range(instance.repeats)]
            instance.filtered_resps = {}
        self.task.apply_filters()
        for filter_name in self.requests[0][0].filtered_resps:
            for (doc_id, doc), requests in zip(self.docs, self.requests, strict=True):
                filtered = [request.filtered_resps[filter_name] for request in requests]
                metrics = self.task.process_results(doc, filtered)
                yield {
                    "doc_id": doc_id,
                    "doc": doc,
                    "resps": [request.resps for request in requests],
                    "filtered_resps": filtered,
                    "filter": filter_name,
                    "metrics": list(metrics),
                    **metrics,
                }

    def content(self) -> Iterator[bytes]:
        """All that decides what models answer: version, requests, documents and pictures.

        How the answers are read, such as the groups that decide no maximum, is no part of it.
        """
        version = getattr(self.task, "VERSION", None)
        arguments = [[request.args[:2] for request in row] for row in self.requests]
        docs = [doc for _, doc in self.docs]
        if self.kind is not None:
            asked = [{k: v for k, v in doc.items() if k not in READ_BY} for doc in docs]
        else:
            asked = docs
        yield json.dumps(
            [self.name, version, arguments, asked], sort_keys=True, default=str
        ).encode()
        yield from map(picture_bytes, docs)


@dataclass(frozen=True, eq=False)
class TaskSet:
    """The tasks of a request on one split.

    Attributes:
        tasks: name → task.
        groups: lm-eval's groups of them.
        warnings: task → what was said about its data while it was loaded.
    """

    tasks: dict[str, PreparedTask]
    groups: Mapping[str, Any]
    warnings: dict[str, tuple[str, ...]]


def prepare_tasks(request: EvaluationRequest, split: str, lm: Any = None) -> TaskSet:
    """Load the tasks with a split's documents and build their requests.

    Args:
        request: which tasks.
        split: validation or report.
        lm: the model whose chat template prompts are put into, if the request asks for that.

    Raises:
        ConfigError: an unknown task.
        DataError: data that cannot be loaded, or no documents.
    """
    prepared = TaskSet({}, {}, {})
    groups: dict[str, Any] = {}
    for load in _loaders(request, split):
        with captured_warnings() as messages:
            loaded = load()
            tasks = {name: _prepared(task, request, lm) for name, task in loaded["tasks"].items()}
        prepared.tasks.update(tasks)
        prepared.warnings.update(dict.fromkeys(tasks, tuple(messages)))
        groups |= loaded["groups"]
    return replace(prepared, groups=groups)


def _loaders(request: EvaluationRequest, split: str) -> list[Callable[[], Mapping[str, Any]]]:
    """One for each name, so that every task has its own warnings."""
    if isinstance(request.tasks, DataSpec):
        name = request.tasks.name
        return [lambda: {"tasks": {name: _inline_task(request, split)}, "groups": {}}]
    metadata: dict[str, Any] = {**request.model_args, "split": split, SIZE: request.min_group_size}
    if request.data is not None:
        metadata["data"] = str(Path(request.data).absolute())
    manager = _task_manager(request, metadata)
    return [partial(manager.load, [name]) for name in request.tasks]


def _inline_task(request: EvaluationRequest, split: str) -> Any:
    """The task of a data description: what a YAML file beside the suite's would give."""
    from mergekit_fair.evaluation.fair_task import FairTask

    spec = request.tasks
    assert isinstance(spec, DataSpec)
    template = "_fair_image" if spec.image else "_fair_binary"
    config = load_task_yaml(tasks_dir() / template)
    rows = load_rows(spec)

    def documents(**metadata: Any) -> Any:
        del metadata
        return split_dataset(rows, split, request.question or "")

    return FairTask(
        config={
            **config,
            "task": spec.name,
            "custom_dataset": documents,
            "dataset_kwargs": {},
            "metadata": {SIZE: request.min_group_size},
        }
    )


def _task_manager(request: EvaluationRequest, metadata: Mapping[str, Any]) -> Any:
    """lm-eval's task manager. Its own 14,000 files are read only for a task that is not ours.

    Raises:
        ConfigError: an unknown task.
    """
    from lm_eval.tasks import TaskManager

    folders = [str(tasks_dir()), *([request.include_path] if request.include_path else [])]
    names = [str(name) for name in request.tasks]
    known: list[str] = []
    for with_defaults in (False, True):
        manager = TaskManager(
            include_path=folders, include_defaults=with_defaults, metadata=dict(metadata)
        )
        known = manager.all_tasks
        unknown = [name for name in names if name not in known and not Path(name).is_file()]
        if not unknown:
            return manager
    raise ConfigError(
        f"no such task{nearest(unknown[0], known)}",
        where="tasks",
        got=unknown[0],
        allowed=[task for task in known if task.startswith("fair_")],
    )


def _prepared(task: Any, request: EvaluationRequest, lm: Any) -> PreparedTask:
    """With settings, documents and requests as lm-eval's `simple_evaluate` makes them."""
    if request.num_fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=request.num_fewshot)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED + request.seed)
    docs = list(task.doc_iterator(rank=0, limit=request.limit, world_size=1))
    if not docs:
        raise DataError("has no documents", where=f"task {task.task_name}")
    chat: dict[str, Any] = {}
    if request.apply_chat_template and lm is not None:
        chat = {
            "apply_chat_template": True,
            "fewshot_as_multiturn": True,
            "chat_template": lm.apply_chat_template,
            "tokenizer_name": getattr(lm, "tokenizer_name", ""),
        }
    task.build_all_requests(
        limit=request.limit,
        rank=0,
        world_size=1,
        system_instruction=request.system_instruction,
        **chat,
    )
    by_doc: dict[int, list[Any]] = {doc_id: [] for doc_id, _ in docs}
    for instance in task.instances:
        by_doc[instance.doc_id].append(instance)
    requests = [sorted(by_doc[doc_id], key=lambda instance: instance.idx) for doc_id, _ in docs]
    return PreparedTask(task, docs, requests)


@contextmanager
def captured_warnings() -> Iterator[list[str]]:
    """The warnings that this package logs inside the block, kept instead of printed."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    ours, handler = logging.getLogger("mergekit_fair"), Keep(logging.WARNING)
    ours.addHandler(handler)
    propagates, ours.propagate = ours.propagate, False
    try:
        yield messages
    finally:
        ours.removeHandler(handler)
        ours.propagate = propagates
