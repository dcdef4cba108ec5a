"""From requests to answers: one forward pass a document, the longest first."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.forward import run_batches

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

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

    def classes(self, choices: Choices) -> NDArray[np.int64]:
        """The class of every request's choice.

        Raises:
            ConfigError: a choice that no class is known of.
        """
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


def log_probs(logits: torch.Tensor) -> torch.Tensor:
    """log p_c = z_c − log Σ_k exp z_k of every row, in float32.

    Args:
        logits: (documents, classes), any float dtype.

    Returns:
        (documents, classes), ≤ 0. A row with a NaN or infinite logit is NaN: it has no answer.
    """
    import torch

    values = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    is_finite = torch.isfinite(logits).all(dim=-1, keepdim=True)
    return values.masked_fill(~is_finite, float("nan"))


def answers_of(
    lm: Classifier, prepared: PreparedRequests, rows: Sequence[int], logits: torch.Tensor
) -> dict[int, Answer]:
    """Position of a request → (log p of its choice, whether it is the arg max), of some documents.

    The first of equals is the arg max. NaN and False where the model has no answer: NaN or
    infinite logits, or no input at all.

    Args:
        lm: a registered classifier.
        prepared: from its `prepare`.
        rows: numbers of documents.
        logits: (len(rows), classes).
    """
    values = log_probs(logits)
    best = values.argmax(dim=-1).tolist()
    classes = prepared.classes(lm.choices)
    answers = {}
    for row, of_class, top in zip(rows, values.tolist(), best, strict=True):
        for position in prepared.documents.requests[row]:
            index = int(classes[position])
            is_top = top == index and of_class[index] == of_class[index]
            answers[position] = (of_class[index], is_top)
    return answers


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
