"""The one evaluator: tasks are prepared once, and any weights are scored on them.

`eval` is one call of it; a sweep writes new weights into the same model between two calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.compat.lm_eval import (
    loglikelihood_of_tokens,
    scores_tokens,
    set_torch_model,
    token_pairs,
)
from mergekit_fair.errors import CheckpointError, ConfigError, ScoreError
from mergekit_fair.evaluation.classifier import backend_of
from mergekit_fair.evaluation.lm.scoring import answers_of, class_logits, logit_gaps
from mergekit_fair.evaluation.predictions import Predictions, Scores, choice_gaps
from mergekit_fair.evaluation.prepared_tasks import (
    EvaluationRequest,
    PreparedTask,
    TaskSet,
    prepare_tasks,
)
from mergekit_fair.progress import Progress, Silent

SPLITS = ("validation", "report")
RowNumbers = NDArray[np.int64]  # within a split, of the first task

# lm-eval's name of a model → the rows of one forward pass, unless something else is asked for.
_BATCH_SIZES = {"fair-classifier": 64, "fair-image-classifier": 64}
_OTHER_BATCH_SIZE = 8


class Evaluator:
    """What models are measured on; knows the documents and no model.

    Args:
        request: tasks and settings.

    >>> evaluator = Evaluator(EvaluationRequest(tasks=("fair_adult_sex",)))   # doctest: +SKIP
    >>> scorer = evaluator.open("runs/adult_sex/fft", "cpu")                  # doctest: +SKIP
    >>> labels = evaluator.labels("validation")["fair_adult_sex"]             # doctest: +SKIP
    >>> scores = scorer.score("validation")["fair_adult_sex"]                 # doctest: +SKIP
    >>> labels.with_scores(scores).predicted[:4]                              # doctest: +SKIP
    array([0, 0, 1, 0], dtype=int8)
    """

    def __init__(self, request: EvaluationRequest) -> None:
        self.request = request
        self._sets: dict[str, TaskSet] = {}
        self._lm: Any = None  # whose chat template prompts are put into

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names; the first decides."""
        return tuple(self.prepared("validation").tasks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the results should know about the data that was loaded."""
        by_task = [said for tasks in self._sets.values() for said in tasks.warnings.values()]
        return tuple(dict.fromkeys(text for said in by_task for text in said))

    def prepared(self, split: str) -> TaskSet:
        """Tasks with their documents and requests, made at the first call.

        Raises:
            ConfigError: an unknown task or split.
            DataError: data that cannot be had.
        """
        if split not in SPLITS:
            raise ConfigError("unknown split", where="split", got=split, allowed=SPLITS)
        if split not in self._sets:
            self._sets[split] = prepare_tasks(self.request, split, self._lm)
        return self._sets[split]

    @cache  # noqa: B019 (lives as long as the sweep)
    def labels(self, split: str) -> Mapping[str, Predictions]:
        """Task → its rows of a split, without predictions.

        Raises:
            ConfigError, MeasurementError: a task without choices, or that measures no fairness.
        """
        return {name: task.labels() for name, task in self.prepared(split).tasks.items()}

    def fingerprint(self) -> str:
        """A digest of documents, labels, groups and of all else that decides the answers."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for name, task in self.prepared(split).tasks.items():
                digest.update(f"{split} {self.labels(split)[name].labels.tolist()}".encode())
                for part in task.content():
                    digest.update(part)
        return digest.hexdigest()

    def open(self, model: str, device: str) -> Scorer:
        """Load a model.

        Args:
            model: a folder, of a model or an adapter, or a name on the Hub.
            device: torch device.

        Raises:
            CheckpointError: no model there, or one with a head of random numbers.
            ConfigError: options or labels that do not fit the model; a language model, and a data
                description without a question.
        """
        request = self.request
        if request.lm is None:
            name, arguments = backend_of(model)
        else:
            name, arguments = request.lm, {"pretrained": model}
        arguments |= request.model_args
        if not isinstance(request.tasks, tuple) and not _classifies(name) and not request.question:
            raise ConfigError(
                "a language model needs a question about each text",
                where="evaluate.question",
                fix="say what is asked, to be answered by no or yes: question: Is this toxic?",
            )
        register_lm_eval()
        from lm_eval.api.registry import get_model

        batch_size = request.batch_size or _BATCH_SIZES.get(name, _OTHER_BATCH_SIZE)
        options = {"batch_size": batch_size, "max_batch_size": None, "device": device}
        lm = get_model(name).create_from_arg_obj(arguments, options)
        if request.apply_chat_template:
            self._lm = lm
        return Scorer(self, lm, model, {"model": name, **arguments})

    def require_classes(self, base: str, merged: Sequence[str], others: Sequence[str]) -> None:
        """Every classifier names the tasks' choices, and merged ones in the base's order.

        Reads configurations only.

        Args:
            base: the model whose configuration merges have.
            merged: models that are merged with it.
            others: models that are measured as they are.

        Raises:
            CheckpointError: a model whose classes stand in another order than the base's.
            ConfigError: a model whose labels are not the tasks' choices.
        """
        if self.request.lm is not None or not _classifies(backend_of(base)[0]):
            return
        expected = self.classes_of(base)
        for model in (*merged, *others):
            if not (Path(model) / "config.json").is_file():
                continue  # an adapter has the base's configuration
            classes = self.classes_of(model)
            if model in merged and classes != expected:
                raise CheckpointError(
                    "its classes stand in another order than the base's, so that merged heads "
                    "would mix them up",
                    where=f"{model}: config.json",
                    got=classes,
                    allowed=str(expected),
                    fix="train it from the base, or swap the rows of its head",
                )

    def classes_of(self, model: str) -> dict[str, int]:
        """Choice → class, by a classifier's configuration or the request's `choice_map`.

        Raises:
            ConfigError: a choice is none of its labels.
        """
        from transformers import AutoConfig

        from mergekit_fair.evaluation.lm.choices import Choices, class_names

        config = AutoConfig.from_pretrained(model)
        choice_map = self.request.model_args.get("choice_map")
        choices = Choices(class_names(config, model), config.num_labels, choice_map)
        try:
            return choices.of(self._choices)
        except ConfigError as error:
            raise ConfigError(
                error.problem,
                where=f"{model}: config.json",
                got=error.got,
                allowed=error.allowed,
                fix="say which class each choice is, such as evaluate.model_args: "
                "{choice_map: {'no': 0, 'yes': 1}}",
            ) from error

    @cached_property
    def _choices(self) -> list[str]:
        """The texts of all choices of all tasks."""
        tasks = self.prepared("validation").tasks.values()
        return list(dict.fromkeys(i.args[1].strip() for task in tasks for i in task.instances))


class Scorer:
    """A model in memory and the evaluator's inputs, tokenised at the first call for each split.

    Attributes:
        lm: lm-eval's model.
        arguments: its name and arguments.
    """

    def __init__(
        self, evaluator: Evaluator, lm: Any, source: str, arguments: Mapping[str, Any]
    ) -> None:
        self.lm, self.arguments = lm, dict(arguments)
        self._evaluator, self._source = evaluator, source
        self._passes: dict[Any, _Pass] = {}

    @property
    def device(self) -> str:
        return str(self.lm.device)

    @property
    def model(self) -> Any:
        """The torch module; assign another one if its weights cannot be written in place."""
        return self.lm.model

    @model.setter
    def model(self, model: Any) -> None:
        set_torch_model(self.lm, model)

    def read_labels(self, model: str | None = None) -> None:
        """From now on the weights are those of `model`: its configuration names the classes.

        Args:
            model: a folder; None for the one that was opened.

        Raises:
            ConfigError: the tasks' choices are not its labels.
        """
        if not hasattr(self.lm, "choices_of"):
            return
        from transformers import AutoConfig

        folder = model or self._source
        if (Path(folder) / "config.json").is_file():
            self._evaluator.classes_of(folder)
            config = AutoConfig.from_pretrained(folder)
            self.lm.choices = self.lm.choices_of(config, folder)

    def score(
        self,
        split: str,
        rows: RowNumbers | None = None,
        progress: Progress | None = None,
        label: str = "",
    ) -> dict[str, Scores]:
        """Task → scores of a split's rows, in the documents' order.

        A classifier's score is the float32 logit₁ − logit₀, a language model's the difference of
        log-probabilities; ±inf where a task says only what is predicted; NaN without an answer.

        Args:
            split: validation or report.
            rows: only these of the first task, of none else.
            progress: told how many rows are done.
            label: of the bar.

        Raises:
            ScoreError: a classifier's logits are NaN or infinite.
        """
        responses = self._pass(split, rows).run(progress or Silent(), label)
        responses.require_finite()
        return {task.name: _scores(task, responses) for task in responses.tasks}

    def costs(self, split: str) -> Sequence[int]:
        """How long every row of the first task is, in characters of its requests."""
        task = next(iter(self._evaluator.prepared(split).tasks.values()))
        return [sum(len(str(i.args[0])) for i in row) for row in task.requests]

    def _pass(self, split: str, rows: RowNumbers | None) -> _Pass:
        key = (split, None if rows is None else rows.tobytes())
        if key not in self._passes:
            tasks = list(self._evaluator.prepared(split).tasks.values())
            if rows is not None:
                self._evaluator.labels(split)  # every request has some response
                first, picked = tasks[0], rows.tolist()
                docs, requests = first.docs, first.requests
                tasks = [
                    PreparedTask(
                        first.task, [docs[row] for row in picked], [requests[r] for r in picked]
                    )
                ]
            self._passes[key] = _Pass(self.lm, tasks)
        return self._passes[key]

    def responses(self, split: str, progress: Progress | None = None) -> TaskResponses:
        """The model's responses to all requests of all tasks, of every kind (`eval`).

        Raises:
            ConfigError: a task that this model cannot do.
        """
        return self._pass(split, None).run(progress or Silent(), f"{split} split", bars=True)


@dataclass(frozen=True, eq=False)
class TaskResponses:
    """What a model said to the requests of some tasks.

    Attributes:
        tasks: in order.
        answers: of a language model, by position among all requests; of a classifier empty.
        logits: of a classifier, (documents, classes).
    """

    tasks: list[PreparedTask]
    run: _Pass
    answers: list[Any]
    logits: NDArray[np.float32] | None = None

    def of(self, task: PreparedTask) -> list[Any]:
        """lm-eval's responses to a task's requests, in order."""
        where = self.run.positions[task.name]
        if self.logits is None:
            return self.answers[where.start : where.stop]
        import torch

        logits = torch.from_numpy(self.logits)
        prepared = self.run.prepared
        answers = answers_of(self.run.lm, prepared, range(len(logits)), logits)
        return [answers[position] for position in where]

    def gaps(self, task: PreparedTask) -> NDArray[np.floating[Any]]:
        """Second choice minus first, (documents,), of a task of two choices."""
        where = self.run.positions[task.name]
        if self.logits is None:
            values = [answer[0] for answer in self.answers[where.start : where.stop]]
            return choice_gaps(np.array(values, dtype=np.float64).reshape(-1, 2))
        first = np.arange(where.start, where.stop, 2)
        return logit_gaps(self.run.lm, self.run.prepared, self.logits, first, first + 1)

    def require_finite(self) -> None:
        """No logit of a classifier is NaN or infinite.

        Raises:
            ScoreError: with the number of documents that have one.
        """
        if self.logits is None:
            return
        has_input = np.array(self.run.prepared.inputs.lengths) > 0
        broken = int((~np.isfinite(self.logits).all(axis=1) & has_input).sum())
        if broken:
            raise ScoreError(
                f"the model's scores are NaN or infinite for {broken} of {len(has_input)} rows",
                fix="use a smaller λ, or dtype: float32",
            )


class _Pass:
    """The requests of some tasks, ready to be answered as often as the weights change.

    As in lm-eval's `evaluate`, requests of one kind are answered together, whatever task they
    belong to.
    """

    def __init__(self, lm: Any, tasks: list[PreparedTask]) -> None:
        self.lm, self.tasks = lm, tasks
        self.requests: list[Any] = []
        self.positions: dict[str, range] = {}
        for task in tasks:
            start = len(self.requests)
            self.requests += [i for i in task.instances for _ in range(i.repeats)]
            self.positions[task.name] = range(start, len(self.requests))
        self._kinds: dict[str, list[int]] = {}
        for position, request in enumerate(self.requests):
            self._kinds.setdefault(request.request_type, []).append(position)

    @cached_property
    def prepared(self) -> Any:
        """A classifier's requests with their inputs."""
        return self.lm.prepare(self.requests)

    @cached_property
    def _tokens(self) -> list[Any]:
        return token_pairs(self.lm, self._of_kind("loglikelihood"))

    def _of_kind(self, kind: str) -> list[Any]:
        return [self.requests[position] for position in self._kinds[kind]]

    def run(self, progress: Progress, label: str, *, bars: bool = False) -> TaskResponses:
        """Answer all requests with the weights that the model has now.

        Args:
            progress, label: a bar over the rows.
            bars: leave it to lm-eval to show bars for its own models.
        """
        rows = sum(len(task.docs) for task in self.tasks)
        if hasattr(self.lm, "prepare") and list(self._kinds) == ["loglikelihood"]:
            self.prepared.classes(self.lm.choices)  # an error costs no forward pass
            with _Bar(progress, label, rows, len(self.prepared.inputs.lengths)) as advance:
                logits = class_logits(
                    self.lm,
                    self.prepared,
                    lambda batch, values: advance(len(batch)),  # noqa: ARG005
                )
            return TaskResponses(self.tasks, self, [], logits)
        answers: list[Any] = [None] * len(self.requests)
        with _Bar(Silent() if bars else progress, label, rows, rows):
            for kind, positions in self._kinds.items():
                for position, answer in zip(positions, self._answer(kind, bars), strict=True):
                    answers[position] = answer
        return TaskResponses(self.tasks, self, answers)

    def _answer(self, kind: str, bars: bool) -> list[Any]:
        if kind == "loglikelihood" and scores_tokens(self.lm):
            return loglikelihood_of_tokens(self.lm, self._tokens, quiet=not bars)
        return list(getattr(self.lm, kind)(self._of_kind(kind), disable_tqdm=not bars))


class _Bar:
    """A progress bar over rows, advanced in documents: one may stand for several rows."""

    def __init__(self, progress: Progress, label: str, rows: int, documents: int) -> None:
        self._progress, self._label, self._rows = progress, label, rows
        self._share = rows / documents
        self._documents, self._advanced = 0, 0

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start(self._label, self._rows)
        return self._advance

    def _advance(self, documents: int) -> None:
        self._documents += documents
        done = round(self._documents * self._share)
        self._progress.advance(done - self._advanced)
        self._advanced = done

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._progress.advance(self._rows - self._advanced)
        self._progress.stop()


def _scores(task: PreparedTask, responses: TaskResponses) -> Scores:
    if task.is_two_class:
        return responses.gaps(task)
    return Predictions.of_samples(task.name, list(task.samples(responses.of(task)))).scores


def register_lm_eval() -> None:
    """This package's models, aggregations and guards in lm-eval."""
    from mergekit_fair.evaluation.lm import register_models
    from mergekit_fair.evaluation.lm.checked_hf import guard_stock_models

    register_models()
    guard_stock_models()


def _classifies(name: str) -> bool:
    return name in _BATCH_SIZES
