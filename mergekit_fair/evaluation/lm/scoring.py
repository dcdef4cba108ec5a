"""From requests to answers: one forward pass a document, the longest first."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.documents import answer_kind
from mergekit_fair.evaluation.forward import run_batches
from mergekit_fair.evaluation.tasks import LabelAnswer

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from mergekit_fair.data.label_rules import LabelKind
    from mergekit_fair.evaluation.lm.choices import Choices
    from mergekit_fair.evaluation.model_inputs import ModelInputs

Answer = tuple[float, bool]


@dataclass(frozen=True)
class Documents:
    """What the requests are about, each once.

    Attributes:
        contents: text or picture of every document.
        requests: positions of each document's requests in lm-eval's list.
    """

    contents: list[Any]
    requests: list[list[int]]


@dataclass(frozen=True)
class PreparedRequests:
    """Requests that only need a forward pass: their documents and the inputs of these."""

    requests: Sequence[Any]
    documents: Documents
    inputs: ModelInputs

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The document of every request."""
        rows = np.empty(len(self.requests), dtype=np.int64)
        for row, positions in enumerate(self.documents.requests):
            rows[positions] = row
        return rows

    @cached_property
    def choices(self) -> tuple[list[str], NDArray[np.int64]]:
        """The texts of all choices, and the number of every request's among them."""
        numbers: dict[str, int] = {}
        codes = [numbers.setdefault(r.args[1], len(numbers)) for r in self.requests]
        return list(numbers), np.array(codes, dtype=np.int64)

    @cached_property
    def kinds(self) -> dict[LabelKind, str]:
        """How the documents are answered → a task of which they are."""
        firsts = [self.requests[positions[0]] for positions in self.documents.requests]
        return {answer_kind(first.doc): str(first.task_name) for first in firsts}

    def classes(self, choices: Choices) -> NDArray[np.int64]:
        """The class of every request's choice.

        Raises:
            CheckpointError: the head answers otherwise than the documents are asked.
            ConfigError: a choice that no class is known of.
        """
        for kind, task in self.kinds.items():
            choices.require_kind(kind, task)
        texts, codes = self.choices
        of = choices.of(texts)
        return np.array([of[text] for text in texts], dtype=np.int64)[codes]


class Classifier(Protocol):
    """What scoring needs of a registered model."""

    choices: Choices
    cache_hook: Any
    batch_sizes: dict[int, int]

    @property
    def batch_size(self) -> int | str: ...

    @property
    def max_batch_size(self) -> int: ...

    def logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor: ...


def group(
    requests: Sequence[Any], key: Callable[[Any], Hashable], content: Callable[[Any], Any]
) -> Documents:
    """The requests' documents in their first order.

    Args:
        requests: lm-eval's instances.
        key: equal for the requests of one document.
        content: text or picture; asked once a document.
    """
    rows: dict[Hashable, int] = {}
    documents = Documents([], [])
    for position, request in enumerate(requests):
        row = rows.setdefault(key(request), len(rows))
        if row == len(documents.contents):
            documents.contents.append(content(request))
            documents.requests.append([])
        documents.requests[row].append(position)
    return documents


def class_logits(
    lm: Classifier,
    prepared: PreparedRequests,
    take: Callable[[list[int], torch.Tensor], None] = lambda rows, values: None,  # noqa: ARG005
    width: int | None = None,
) -> NDArray[np.float32]:
    """Logits (documents, classes) in float32; NaN for a document without any input.

    `batch_size: auto` begins with the largest batch, of the longest documents, and starts over
    with a smaller one on what is left when memory is short.

    Args:
        lm: a registered classifier.
        prepared: from its `prepare`.
        take: told the documents and logits of each finished batch.
        width: numbers that the model gives for a document; None: one a class.
    """
    from accelerate.utils import find_executable_batch_size

    inputs = prepared.inputs
    logits = np.full((len(inputs.lengths), width or lm.choices.count), np.nan, dtype=np.float32)
    left = {row for row, length in enumerate(inputs.lengths) if length}

    def keep(rows: list[int], values: torch.Tensor) -> None:
        logits[rows] = values.numpy()
        left.difference_update(rows)
        take(rows, values)

    def run(batch_size: int) -> int:
        run_batches(inputs, sorted(left), batch_size, lambda batch: lm.logits(batch).float(), keep)
        return batch_size

    if lm.batch_size == "auto":
        start = find_executable_batch_size(run, starting_batch_size=lm.max_batch_size)
        lm.batch_sizes[0] = start()
    else:
        run(int(lm.batch_size))
    return logits


def log_probs(logits: torch.Tensor, *, is_multi_label: bool = False) -> torch.Tensor:
    """log p_c = z_c − log Σ_k exp z_k of every row, in float32; of labels −log(1 + exp(−z_c)).

    Args:
        logits: (documents, classes), any float dtype.
        is_multi_label: each class is a label by itself.

    Returns:
        (documents, classes), ≤ 0. A row with a NaN or infinite logit is NaN: it has no answer.
    """
    import torch

    if is_multi_label:
        values = torch.nn.functional.logsigmoid(logits.to(torch.float32))
    else:
        values = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    is_finite = torch.isfinite(logits).all(dim=-1, keepdim=True)
    return values.masked_fill(~is_finite, float("nan"))


def answers_of(
    lm: Classifier, prepared: PreparedRequests, rows: Sequence[int], logits: torch.Tensor
) -> dict[int, Answer]:
    """Position of a request → (log p of its choice, whether it is the arg max), of some documents.

    The first of equals is the arg max. NaN and False where the model has no answer: NaN or
    infinite logits, or no input at all. Of labels: `LabelAnswer`s.

    Args:
        lm: a registered classifier.
        prepared: from its `prepare`.
        rows: numbers of documents.
        logits: (len(rows), classes).
    """
    independent = lm.choices.is_multi_label
    values = log_probs(logits, is_multi_label=independent)
    best = values.argmax(dim=-1).tolist()
    classes = prepared.classes(lm.choices)
    answers: dict[int, Answer] = {}
    for row, of_class, top in zip(rows, values.tolist(), best, strict=True):
        for position in prepared.documents.requests[row]:
            value = of_class[index := int(classes[position])]
            if independent:
                answers[position] = LabelAnswer(value, value > -math.log(2))
            else:
                answers[position] = (value, top == index and value == value)
    return answers


def request_log_probs(
    lm: Classifier,
    prepared: PreparedRequests,
    logits: NDArray[np.float32],
    positions: range,
) -> NDArray[np.float32]:
    """The log-probability of requests' choices: the numbers of `answers_of`, as one array.

    Args:
        lm: a registered classifier.
        prepared: from its `prepare`.
        logits: (documents, classes), from `class_logits`.
        positions: n of the requests.

    Returns:
        (n,), NaN without an answer.
    """
    import torch

    values = log_probs(torch.from_numpy(logits), is_multi_label=lm.choices.is_multi_label).numpy()
    where = np.asarray(positions)
    return np.asarray(values[prepared.rows[where], prepared.classes(lm.choices)[where]])


def logit_gaps(
    lm: Classifier,
    prepared: PreparedRequests,
    logits: NDArray[np.float32],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> NDArray[np.float32]:
    """z_second − z_first, in float32: positive where the second choice is the likelier one.

    Args:
        lm: a registered classifier.
        prepared: from its `prepare`.
        logits: (documents, classes), from `class_logits`.
        first, second: (n,) positions of the requests of n documents' first and second choice.

    Returns:
        (n,); NaN or infinite where a logit is.
    """
    rows, classes = prepared.rows, prepared.classes(lm.choices)
    with np.errstate(invalid="ignore"):  # inf − inf
        return logits[rows[second], classes[second]] - logits[rows[first], classes[first]]


def answer(lm: Classifier, prepared: PreparedRequests, *, quiet: bool) -> list[Answer]:
    """Log-probability of each request's choice, and whether it is the arg max, see `answers_of`.

    Answers go into lm-eval's cache as soon as their batch is done.

    Raises:
        ConfigError: a choice that no class is known of; before the first forward pass.
    """
    from tqdm import tqdm

    prepared.classes(lm.choices)
    answers: list[Answer] = [(float("nan"), False)] * len(prepared.requests)
    with tqdm(
        total=len(prepared.inputs.lengths), desc="Classifying documents", disable=quiet
    ) as bar:

        def take(rows: list[int], logits: torch.Tensor) -> None:
            for position, value in answers_of(lm, prepared, rows, logits).items():
                answers[position] = value
                arguments = prepared.requests[position].args
                lm.cache_hook.add_partial("loglikelihood", arguments, value)
            bar.update(len(rows))

        class_logits(lm, prepared, take)
    return answers


def refuse_labels(requests: Sequence[Any], model: object) -> None:
    """Refuse documents with several labels, for a model that answers with one text.

    The likelihood of a label's name says nothing of whether a document has it.

    Raises:
        ConfigError: names the task.
    """
    for request in requests:
        if answer_kind(request.doc) == "labels":
            raise ConfigError(
                "its documents have each of several labels or not, and the model answers with one "
                "text",
                where=f"task {request.task_name}",
                got=type(model).__name__,
                allowed="a classifier with problem_type: multi_label_classification",
                fix="describe one data set per label, each with a `label` of its own, and ask "
                "about one after the other",
            )


def only_choices(requests: Sequence[Any]) -> NoReturn:
    """Refuse requests that are not for the log-likelihood of a choice.

    Raises:
        ConfigError: always; names the task.
    """
    task = requests[0] if requests else None
    raise ConfigError(
        "a classifier answers multiple-choice tasks only",
        where=f"task {getattr(task, 'task_name', None)}",
        got=getattr(task, "request_type", None),
        allowed="output_type: multiple_choice",
        fix="leave the task out, or use a language model",
    )
