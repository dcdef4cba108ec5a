"""A classifier in the tangent space of a base: what is linear in the weights, and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.func import functional_call, jvp

from mergekit_fair.errors import CheckpointError
from mergekit_fair.evaluation.classifier import absent_weights, opening, require_weights


def linearised_logits(
    model: Any, start: Mapping[str, Tensor], weights: Mapping[str, Tensor], batch: dict[str, Any]
) -> Tensor:
    """f(x; θ₀) + (θ − θ₀)ᵀ ∇f(x; θ₀): the logits of the first Taylor polynomial in the weights.

    One pass in forward mode, which gradients by θ can be taken of. At θ = θ₀ the logits of the base
    itself.

    Args:
        model: of transformers, with `eager` attention: others know no forward mode. Its buffers
            are used, not its parameters.
        start: θ₀, name of a parameter → tensor.
        weights: θ, likewise.
        batch: the model's arguments, without labels.

    Returns:
        (rows, outputs).

    Source: "Task Arithmetic in the Tangent Space", arXiv 2305.12827.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> class Product(torch.nn.Module):  # f = x a b, linear in neither alone
    ...     def forward(self, x):
    ...         return SimpleNamespace(logits=x * self.a * self.b)
    >>> model, one = Product(), torch.tensor([[1.0]])
    >>> model.a, model.b = (torch.nn.Parameter(one * n) for n in (2, 3))
    >>> to = {"a": 4 * one, "b": 5 * one}  # 2·3 + (4 − 2)·3 + (5 − 3)·2 = 16, and not 4·5
    >>> linearised_logits(model, dict(model.named_parameters()), to, {"x": one}).item()
    16.0
    """

    def logits(parameters: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = functional_call(model, parameters, (), batch).logits
        return outputs

    origin = dict(start)
    step = {name: weights[name].to(each.dtype) - each for name, each in origin.items()}
    with warnings.catch_warnings():  # at its first call torch compiles by what it calls deprecated
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        found: Any = jvp(logits, (origin,), (step,))
    total: Tensor = found[0] + found[1]
    return total


def tangent_point(folder: str, model: Any) -> dict[str, Tensor]:
    """θ₀ for `linearised_logits`: a base's parameters, on the device of the model that left it.

    Raises:
        CheckpointError: no model there, one without all its weights, or of other parameters.
    """
    with opening(folder):
        base, report = type(model).from_pretrained(
            folder, dtype=model.dtype, output_loading_info=True
        )
    require_weights(absent_weights(report), folder)
    start = {name: each.detach().to(model.device) for name, each in base.named_parameters()}
    shapes = {name: each.shape for name, each in model.named_parameters()}
    if {name: each.shape for name, each in start.items()} != shapes:
        raise CheckpointError(
            "has other weights than the model that is linearised at it",
            where=folder,
            fix="give the base that the model was trained from",
        )
    return start
