"""From requests to answers: one forward pass a document, the longest first."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mergekit_fair.evaluation.forward import length_sorted_batches

if TYPE_CHECKING:
    import torch

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


class Classifier(Protocol):
    """What `answer` needs of a registered model."""

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


def log_probs(logits: torch.Tensor) -> torch.Tensor:
    """log p_c = z_c − log Σ_k exp z_k of every row, in float32.

    Args:
        logits: (documents, classes), any float dtype.

    Returns:
        (documents, classes), ≤ 0. A row with a NaN or infinite logit is NaN: it has no answer.
    """
    import torch

    found = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    is_finite = torch.isfinite(logits).all(dim=-1, keepdim=True)
    return found.masked_fill(~is_finite, float("nan"))


def answer(lm: Classifier, prepared: PreparedRequests, *, quiet: bool) -> list[Answer]:
    """Log-probability of each request's choice, and whether it is the arg max (the first on a tie).

    NaN and False where the model has no answer: NaN or infinite logits, or no input at all.

    Raises:
        ConfigError: a choice that no class is known of; before the first forward pass.
    """
    from tqdm import tqdm

    requests, documents, inputs = prepared.requests, prepared.documents, prepared.inputs
    classes = lm.choices.of(request.args[1] for request in requests)
    found: list[Answer] = [(float("nan"), False)] * len(requests)
    with tqdm(total=len(inputs.lengths), desc="Classifying documents", disable=quiet) as bar:

        def take(rows: list[int], values: torch.Tensor) -> None:
            best = values.argmax(dim=-1).tolist()
            for row, of_class, top in zip(rows, values.tolist(), best, strict=True):
                for position in documents.requests[row]:
                    request = requests[position]
                    index = classes[request.args[1]]
                    is_top = top == index and of_class[index] == of_class[index]
                    found[position] = (of_class[index], is_top)
                    lm.cache_hook.add_partial("loglikelihood", request.args, found[position])
            bar.update(len(rows))

        _run(lm, inputs, take)
    return found


def _run(
    lm: Classifier, inputs: ModelInputs, take: Callable[[list[int], torch.Tensor], None]
) -> None:
    """Every document that has an input; `auto` begins with the largest batch, of the longest."""
    import torch
    from accelerate.utils import find_executable_batch_size

    left = {row for row, length in enumerate(inputs.lengths) if length}

    def batches(batch_size: int) -> int:
        rows = sorted(left)
        lengths = tuple(inputs.lengths[row] for row in rows)
        for picked in length_sorted_batches(lengths, batch_size):
            batch = [rows[index] for index in picked]
            with torch.inference_mode():
                values = log_probs(lm.logits(inputs.batch(batch)))
            take(batch, values.cpu())
            left.difference_update(batch)
        return batch_size

    if lm.batch_size == "auto":
        run = find_executable_batch_size(batches, starting_batch_size=lm.max_batch_size)
        lm.batch_sizes[0] = run()
    else:
        batches(int(lm.batch_size))
