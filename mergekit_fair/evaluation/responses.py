"""What a model says to the requests of tasks: answered again as often as its weights change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.compat.lm_eval import (
    cut_pairs,
    scores_tokens,
    token_pairs,
)
from mergekit_fair.errors import ScoreError
from mergekit_fair.evaluation.lm.scoring import (
    answers_of,
    class_logits,
    logit_gaps,
    refuse_labels,
    request_log_probs,
)
from mergekit_fair.evaluation.lm.shared_prompts import SharedPrompts
from mergekit_fair.evaluation.predictions import choice_gaps
from mergekit_fair.evaluation.prepared_tasks import PreparedTask
from mergekit_fair.progress import Progress, Silent


@dataclass(frozen=True, eq=False)
class TaskResponses:
    """What a model said to the requests of some tasks.

    Attributes:
        tasks: in order.
        answers: of a language model, by position among all requests; of a classifier empty.
        logits: of a classifier, (documents, classes).
    """

    tasks: list[PreparedTask]
    run: RequestPass
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

    def log_probs(self, task: PreparedTask) -> NDArray[np.floating[Any]]:
        """Of every choice, (documents, choices), of a task whose documents have the same choices.

        The numbers of `of`, and so of the samples: NaN without an answer.
        """
        where = self.run.positions[task.name]
        values: NDArray[np.floating[Any]]
        if self.logits is None:
            said = [answer[0] for answer in self.answers[where.start : where.stop]]
            values = np.array(said, dtype=np.float64)
        else:
            values = request_log_probs(self.run.lm, self.run.prepared, self.logits, where)
        return values.reshape(len(task.docs), -1)

    def require_numbers(self) -> None:
        """No log-probability is NaN, and what `require_finite` asks for.

        Raises:
            ScoreError: with the number of requests that have one.
        """
        self.require_finite()
        firsts = [each[0] for each in self.answers if isinstance(each, tuple) and each]
        broken = sum(isinstance(value, float) and value != value for value in firsts)
        if broken:
            raise ScoreError(
                f"the model's log-probabilities are NaN for {broken} of {len(firsts)} requests",
                fix="look for NaN and Inf in its weights, or use dtype: float32",
            )

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


class RequestPass:
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

    @cached_property
    def _shared(self) -> SharedPrompts:
        owners = [(each.task_name, each.doc_id) for each in self._of_kind("loglikelihood")]
        return SharedPrompts(self.lm, self._tokens, owners)

    def is_cut(self, task: PreparedTask) -> NDArray[np.bool_] | None:
        """bool (documents,): a request of it is longer than the model is given.

        None where that is not known: pictures, generated answers, models of other programs.
        """
        cut = self._cut
        if cut is None:
            return None
        counts = [sum(instance.repeats for instance in row) for row in task.requests]
        owners = np.repeat(np.arange(len(counts)), counts)
        where = self.positions[task.name]
        found = np.zeros(len(counts), dtype=np.bool_)
        found[owners[cut[where.start : where.stop]]] = True
        return found

    @property
    def left_out(self) -> str | None:
        """That a classifier has classes which no choice is."""
        return self.lm.choices.left_out(self.prepared.choices[0]) if self._classifies else None

    @property
    def longest(self) -> int | None:
        """Tokens of a classifier's longest text, as it is given; None of other models."""
        is_text = self._classifies and self.prepared.inputs.is_cut is not None
        return max(self.prepared.inputs.lengths) if is_text else None

    @cached_property
    def _cut(self) -> NDArray[np.bool_] | None:
        """The same of every request."""
        if list(self._kinds) != ["loglikelihood"]:
            return None
        if self._classifies:
            cut = self.prepared.inputs.is_cut
            return None if cut is None else np.asarray(cut[self.prepared.rows])
        pairs = cut_pairs(self.lm, self._tokens) if scores_tokens(self.lm) else None
        return None if pairs is None else np.array(pairs)

    @property
    def _classifies(self) -> bool:
        """Whether the model takes documents and no prompts."""
        return hasattr(self.lm, "prepare") and list(self._kinds) == ["loglikelihood"]

    def _of_kind(self, kind: str) -> list[Any]:
        return [self.requests[position] for position in self._kinds[kind]]

    def run(self, progress: Progress, label: str, *, bars: bool = False) -> TaskResponses:
        """Answer all requests with the weights that the model has now.

        Args:
            progress, label: a bar over the rows.
            bars: leave it to lm-eval to show bars for its own models.

        Raises:
            CheckpointError, ConfigError: the model cannot answer so; costs no forward pass.
        """
        rows = sum(len(task.docs) for task in self.tasks)
        if self._classifies:
            self.prepared.classes(self.lm.choices)  # an error costs no forward pass
            with _Bar(progress, label, rows, len(self.prepared.inputs.lengths)) as advance:
                logits = class_logits(
                    self.lm,
                    self.prepared,
                    lambda batch, values: advance(len(batch)),  # noqa: ARG005
                )
            return TaskResponses(self.tasks, self, [], logits)
        refuse_labels(self.requests, self.lm)
        answers: list[Any] = [None] * len(self.requests)
        with _Bar(Silent() if bars else progress, label, rows, rows):
            for kind, positions in self._kinds.items():
                for position, answer in zip(positions, self._answer(kind, bars), strict=True):
                    answers[position] = answer
        return TaskResponses(self.tasks, self, answers)

    def outputs(
        self, task: PreparedTask, width: int, progress: Progress, label: str
    ) -> NDArray[np.float32]:
        """What a classifier's model gives for every document of a task: (documents, width).

        Logits; or what its last layer takes, where that is replaced by an identity. NaN for a
        document without any input.
        """
        documents = self.prepared.rows[list(self.positions[task.name])[:: len(task.requests[0])]]
        with _Bar(progress, label, len(task.docs), len(self.prepared.inputs.lengths)) as advance:
            found = class_logits(
                self.lm,
                self.prepared,
                lambda batch, values: advance(len(batch)),  # noqa: ARG005
                width,
            )
        return np.asarray(found[documents])

    def _answer(self, kind: str, bars: bool) -> list[Any]:
        if kind == "loglikelihood" and scores_tokens(self.lm):
            return self._shared.answers(quiet=not bars)
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
