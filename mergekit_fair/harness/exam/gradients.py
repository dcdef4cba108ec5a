"""∂/∂θ of weighted margins of a two-choice task, through classifiers and causal models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import ConfigError
from mergekit_fair.harness.exam.requests import tokens
from mergekit_fair.harness.predict import pulled

Weights = NDArray[np.floating[Any]]


def gradients(lm: Any, requests: Sequence[Any], weights: Weights) -> dict[str, Any]:
    """Parameter name → ∂/∂θ of Σ_i weights_i · (log p(second choice) − log p(first)).

    Args:
        lm: one of this package's classifiers, or lm-eval's `hf` with a causal model.
        requests: lm-eval's instances, the two of a document one after the other.
        weights: (documents,).

    Raises:
        ConfigError: another kind of model.
    """
    # The margin is that of the second choice.
    signed = np.repeat(weights, 2) * np.tile([-1.0, 1.0], len(weights))
    size = lm.batch_size if isinstance(lm.batch_size, int) else lm.max_batch_size
    if hasattr(lm, "prepare"):
        return _of_classifier(lm, requests, signed, size)
    if getattr(lm, "backend", None) == "causal" and hasattr(lm, "_loglikelihood_tokens"):
        continued = Continuations(tokens(lm, requests), lm.max_length)
        model = lm.model

        def logits(batch: dict[str, Any]) -> Any:
            return log_likelihoods(model, {key: x.to(lm.device) for key, x in batch.items()})

        return pulled(model, logits, continued, signed[:, np.newaxis], size)
    raise ConfigError(
        "gradients are for classifiers and causal models only",
        where="search.method",
        got=type(lm).__name__,
        fix="use method: surrogate, which needs answers only",
    )


def _of_classifier(
    lm: Any, requests: Sequence[Any], signed: Weights, batch_size: int
) -> dict[str, Any]:
    ready = lm.prepare(requests)
    classes = lm.choices.of(request.args[1] for request in requests)
    factors = np.zeros((len(ready.inputs.lengths), lm.choices.count))
    for document, positions in enumerate(ready.documents.requests):
        for position in positions:
            factors[document, classes[requests[position].args[1]]] += signed[position]
    return pulled(lm.model, lm.logits, ready.inputs, factors, batch_size)


class Continuations:
    """A causal model's inputs, cut as lm-eval cuts them: the last max_length + 1 tokens.

    Attributes:
        lengths: tokens of every request.
    """

    def __init__(self, pairs: Sequence[Any], max_length: int) -> None:
        self._ids = [(context + scored)[-(max_length + 1) :] for _, context, scored in pairs]
        self._scored = [len(scored) for _, _, scored in pairs]
        self.lengths = tuple(len(ids) for ids in self._ids)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """`input_ids`, `targets` (rows, tokens) and `scored`, 1 where a target counts.

        Padded on the right, where a causal model sees nothing of it.
        """
        import torch

        longest = max(self.lengths[row] for row in indices)
        ids = torch.zeros(len(indices), longest, dtype=torch.long)
        scored = torch.zeros(len(indices), longest)
        for place, row in enumerate(indices):
            length = self.lengths[row]
            ids[place, :length] = torch.tensor(self._ids[row])
            scored[place, length - self._scored[row] : length] = 1
        return {"input_ids": ids[:, :-1], "targets": ids[:, 1:], "scored": scored[:, 1:]}


def log_likelihoods(model: Any, batch: dict[str, Any]) -> Any:
    """(rows, 1): log p of each row's continuation, Σ over its tokens, differentiable."""
    found = model(input_ids=batch["input_ids"]).logits.float().log_softmax(dim=-1)
    of_targets = found.gather(2, batch["targets"].unsqueeze(2)).squeeze(2)
    return (of_targets * batch["scored"]).sum(dim=1, keepdim=True)
