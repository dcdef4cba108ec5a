"""How much a classifier's predictions depend on each of its weights, and the least of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_fair.errors import TrainingError


def fisher_scores(model: Any, rows: Iterable[dict[str, Tensor]], seed: int) -> dict[str, Tensor]:
    """The diagonal of the Fisher information: F_j = mean over rows of (∂ log p(ŷ|x; θ) / ∂θ_j)².

    ŷ is drawn from the model's own prediction p(·|x; θ), so that no labels are needed: of one class
    a row by its softmax, of several labels each by its sigmoid. Dropout is off.

    Tables that are looked up (`nn.Embedding`) have no score: an entry that no row looks up would
    score 0 whatever it is for.

    Args:
        model: a classifier of transformers.
        rows: the model's arguments, one row each.
        seed: of the draws.

    Returns:
        Name of a parameter → its scores, ≥ 0, in its shape and float32.

    Raises:
        TrainingError: predictions or scores that are NaN or infinite.

    Source: "Efficient Model Editing with Task-Localized Sparse Fine-tuning", arXiv 2504.02620.

    >>> from types import SimpleNamespace
    >>> class Linear(nn.Linear):  # p = ½ at w = 0, and (∂ log p / ∂w)² = x²/4 whatever is drawn
    ...     config = SimpleNamespace(problem_type=None)
    ...     def forward(self, x):
    ...         return SimpleNamespace(logits=super().forward(x))
    >>> model = Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)})
    >>> scores = fisher_scores(model, [{"x": torch.tensor([[2.0, 0.0]])}], seed=0)
    >>> scores["weight"].tolist(), scores["bias"].tolist()
    ([[1.0, 0.0], [1.0, 0.0]], [0.25, 0.25])
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    scored = {name: each for name, each in model.named_parameters() if id(each) not in tables}
    sums = {name: torch.zeros_like(each, dtype=torch.float32) for name, each in scored.items()}
    draws, count = torch.Generator().manual_seed(seed), 0
    was_training = model.training
    model.eval()
    for row in rows:
        loss = _log_chance(model, row, draws)
        slopes = torch.autograd.grad(loss, list(scored.values()), allow_unused=True)
        for total, slope in zip(sums.values(), slopes, strict=True):
            if slope is not None:
                total += slope.detach().float() ** 2
        count += 1
    model.train(was_training)
    scores = {name: total / count for name, total in sums.items()}
    _require_finite(model, scores)
    return scores


def _require_finite(model: Any, found: Mapping[str, Tensor]) -> None:
    if bad := [name for name, each in found.items() if not torch.isfinite(each).all()]:
        raise TrainingError(
            "gives numbers that are NaN or infinite, by which no weights can be chosen",
            where=type(model).__name__,
            got=bad[:3],
            fix="check the base's weights",
        )


def _log_chance(model: Any, row: dict[str, Tensor], draws: torch.Generator) -> Tensor:
    """log p(ŷ|x) of a ŷ that is drawn."""
    logits = model(**row).logits[0].float()
    _require_finite(model, {"logits": logits})
    if model.config.problem_type == "multi_label_classification":
        drawn = torch.bernoulli(logits.detach().sigmoid().cpu(), generator=draws).to(logits)
        return -nn.functional.binary_cross_entropy_with_logits(logits, drawn, reduction="sum")
    chances = logits.detach().softmax(-1).cpu()
    return logits.log_softmax(-1)[int(torch.multinomial(chances, 1, generator=draws))]


def least_sensitive(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The places of the weights with the least scores, over all tensors together.

    Of equal scores the first are taken. At least one weight.

    Args:
        scores: of `fisher_scores`.
        share: of all scored weights, above 0 and at most 1.

    Returns:
        Name → int64 (k,), rising, in the flattened tensor; tensors of which none is taken are left
        out.

    >>> least_sensitive({"a": torch.tensor([[3.0, 0.0], [2.0, 5.0]]), "b": torch.ones(4)}, 0.25)
    {'a': tensor([1]), 'b': tensor([0])}
    """
    flat = torch.cat([each.flatten() for each in scores.values()])
    count = max(1, round(share * flat.numel()))
    is_least = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    is_least[torch.sort(flat, stable=True).indices[:count]] = True
    parts = torch.split(is_least, [each.numel() for each in scores.values()])
    places = {name: part.nonzero().flatten() for name, part in zip(scores, parts, strict=True)}
    return {name: at for name, at in places.items() if at.numel()}
