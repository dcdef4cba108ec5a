"""Bootstrap draws of a whole table at once: what the package draws and sums in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from mergekit_fair.fairness.grouped import Grouped, group_counts, total


def replicates(cells: Any, draws: int, seed: int | np.random.Generator) -> Any:
    """Multinomial draws of all cells, empty ones included: (draws,) + cells.shape."""
    flat = np.asarray(cells).reshape(-1)
    filled = np.flatnonzero(flat)
    n = round(float(flat.sum()))
    drawn = np.zeros((draws, flat.size), dtype=np.int64)
    drawn[:, filled] = np.random.default_rng(seed).multinomial(n, flat[filled] / n, size=draws)
    return drawn.reshape(draws, *np.shape(cells))


def grouped(cells: Any, patterns: Any) -> Grouped:
    """Cells (..., P, 2, 3) or (..., P, 2, 2) by group and over all."""
    return Grouped(group_counts(cells, patterns), total(cells))
