"""Forward passes in batches of like length: the one loop that training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from mergekit_fair.evaluation.model_inputs import ModelInputs


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of like length, longest first; ties keep the rows' order.

    >>> length_sorted_batches((3, 9, 3, 5, 9), 2)
    [[1, 4], [3, 0], [2]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def run_batches(
    inputs: ModelInputs,
    rows: Sequence[int],
    batch_size: int,
    forward: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    take: Callable[[list[int], torch.Tensor], None],
) -> None:
    """Call `take(rows, forward(batch))` for every batch, without gradients.

    A given batch size makes the same batches every time, so that the same weights give the same
    bits.

    Args:
        inputs: from `open_inputs`.
        rows: which of them.
        batch_size: rows of a forward pass.
        forward: the model's keyword arguments → (rows, …), on any device.
        take: given the batch's row numbers and what `forward` gave, on the CPU.
    """
    import torch

    lengths = [inputs.lengths[row] for row in rows]
    with torch.inference_mode():
        for picked in length_sorted_batches(lengths, batch_size):
            batch = [rows[index] for index in picked]
            take(batch, forward(inputs.batch(batch)).cpu())
