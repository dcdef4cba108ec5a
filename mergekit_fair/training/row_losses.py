"""A loss for every row, and models that weigh rows: by a fixed number, or the worst group most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p(y|x) of every row, (rows, L).

    Args:
        logits: (rows, outputs).
        labels: int64 (rows,), of one class a row: then L = 1; or float (rows, L), of several
            labels, each by itself.

    >>> two = torch.zeros(1, 2)
    >>> row_losses(two, torch.tensor([1])).tolist(), row_losses(two, torch.ones(1, 2)).tolist()
    ([[0.6931471824645996]], [[0.6931471824645996, 0.6931471824645996]])
    """
    if labels.ndim == 2:
        loss = nn.functional.binary_cross_entropy_with_logits
        return loss(logits.float(), labels, reduction="none")
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")[:, None]


class RowWeighted(nn.Module):
    """A model whose loss is the mean of w_i times row i's.

    Args:
        model: a classifier of transformers, all of which is trained.
    """

    accepts_loss_kwargs = False  # a batch's loss is a mean, which the Trainer scales
    column = "row_weights"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        hooked: Any = self
        hooked.register_state_dict_post_hook(_each_once)

    @property
    def config(self) -> Any:
        """Of the model."""
        return self.model.config

    def forward(self, labels: Tensor, **batch: Any) -> Any:
        """The model's output with this loss; the batch has a column of every row, too."""
        column = batch.pop(self.column)
        output = self.model(**batch)
        output["loss"] = self._loss(row_losses(output.logits, labels), column)
        return output

    def _loss(self, losses: Tensor, column: Tensor) -> Tensor:
        """Of the rows' losses and their weights, both (rows, L)."""
        return (column * losses).mean()


def _each_once(module: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Tied weights under their first name alone: the format of the Trainer's states asks for it."""
    del unused
    once = {name for name, _ in module.named_parameters()}
    for name, _ in module.named_parameters(remove_duplicate=False):
        if name not in once:
            del state[prefix + name]


class GroupRobust(RowWeighted):
    """A model whose loss is Σ_g q_g ℓ_g, where q follows the groups with the highest loss.

    In every batch of n rows, m_ig = 1 where row i is in group g, N rows and N_g in the whole data:

        ℓ_g = (1/n) Σ_i m_ig ℓ_i / (N_g / N)
        q_g ← q_g exp(η (ℓ_g + C / √N_g)),   Σ_g q_g = 1,   q_g = 1/G at first

    So a row weighs Σ_g m_ig q_g N / N_g: a row of several groups counts in each of them. ℓ_g is an
    unbiased estimate of the group's loss from batches that are dealt over all rows.

    Args:
        model: as for `RowWeighted`.
        groups: name → N_g.
        total: N.
        step: η.
        adjustment: C.

    Source: "Distributionally Robust Neural Networks for Group Shifts", arXiv 1911.08731,
    algorithm 1 and section 3.3 (the adjustment).
    """

    column = "row_groups"
    shares: Tensor
    extra: Tensor
    q: Tensor

    def __init__(
        self, model: Any, groups: Mapping[str, int], total: int, step: float, adjustment: float
    ) -> None:
        super().__init__(model)
        self.groups = tuple(groups)
        sizes = torch.tensor(list(groups.values()), dtype=torch.float32)
        self.register_buffer("shares", sizes / total, persistent=False)
        self.register_buffer("extra", adjustment / sizes.sqrt(), persistent=False)
        self.register_buffer("q", torch.full_like(self.shares, 1 / len(sizes)))
        self._step = step

    def _loss(self, losses: Tensor, column: Tensor) -> Tensor:
        """Of the rows' losses and m, (rows, G); moves q in training."""
        of_groups = (column * losses.mean(dim=1, keepdim=True)).mean(dim=0) / self.shares
        if self.training:
            self._follow(of_groups.detach())
        return (self.q * of_groups).sum()

    def group_weights(self) -> dict[str, float]:
        """Group → q_g."""
        return dict(zip(self.groups, self.q.tolist(), strict=True))

    def _follow(self, of_groups: Tensor) -> None:
        if torch.distributed.is_initialized():  # every process has seen other rows
            torch.distributed.all_reduce(of_groups)
            of_groups = of_groups / torch.distributed.get_world_size()
        logits = self.q.log() + self._step * (of_groups + self.extra)
        self.q = torch.softmax(logits, dim=0)
