"""The one evaluator: tasks are prepared once, and any weights are scored on them.

`eval` is one call of it; a sweep writes new weights into the same model between two calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.checkpoints.folder import read_config, require_no_vector
from mergekit_fair.compat.lm_eval import set_torch_model
from mergekit_fair.data import DataSpec, Rows, rows_kept
from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.evaluation.advice import option
from mergekit_fair.evaluation.chat_prompts import (
    ChatPrompts,
    require_template,
    takes_no_template,
)
from mergekit_fair.evaluation.classifier import backend_of, model_config, opening
from mergekit_fair.evaluation.multi_predictions import AnyPredictions, read_samples_of
from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.evaluation.prepared_tasks import (
    EvaluationRequest,
    PreparedTask,
    TaskSet,
    prepare_tasks,
)
from mergekit_fair.evaluation.responses import RequestPass, TaskResponses
from mergekit_fair.evaluation.truncation import Truncation, another_length, own_length
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
        asked_as: a model in whose chat template prompts are put while none is open.

    >>> evaluator = Evaluator(EvaluationRequest(tasks=("fair_adult_sex",)))   # doctest: +SKIP
    >>> scorer = evaluator.open("runs/adult_sex/fft", "cpu")                  # doctest: +SKIP
    >>> labels = evaluator.labels("validation")["fair_adult_sex"]             # doctest: +SKIP
    >>> scores = scorer.score("validation")["fair_adult_sex"]                 # doctest: +SKIP
    >>> labels.with_scores(scores).predicted[:4]                              # doctest: +SKIP
    array([0, 0, 1, 0], dtype=int8)
    """

    def __init__(self, request: EvaluationRequest, asked_as: str | None = None) -> None:
        self.request = request
        self._asked_as = asked_as
        self._sets: dict[str, TaskSet] = {}
        self._rows: dict[str, Rows] = {}  # by description
        self._notes: dict[str, None] = {}  # of models
        self._lm: Any = None  # whose chat template prompts are put into

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names; the first decides."""
        return tuple(self.prepared("validation").tasks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the results should know about data and models that were opened."""
        by_task = [said for tasks in self._sets.values() for said in tasks.warnings.values()]
        loaded = [text for said in by_task for text in said]
        return tuple(dict.fromkeys([*loaded, *self.small_groups(), *self._notes]))

    def small_groups(self) -> tuple[str, ...]:
        """Groups of the splits that were opened that are too small to decide."""
        least = self.request.min_group_size
        return tuple(
            text
            for split, tasks in self._sets.items()
            if split != "train"  # where nobody is measured
            for task in tasks.tasks.values()
            for text in task.small_groups(least, split)
        )

    def prepared(self, split: str) -> TaskSet:
        """Tasks with their documents and requests, made at the first call.

        Args:
            split: validation or report; of a data description also train, which models are fitted
                on and never measured on.

        Raises:
            ConfigError: an unknown task or split.
            DataError: data that cannot be loaded.
        """
        known = SPLITS if isinstance(self.request.tasks, tuple) else (*SPLITS, "train")
        if split not in known:
            raise ConfigError("unknown split", where="split", got=split, allowed=known)
        if split not in self._sets:
            with rows_kept(self._rows):
                self._sets[split] = prepare_tasks(self.request, split, self._lm or self._prompts)
        return self._sets[split]

    @cached_property
    def _prompts(self) -> ChatPrompts | None:
        """What puts prompts into the template of the model that they are for.

        Raises:
            ConfigError: it is a classifier, or has no template.
        """
        model, request = self._asked_as, self.request
        if model is None or not request.apply_chat_template:
            return None
        if _classifies(request.lm or backend_of(model, trust_remote_code=self._trusts)[0]):
            raise takes_no_template()
        return ChatPrompts(model, request.model_args)

    @cache  # noqa: B019 (lives as long as the sweep)
    def labels(self, split: str) -> Mapping[str, AnyPredictions]:
        """Task → its rows of a split, without predictions.

        Raises:
            ConfigError, MeasurementError: a task without choices, or that measures no fairness.
        """
        return {name: task.labels() for name, task in self.prepared(split).tasks.items()}

    def binary_labels(self, split: str) -> Mapping[str, Predictions]:
        """The same of tasks whose documents are answered by no or yes.

        Raises:
            ConfigError: other documents; and as `labels`.
        """
        found = {}
        for name, rows in self.labels(split).items():
            if not isinstance(rows, Predictions):
                raise ConfigError(
                    f"its documents have {rows.kind}, and this is for answers by no or yes",
                    where=f"task {name}",
                    got=rows.names,
                    fix="describe a data set with a `label` that a row has or not, such as one of "
                    "these against the others",
                )
            found[name] = rows
        return found

    def fingerprint(self, splits: Sequence[str] = SPLITS) -> str:
        """A digest of documents, labels, groups and of all else that decides the answers."""
        digest = hashlib.sha256()
        for split in splits:
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
        require_no_vector(model)
        request = self.request
        if request.lm is None:
            name, arguments = backend_of(model, trust_remote_code=self._trusts)
        else:
            name, arguments = request.lm, {"pretrained": model}
        arguments |= request.model_args
        if not isinstance(request.tasks, tuple) and not _classifies(name) and not request.question:
            raise _needs_question(request.tasks)
        register_lm_eval()
        from lm_eval.api.registry import get_model

        batch_size = request.batch_size or _BATCH_SIZES.get(name, _OTHER_BATCH_SIZE)
        options = {"batch_size": batch_size, "max_batch_size": None, "device": device}
        with opening(model):
            lm = get_model(name).create_from_arg_obj(arguments, options)
        if request.apply_chat_template:
            require_template(getattr(lm, "tokenizer", None), model)
            self._lm = lm
        return Scorer(self, lm, model, {"model": name, **arguments})

    def require_classes(self, base: str, merged: Sequence[str], others: Sequence[str]) -> None:
        """Every classifier names the tasks' choices, and merged ones in the base's order.

        And its head answers as they ask: with one class, or for each label by itself.

        Reads configurations only.

        Args:
            base: the model whose configuration merges have.
            merged: models that are merged with it.
            others: models that are measured as they are.

        Raises:
            CheckpointError: a model whose classes stand in another order than the base's, or whose
                head answers otherwise than the tasks ask.
            ConfigError: a model whose labels are not the tasks' choices.
        """
        if self.request.lm is not None or not _classifies(
            backend_of(base, trust_remote_code=self._trusts)[0]
        ):
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
            CheckpointError: its head answers otherwise than the tasks ask.
            ConfigError: a choice is none of its labels, or `choice_map` contradicts them.
        """
        from mergekit_fair.evaluation.lm.choices import Choices

        config = model_config(model, trust_remote_code=self._trusts)
        choice_map = self.request.model_args.get("choice_map")
        try:
            choices = Choices.of_model(config, model, choice_map)
            for name, task in self.prepared("validation").tasks.items():
                choices.require_kind(task.kind or "binary", name)
            if text := choices.left_out(self._choices):
                self._notes[f"{model}: {text}"] = None
            return choices.of(self._choices)
        except ConfigError as error:
            raise ConfigError(
                error.problem,
                where=f"{model}: config.json",
                got=error.got,
                allowed=error.allowed,
                fix=error.fix,
            ) from error

    def code_left_out(self, models: Sequence[str]) -> tuple[str, ...]:
        """What is said of models whose own code is not run, since nobody trusts it."""
        if self._trusts:
            return ()
        return tuple(
            f"{model} brings code of its own, which is not run: it is measured as transformers "
            "knows its architecture"
            for model in models
            if (Path(model) / "config.json").is_file() and "auto_map" in read_config(Path(model))
        )

    @property
    def _trusts(self) -> bool:
        """Whether models may bring code of their own."""
        return bool(self.request.model_args.get("trust_remote_code"))

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
        self._passes: dict[Any, RequestPass] = {}
        self._own_choices = getattr(lm, "choices", None)

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
        folder = model or self._source
        if not (Path(folder) / "config.json").is_file():  # an adapter has the base's
            self.lm.choices = self._own_choices
        else:
            self._evaluator.classes_of(folder)
            trusts = bool(self._evaluator.request.model_args.get("trust_remote_code"))
            config = model_config(folder, trust_remote_code=trusts)
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
        Documents with V classes or labels have V scores, one document after the other: the
        log-probabilities of these, as they stand in the samples of `eval`.

        Args:
            split: validation or report.
            rows: only these of the first task, of none else.
            progress: told how many rows are done.
            label: of the bar.

        Raises:
            ScoreError: a classifier's logits are NaN or infinite.
        """
        responses = self.requests(split, rows).run(progress or Silent(), label)
        responses.require_finite()
        return {task.name: _scores(task, responses) for task in responses.tasks}

    def outputs(
        self,
        split: str,
        width: int,
        progress: Progress | None = None,
        label: str = "",
        rows: RowNumbers | None = None,
    ) -> NDArray[np.float32]:
        """What a classifier's model gives for every row of the first task: (n, width), see
        `RequestPass.outputs`.

        Args:
            split: as `Evaluator.prepared`.
            width: numbers a row.
            progress: told how many rows are done.
            label: of the bar.
            rows: only these.
        """
        requests = self.requests(split, rows)
        return requests.outputs(requests.tasks[0], width, progress or Silent(), label)

    @property
    def max_length(self) -> int | None:
        """Tokens that the model is given of a text; None where it takes none."""
        length = getattr(self.lm, "max_length", None)
        return length if isinstance(length, int) else None

    def truncation(self, split: str) -> dict[str, Truncation]:
        """Task → its rows that are longer than that, where it is known."""
        found = {}
        requests = self.requests(split, None)
        for task in requests.tasks:
            is_cut = requests.is_cut(task)
            if is_cut is not None:
                groups = self._evaluator.labels(split)[task.name].groups
                found[task.name] = Truncation.of(is_cut, groups)
        return found

    def notes(self, split: str) -> tuple[str, ...]:
        """What a reader of the figures should know of this model."""
        requests = self.requests(split, None)
        said = [requests.left_out]
        own = own_length(getattr(self.lm, "tokenizer", None))
        longest, used = requests.longest, self.max_length
        if used is not None and longest is not None:
            said.append(another_length(used, own, longest))
        return tuple(filter(None, said))

    def costs(self, split: str) -> Sequence[int]:
        """How long every row of the first task is, in characters of its requests."""
        task = next(iter(self._evaluator.prepared(split).tasks.values()))
        return [sum(len(str(i.args[0])) for i in row) for row in task.requests]

    def requests(self, split: str, rows: RowNumbers | None = None) -> RequestPass:
        """The tasks' requests on a split, ready to be answered as often as weights change.

        Args:
            split: as `Evaluator.prepared`.
            rows: only these of the first task, of none else.
        """
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
            self._passes[key] = RequestPass(self.lm, tasks)
        return self._passes[key]

    def responses(self, split: str, progress: Progress | None = None) -> TaskResponses:
        """The model's responses to all requests of all tasks, of every kind (`eval`).

        Raises:
            ConfigError: a task that this model cannot do.
        """
        told, prepared = progress or Silent(), self.requests(split, None)
        for text in self._evaluator.small_groups():
            told.say(f"warning: {text}")
        return prepared.run(told, f"{split} split", bars=True)


def _scores(task: PreparedTask, responses: TaskResponses) -> Scores:
    if task.kind == "binary":
        return responses.gaps(task)
    if task.kind is not None:
        return responses.log_probs(task).reshape(-1)
    return read_samples_of(task.name, list(task.samples(responses.of(task)))).scores


def _needs_question(data: DataSpec) -> ConfigError:
    fix = "say what is asked, to be answered by no or yes, such as: Is this toxic?"
    if data.label_kind == "classes":
        names = ", ".join(data.label_names)
        fix = f"say what is asked, to be answered by one of: {names}"
    return ConfigError(
        "a language model needs a question about each text", where=option("question"), fix=fix
    )


def register_lm_eval() -> None:
    """This package's models, aggregations and guards in lm-eval."""
    from mergekit_fair.evaluation.lm import register_models
    from mergekit_fair.evaluation.lm.checked_hf import guard_stock_models

    register_models()
    guard_stock_models()


def _classifies(name: str) -> bool:
    return name in _BATCH_SIZES
