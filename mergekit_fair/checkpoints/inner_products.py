"""⟨Δ_i, Δ_j⟩ of single pairs of task vectors, exact to the bit whatever else is measured with them.

`geometry` measures whole Gram matrices faster; here a number depends on its two vectors alone, not
on the other models, their order, threads, shards or slices: what a merge is made with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from mergekit_fair.checkpoints.geometry import require_finite
from mergekit_fair.checkpoints.reader import Buffer, Reader, one_thread_each
from mergekit_fair.checkpoints.vector_folder import VectorReader

# Products are added up in rows of this many elements, and the rows' sums by `math.fsum`, whose
# result does not depend on the order.
ROW = 4096
# Rows of all vectors together that a thread holds at a time, and of one of them at the least.
_ROWS, _FEWEST = 64, 16


def task_vector_products(
    base: Reader,
    models: Sequence[Reader],
    pairs: Sequence[tuple[int, int]],
    names: Iterable[str],
    advance: Callable[[int], None] | None = None,
) -> list[float]:
    """⟨θ_i − θ₀, θ_j − θ₀⟩ of pairs over the tensors `names`, in one pass over all files.

    Args:
        base: θ₀.
        models: with the base's names and shapes.
        pairs: (i, j), places in `models`; each model is in one of them.
        names: floating tensors.
        advance: told the number of bytes after each tensor.

    Raises:
        CheckpointError: NaN or Inf; names model and tensor.
    """
    length = max(_FEWEST, _ROWS // max(1, len(models))) * ROW

    def tensor(name: str) -> list[float]:
        sums: list[list[float]] = [[] for _ in pairs]
        buffers = [Buffer(length * 8) for _ in range(2)]
        count = base.tensors[name].count
        for begin in range(0, count, length):
            end = min(begin + length, count)
            start = base.read(name, begin, end, buffers[0]).double()
            vectors = []
            for model in models:
                read = model.read(name, begin, end, buffers[1]).double()
                # A folder of a task vector holds the difference itself.
                vectors.append(read - (0 if isinstance(model, VectorReader) else start))
            for total, rows in zip(sums, row_products(vectors, pairs), strict=True):
                total.extend(rows)
        if advance:
            advance(sum(reader.tensors[name].bytes for reader in (base, *models)))
        alone = {one: rows for (one, other), rows in zip(pairs, sums, strict=True) if one == other}
        squares = [added(rows) for rows in alone.values()]
        require_finite(base, [models[one] for one in alone], name, squares)
        return [added(rows) for rows in sums]

    with one_thread_each() as count, ThreadPoolExecutor(count) as pool:
        totals = list(pool.map(tensor, names))
    return [added(column) for column in zip(*totals, strict=True)] or [0.0 for _ in pairs]


def row_products(
    vectors: Sequence[torch.Tensor], pairs: Sequence[tuple[int, int]]
) -> list[list[float]]:
    """For every pair of flat vectors in float64, the sums over rows of their products."""
    return [_row_sums(vectors[one] * vectors[other]) for one, other in pairs]


def added(sums: Iterable[float]) -> float:
    """Their exact sum, rounded once; NaN if it is not finite."""
    try:
        return math.fsum(sums)
    except (ValueError, OverflowError):  # Inf − Inf, or beyond the largest number
        return math.nan


def _row_sums(products: torch.Tensor) -> list[float]:
    if short := -len(products) % ROW:
        products = torch.nn.functional.pad(products, (0, short))
    sums: list[float] = products.view(-1, ROW).sum(dim=1).tolist()
    return sums
