"""What is kept of every learned number: the number itself, or how sure one is of it."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from mergekit_fair.learn.coefficients import Array

_SLAB, _KEPT, _WIDTH = 1.0, 0.5, 0.1  # prior: deviation, share; posterior: deviation at first
_TEMPERATURE = 0.5  # of the gates while they are learned


class LearnedNumbers(Protocol):
    """C numbers that are being learned."""

    parameters: list[torch.Tensor]

    def draw(self, random: torch.Generator) -> torch.Tensor:
        """c (C,) for one step, with a gradient to the parameters."""
        ...

    def divergence(self) -> torch.Tensor:
        """What is added to n times the objective."""
        ...

    def expected(self) -> Array:
        """E c (C,)."""
        ...


class PointNumbers:
    """c itself.

    Args:
        first: (C,).
    """

    def __init__(self, first: Array) -> None:
        self._numbers = torch.tensor(first, dtype=torch.float64, requires_grad=True)
        self.parameters = [self._numbers]

    def draw(self, random: torch.Generator) -> torch.Tensor:
        del random
        return self._numbers

    def divergence(self) -> torch.Tensor:
        return torch.zeros((), dtype=torch.float64)

    def expected(self) -> Array:
        return self._numbers.detach().numpy().copy()


class SpikeAndSlab:
    """c_k = b_k w_k with q: b_k ~ Bernoulli(π_k), w_k ~ N(m_k, s_k²); else exactly 0.

    Prior: π = ½, w ~ N(0, 1). Its divergence, added to the objective of n rows,

        KL = Σ_k π_k log(π_k/½) + (1 − π_k) log((1 − π_k)/½)
               + π_k (m_k² + s_k² − 1 − log s_k²)/2

    A draw has a gradient: w = m + s ε, and b is a binary concrete number at temperature ½ (arXiv
    1611.00712). E c_k = π_k m_k is what a static merge can have; learning begins with that equal to
    `first`. Source: variational composition of task vectors, arXiv 2509.18208.

    Args:
        first: (C,).

    >>> import numpy as np
    >>> numbers = SpikeAndSlab(np.array([0.5]))
    >>> numbers.expected().round(6).tolist(), round(numbers.divergence().item(), 4)
    ([0.5], 2.1338)
    """

    def __init__(self, first: Array) -> None:
        share = 0.9
        start = torch.tensor(first, dtype=torch.float64)
        self._gate = torch.full_like(start, math.log(share / (1 - share))).requires_grad_()
        self._mean = (start / share).requires_grad_()
        self._width = torch.full_like(start, math.log(_WIDTH)).requires_grad_()
        self.parameters = [self._gate, self._mean, self._width]

    @property
    def shares(self) -> Array:
        """π (C,)."""
        return torch.sigmoid(self._gate).detach().numpy().copy()

    def draw(self, random: torch.Generator) -> torch.Tensor:
        noise = torch.randn(self._mean.shape, generator=random, dtype=torch.float64)
        chance = torch.rand(self._mean.shape, generator=random, dtype=torch.float64)
        chance = chance.clamp(1e-9, 1 - 1e-9)
        gate = torch.sigmoid((self._gate + torch.logit(chance)) / _TEMPERATURE)
        return gate * (self._mean + self._width.exp() * noise)

    def divergence(self) -> torch.Tensor:
        share = torch.sigmoid(self._gate)
        log, log_not = (torch.nn.functional.logsigmoid(sign * self._gate) for sign in (1, -1))
        of_gates = share * (log - math.log(_KEPT)) + (1 - share) * (log_not - math.log(1 - _KEPT))
        variance = (2 * self._width).exp() / _SLAB**2
        of_slabs = (self._mean**2 / _SLAB**2 + variance - 1 - variance.log()) / 2
        return (of_gates + share * of_slabs).sum()

    def expected(self) -> Array:
        return (torch.sigmoid(self._gate) * self._mean).detach().numpy().copy()
