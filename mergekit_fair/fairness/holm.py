"""Holm's correction: several tests at once (Holm 1979)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Adjusted p-values: at any level α, "adjusted ≤ α" errs once or more with chance ≤ α.

    Sorted p₍₁₎ ≤ … ≤ p₍ₘ₎ become max_{j≤i} min(1, (m − j + 1) p₍ⱼ₎). Valid however the tests
    depend on each other.

    Args:
        p_values: name of a test → its p-value in [0, 1].
    """
    adjusted, highest = {}, 0.0
    ordered = sorted(p_values, key=lambda key: p_values[key])
    for rank, key in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * p_values[key]))
        adjusted[key] = highest
    return {key: adjusted[key] for key in p_values}
