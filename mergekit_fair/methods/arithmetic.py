"""Task-vector arithmetic on one tensor, shared by the kernels.

Multiplication and addition are separate operations on purpose: each is rounded correctly by
IEEE 754, so a result does not depend on whether a processor fuses them, on where a slice of the
tensor starts, or on the device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays float64; every other dtype is accumulated in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def weighted_task_vectors(
    base: torch.Tensor, terms: Iterable[tuple[float, torch.Tensor]]
) -> torch.Tensor | None:
    """Σ_g w_g (θ_g − θ₀), summed in the order given; None if every weight is zero.

    A term of weight 0 is left out, not multiplied: −0.0, NaN and Inf of an unused model cannot
    reach the result.

    Args:
        base: θ₀, any floating dtype and shape; borrowed.
        terms: pairs (w_g, θ_g), θ_g of the shape and device of `base`; borrowed.

    Returns:
        A new tensor of `accumulation_dtype(base.dtype)`, or None.
    """
    dtype = accumulation_dtype(base.dtype)
    start = base.to(dtype)
    total: torch.Tensor | None = None
    for weight, tensor in terms:
        if weight == 0:
            continue
        vector = tensor.to(dtype) - start
        if weight != 1:
            vector.mul_(weight)
        total = vector if total is None else total.add_(vector)
    return total


def add_scaled(start: torch.Tensor, vector: torch.Tensor | None, scale: float) -> torch.Tensor:
    """start + scale · vector, rounded once to the dtype of `start`.

    With no vector, or scale 0, `start` itself is returned: the result is then equal bit for bit.

    Args:
        start: the weights to add to; borrowed.
        vector: from `weighted_task_vectors`; overwritten.
        scale: λ.
    """
    if vector is None or scale == 0:
        return start
    if scale != 1:
        vector.mul_(scale)
    return vector.add_(start.to(vector.dtype)).to(start.dtype)
