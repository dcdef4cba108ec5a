"""One forward pass a row: the margin of class 1 over class 0."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import MeasurementError

if TYPE_CHECKING:
    from mergekit_fair.evaluation.model_inputs import ModelInputs

Margins = NDArray[np.float32]


def length_sorted_batches(lengths: tuple[int, ...], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of like length, longest first; ties keep the rows' order."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


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

    The model predicts 1 exactly where the margin is > 0. A given batch size makes the same
    batches every time, so that the same weights give the same bits.

    Args:
        model: a two-class classifier in evaluation mode on `device`.
        inputs: from `open_inputs`.
        batch_size: rows a forward pass.
        device: torch device.
        bf16: run the forward pass under bfloat16 autocast.
        progress: called with the number of rows of each finished batch.

    Raises:
        MeasurementError: a margin is NaN or infinite; the message counts them.
    """
    import torch

    found = np.empty(len(inputs.lengths), dtype=np.float32)
    context = torch.autocast(device.split(":")[0], torch.bfloat16) if bf16 else nullcontext()
    with torch.inference_mode(), context:
        for rows in length_sorted_batches(inputs.lengths, batch_size):
            batch = {key: value.to(device) for key, value in inputs.batch(rows).items()}
            logits = model(**batch).logits.float()
            found[rows] = (logits[:, 1] - logits[:, 0]).cpu().numpy()
            if progress:
                progress(len(rows))
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
