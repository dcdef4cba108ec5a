"""Scores of validation rows by what was fitted on others of them, whose gaps are no better than
those of new rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.heads.fitting import folds
from mergekit_fair.heads.last_layer import Array

Mask = NDArray[np.bool_]
# Rows to fit on → rows → their scores.
Fit = Callable[[Mask], Callable[[Mask], Array]]
_PARTS = 3


def unseen_scores(rows: Predictions, fit: Fit, seed: int) -> Array:
    """Scores (n,), each by a fit that has not seen the row.

    A third of the rows is fitted on for all others, and in five folds for itself. Ordinary folds
    would give gaps that are too small: what a group's rate in one fold is above its mean the other
    folds are below, and so are the coefficients that are fitted on them; put together, the noise
    of a rate cancels out, as if the rows had been seen. With a share f of the rows to fit on, its
    variance is (1 − f)/f · σ²/n; that of new rows, under coefficients of n others, is 2σ²/n, which
    is f = ⅓.

    Args:
        rows: n.
        fit: fits on some of them, bool (n,), and gives what scores any.
        seed: of the third and of the folds.

    >>> labels = np.tile([0, 1], 15).astype(np.int8)
    >>> rows = Predictions("t", tuple(range(30)), labels, labels, {}, ())
    >>> values = np.arange(30.0)
    >>> scores = unseen_scores(
    ...     rows, lambda seen: lambda part: values[part] - values[seen].mean(), seed=0
    ... )
    >>> bool(np.isfinite(scores).all())
    True
    """
    scores = np.full(len(rows), np.nan)
    for fitted, scored in parts(rows, seed):
        scores[scored] = fit(fitted)(scored)
    return scores


def parts(rows: Predictions, seed: int) -> list[tuple[Mask, Mask]]:
    """(fitted, scored), bool (n,) each: a third and all others, then the third's folds.

    Raises:
        MeasurementError: a third has too few clusters.
    """
    _, third = folds(rows, seed, _PARTS)[0]
    places, found = np.flatnonzero(third), [(third, ~third)]
    for masks in folds(rows.take(third), seed):
        inside, outside = np.zeros_like(third), np.zeros_like(third)
        for whole, mask in zip((inside, outside), masks, strict=True):
            whole[places[mask]] = True
        found.append((inside, outside))
    return found
