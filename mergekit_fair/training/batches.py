"""The batches of a training run: rows of like length together, in an order that the seed decides.

Rows are padded to the longest of their batch, and padding is computed like everything else: 44 % of
what a model reads of RedditBias in batches of 32 random rows, 2 % in these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

# As many steps' worth of random rows are sorted by length, at most (as transformers' sampler does);
# of few rows half of them, so that no epoch repeats the batches of another.
_WINDOW, _PARTS = 50, 2

Batch = NDArray[np.int64]


def length_grouped_batches(
    lengths: Sequence[int], batch_size: int, steps: int, seed: int, per_step: int = 1
) -> list[Batch]:
    """Row numbers of all batches of a run, `per_step` for each optimiser step.

    Every epoch deals the rows anew: in a random order they are sorted by length within windows of
    50 steps (of half the epoch, if that is less) and cut into steps, which are shuffled.
    What is left of the random order is a last, smaller step. Nothing but the arguments decides.

    Args:
        lengths: tokens of each row.
        batch_size: rows of a batch.
        steps: optimiser steps, over as many epochs as they take.
        seed: of the order.
        per_step: batches of a step: processes × gradient accumulation. The rows of a step are
            dealt evenly; of fewer rows than batches some come twice.

    Returns:
        steps × per_step arrays, none of them empty.

    >>> batches = length_grouped_batches((3, 9, 3, 9, 3, 9, 3), batch_size=2, steps=5, seed=0)
    >>> [batch.size for batch in batches]  # two epochs, of which the second is cut
    [2, 2, 2, 1, 2]
    >>> sorted(int(row) for batch in batches[:4] for row in batch)
    [0, 1, 2, 3, 4, 5, 6]
    """
    random = np.random.default_rng(seed)
    length, size = np.asarray(lengths), batch_size * per_step
    batches: list[Batch] = []
    while len(batches) < steps * per_step:
        for rows in _epoch(length, size, random):
            batches += np.array_split(np.resize(rows, max(len(rows), per_step)), per_step)
    return batches[: steps * per_step]


def _epoch(lengths: Batch, size: int, random: np.random.Generator) -> Iterator[Batch]:
    """The rows of every step of an epoch, longest first."""
    order = random.permutation(len(lengths))
    steps, rest = divmod(len(order), size)
    window = size * max(1, min(_WINDOW, steps // _PARTS))
    whole = order[: steps * size]
    for start in range(0, len(whole), window):
        whole[start : start + window] = _by_length(whole[start : start + window], lengths)
    yield from random.permutation(whole.reshape(steps, size))
    if rest:
        yield _by_length(order[-rest:], lengths)


def _by_length(rows: Batch, lengths: Batch) -> Batch:
    return rows[np.argsort(-lengths[rows], kind="stable")]


def batches_digest(batches: Iterable[Batch]) -> str:
    """sha256 (hex) of which rows are in which batch, in their order."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(len(batch).to_bytes(8, "little"))
        digest.update(np.asarray(batch, dtype="<i8").tobytes())
    return digest.hexdigest()
