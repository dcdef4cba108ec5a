"""Norms of task vectors over whole checkpoints, streamed.

‖Δ‖₂² is the sum of the squares of all elements. Squares are added up in rows of a fixed length,
and the rows' sums by `math.fsum`, whose result does not depend on the order: the norm is the same
to the bit with any number of threads, shards or slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from mergekit_fair.checkpoints.reader import Buffer, Reader
from mergekit_fair.checkpoints.threads import one_thread_each
from mergekit_fair.errors import CheckpointError

ROW = 4096
BLOCK = 64 * ROW


def squares(base: torch.Tensor, models: Iterable[torch.Tensor]) -> list[list[float]]:
    """For every model, the sums of (θ − θ₀)² over the rows of a flattened tensor.

    Args:
        base: θ₀, one-dimensional, any floating dtype.
        models: θ, of the same length.
    """
    start = base.double()
    sums = []
    for model in models:
        vector = model.double() - start
        vector.mul_(vector)
        short = -len(vector) % ROW
        if short:
            vector = torch.nn.functional.pad(vector, (0, short))
        sums.append(vector.view(-1, ROW).sum(dim=1).tolist())
    return sums


def task_vector_norms(
    base: Reader,
    models: Sequence[Reader],
    names: Iterable[str],
    advance: Callable[[int], None] | None = None,
) -> list[float]:
    """‖θ − θ₀‖₂ of every model over the tensors `names`, in one pass over all files.

    Args:
        base: θ₀.
        models: with the base's names and shapes.
        names: floating tensors.
        advance: told the number of bytes after each tensor.

    Raises:
        CheckpointError: NaN or Inf; names model and tensor.
    """

    def tensor(name: str) -> list[float]:
        rows: list[list[float]] = [[] for _ in models]
        buffers = [Buffer(BLOCK * 8) for _ in range(2)]
        count = base.tensors[name].count
        for begin in range(0, count, BLOCK):
            end = min(begin + BLOCK, count)
            start = base.read(name, begin, end, buffers[0])
            read = (model.read(name, begin, end, buffers[1]) for model in models)
            for sums, found in zip(rows, squares(start, read), strict=True):
                sums.extend(found)
        if advance:
            advance(sum(reader.tensors[name].bytes for reader in (base, *models)))
        totals = [math.fsum(sums) for sums in rows]
        for model, total in zip(models, totals, strict=True):
            if not math.isfinite(total):
                raise CheckpointError(
                    f"tensor {name} minus the base's ({base.name}) is not finite",
                    where=model.name,
                    fix="train again, or leave the model out",
                )
        return totals

    with one_thread_each() as count, ThreadPoolExecutor(count) as pool:
        totals = list(pool.map(tensor, names))
    return [math.sqrt(math.fsum(column)) for column in zip(*totals, strict=True)] or [
        0.0 for _ in models
    ]
