"""What an adapter makes of one tensor, computed for each slice in float64."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from mergekit_fair.checkpoints.reader import Buffer, Reader

# Elements of a tensor that are read at a time where a norm or an equality needs it whole.
BLOCK = 1 << 20


class Update(Protocol):
    """θ of one tensor, made of W."""

    def of(self, weight: torch.Tensor, start: int) -> torch.Tensor:
        """θ of a slice, in float64.

        Args:
            weight: elements start, start + 1, … of the flattened W, any floating dtype.
            start: where the slice begins.
        """


@dataclass(frozen=True)
class Factors:
    """The low-rank update of one tensor: W + s·B·A, or its transpose.

    A kernel of a convolution, (out, in, …), is a matrix (out, in · …).

    Attributes:
        module: its name in memory.
        a: (r, in), or (r, in, …) of a convolution.
        b: (out, r), or (out, r, 1, …).
        scale: s.
        is_transposed: the tensor is (in, out): an embedding or a `Conv1D`.
        is_embedding: the adapter's names are those of an embedding.
    """

    module: str
    a: torch.Tensor
    b: torch.Tensor
    scale: float
    is_transposed: bool
    is_embedding: bool

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def sides(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Left and right, whose product times s is added to the tensor as it is stored."""
        a, b = self.a.flatten(1), self.b.flatten(1)
        return (a.T, b.T) if self.is_transposed else (b, a)

    def of(self, weight: torch.Tensor, start: int) -> torch.Tensor:
        """W + s·B·A of a slice, in float64.

        Only the rows that the slice touches are multiplied out. The last bits of their float64
        may depend on how many they are, as the processor's library multiplies.
        """
        left, right = self.sides
        columns, count = right.shape[1], len(weight)
        first, last = start // columns, -(-(start + count) // columns)
        rows = torch.empty((last - first, columns), dtype=torch.float64, device=weight.device)
        part = rows.view(-1)[start - first * columns :][:count].copy_(weight)
        rows.addmm_(left[first:last].double(), right.double(), alpha=self.scale)
        return part


class Dora:
    """m · (W + s·B·A) / ‖W + s·B·A‖, each output by itself (arXiv 2402.09353, equation 5).

    Args:
        factors: of W + s·B·A.
        magnitude: m, (out,).
        base, name: where W lies; it is read whole, once, before the first slice.
    """

    def __init__(self, factors: Factors, magnitude: torch.Tensor, base: Reader, name: str) -> None:
        self._factors, self._magnitude = factors, magnitude.double()
        self._base, self._name = base, name
        self._quotients: torch.Tensor | None = None
        self._lock = threading.Lock()

    def of(self, weight: torch.Tensor, start: int) -> torch.Tensor:
        with self._lock:
            if self._quotients is None:
                self._quotients = self._magnitude / self._norms()
        moved = self._factors.of(weight, start)
        at = torch.arange(start, start + len(moved), device=moved.device)
        columns = self._factors.sides[1].shape[1]
        outputs = at % columns if self._factors.is_transposed else at // columns
        return moved.mul_(self._quotients[outputs])

    def _norms(self) -> torch.Tensor:
        """‖W + s·B·A‖ of each output, float64 (out,)."""
        left, right = self._factors.sides
        rows, columns = len(left), right.shape[1]
        step = max(1, BLOCK // columns)
        buffer = Buffer(8 * min(step, rows) * columns)
        squares = torch.zeros_like(self._magnitude)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            start, stop = first * columns, last * columns
            weight = self._base.read(self._name, start, stop, buffer)
            block = self._factors.of(weight, start).view(-1, columns).square_()
            if self._factors.is_transposed:
                squares += block.sum(0)
            else:
                squares[first:last] = block.sum(1)
        return squares.sqrt_()


@dataclass(frozen=True)
class Shift:
    """W + s·b of a bias (`lora_bias`).

    Attributes:
        shift: b, (out,).
        scale: s.
    """

    shift: torch.Tensor
    scale: float

    def of(self, weight: torch.Tensor, start: int) -> torch.Tensor:
        return self.shift[start : start + len(weight)].double() * self.scale + weight


@dataclass(frozen=True)
class TokenRows:
    """W with some rows replaced (`trainable_token_indices`).

    Attributes:
        rows: index → the row, (width,).
    """

    rows: Mapping[int, torch.Tensor]

    def of(self, weight: torch.Tensor, start: int) -> torch.Tensor:
        part = weight.double().clone()
        for index, row in self.rows.items():
            begin = index * len(row) - start
            low, high = max(begin, 0), min(begin + len(row), len(part))
            if low < high:
                part[low:high] = row[low - begin : high - begin]
        return part
