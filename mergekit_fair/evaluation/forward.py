"""Forward passes in batches of like length: the one loop that training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import MeasurementError

if TYPE_CHECKING:
    import torch

    from mergekit_fair.evaluation.model_inputs import ModelInputs

Margins = NDArray[np.float32]


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


def margins(
    model: Any,
    inputs: ModelInputs,
    *,
    batch_size: int = 64,
    device: str = "cpu",
    bf16: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Margins:
    """logit₁ − logit₀ of every row, in the rows' order.

    Raises:
        MeasurementError: a margin is NaN or infinite; the message counts them.
    """
    import torch

    found = np.empty(len(inputs.lengths), dtype=np.float32)

    def forward(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = model(**{key: value.to(device) for key, value in batch.items()}).logits.float()
        return logits[:, 1] - logits[:, 0]

    def take(rows: list[int], values: torch.Tensor) -> None:
        found[rows] = values.numpy()
        if progress:
            progress(len(rows))

    context = torch.autocast(device.split(":")[0], torch.bfloat16) if bf16 else nullcontext()
    with context:
        run_batches(inputs, range(len(found)), batch_size, forward, take)
    broken = int((~np.isfinite(found)).sum())
    if broken:
        raise MeasurementError(
            f"the model's scores are NaN or infinite for {broken} of {len(found)} rows",
            fix="use a smaller λ, or dtype: float32",
        )
    return found


def predictions(found: Margins) -> NDArray[np.int8]:
    """1 where the margin is > 0, else 0: the model's own arg max (0 on a tie)."""
    return (found > 0).astype(np.int8)
