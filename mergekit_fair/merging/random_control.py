"""The norm-matched random control: vectors of a subgroup's size that no subgroup has taught."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mergekit_fair.checkpoints.cache import Tensors
from mergekit_fair.merging.methods.arithmetic import seeded


class RandomControl(Tensors):
    """θ₀ plus, in every tensor, a Gaussian vector of the norm of θ − θ₀; made when asked for.

    What a merge of such vectors still does to a metric is no effect of the subgroup.
    Source: the norm-matched random control of arXiv 2212.04089.

    Args:
        base: θ₀.
        model: θ, same names and shapes.
        seed: of the random numbers; each tensor's stream depends on it, `name` and the tensor's
            name only.
        name: the subgroup.
    """

    def __init__(self, base: Tensors, model: Tensors, *, seed: int, name: str) -> None:
        self._base, self._model, self._seed, self._name = base, model, seed, name

    def __getitem__(self, name: str) -> torch.Tensor:
        start, end = self._base[name], self._model[name]
        if not start.is_floating_point():
            return end
        # Norms and numbers on the CPU: the control is then the same on every device.
        begin = start.cpu().float()
        vector = end.cpu().float() - begin
        noise = torch.randn(vector.shape, generator=seeded(self._seed, self._name, name))
        scale = vector.norm() / noise.norm() if vector.numel() else 0.0
        return (begin + noise * scale).to(start.dtype).to(start.device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)
