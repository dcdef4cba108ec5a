"""Requests that are tokenised once and answered as often as the weights change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def prepared(lm: Any, requests: Sequence[Any]) -> Callable[[], list[Any]]:
    """A function that gives lm's answers to these log-likelihood requests, by its own scoring.

    Args:
        lm: one of this package's classifiers, or a model of lm-eval that scores tokens.
        requests: lm-eval's instances.
    """
    if hasattr(lm, "prepare"):
        ready = lm.prepare(requests)
        return lambda: lm.answer(ready, quiet=True)
    if hasattr(lm, "_loglikelihood_tokens"):
        pairs = tokens(lm, requests)
        return lambda: lm._loglikelihood_tokens(pairs, disable_tqdm=True)
    return lambda: lm.loglikelihood(list(requests), disable_tqdm=True)


def tokens(lm: Any, requests: Sequence[Any]) -> list[Any]:
    """((context, continuation), context's ids, continuation's ids) of every request, in order.

    What the model's own `loglikelihood` would score: it is run with its scoring replaced.
    """
    heard: list[Any] = []

    def listen(tokens: list[Any], **options: Any) -> list[tuple[float, bool]]:
        del options
        heard.extend(tokens)
        return [(0.0, False)] * len(tokens)

    lm._loglikelihood_tokens = listen
    try:
        lm.loglikelihood(list(requests), disable_tqdm=True)
    finally:
        del lm._loglikelihood_tokens  # the class's own again
    return heard
