"""Two predictors on the same rows: paired differences with intervals.

Both predictions of a row are resampled together: the bootstrap draws over joint cells
(pattern, y, ŷ_a, ŷ_b). What the predictors share cancels, so a difference is known far better
than from two separate intervals.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.fairness import metrics
from mergekit_fair.fairness.counts import (
    Counts,
    distinct_patterns,
    group_counts,
    groups_of,
    total,
)
from mergekit_fair.fairness.gaps import (
    check_reference,
    demographic_parity_difference,
    equalized_odds_difference,
)
from mergekit_fair.fairness.intervals import (
    Interval,
    around,
    check_settings,
    percentile,
    replicates,
)
from mergekit_fair.fairness.labels import binary_labels, same_length
from mergekit_fair.fairness.metrics import Mask, Values
from mergekit_fair.fairness.notes import interval_notes
from mergekit_fair.fairness.usable import usable_groups


@dataclass(frozen=True)
class Comparison:
    """Differences b − a, each in [−1, 1].

    Attributes:
        n: number of rows.
        reference, confidence: as in a :class:`Measurement`.
        metrics: ``acc``, ``dpd``, ``eod``, ``bal_acc``, ``selection_rate``. A negative DPD or EOD
            says that b's gap is smaller.
        warnings: why a difference is undefined or has no interval.
    """

    n: int
    reference: str
    confidence: float
    metrics: dict[str, Interval]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Return ``{metric: {"value", "low", "high"}}``; None means undefined."""
        return {name: interval.to_dict() for name, interval in self.metrics.items()}


def compare(
    y_true: ArrayLike,
    y_pred_a: ArrayLike,
    y_pred_b: ArrayLike,
    groups: Any,
    *,
    reference: str = "between_groups",
    confidence: float = 0.95,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int = 2000,
) -> Comparison:
    """Compare two predictors on the same rows, b minus a.

    Intervals are percentiles of the paired bootstrap: the upward bias of a gap is in both terms
    and largely cancels. Simulated coverage at 95 % (n = 600 and 2000; 2, 5, 8 groups): 91 to
    100 %, basic 79 to 97 %. The exception is one gap near 0 and the other not, with many groups:
    83 % for a DPD falling from 0.1 to 0.02 over 8 groups at n = 2000.

    Args:
        y_true: shape (n,), labels 0 and 1.
        y_pred_a, y_pred_b: shape (n,), predictions 0 and 1 of the same rows in the same order.
        groups, reference, confidence, min_group_size, exclude, seed, draws: as in
            :func:`measure`.

    Returns:
        A :class:`Comparison`; a difference is undefined (None) where either metric is.

    Raises:
        MeasurementError: input that no metric is defined on, or an unknown setting.
    """
    check_reference(reference)
    check_settings(confidence, draws)
    names, patterns, cells = _joint_cells(y_true, y_pred_a, y_pred_b, groups)
    usable = usable_groups(names, group_counts(cells.sum(-1), patterns), min_group_size, exclude)
    estimates = _differences(cells, patterns, usable, reference)
    samples = _differences(replicates(cells, draws, seed), patterns, usable, reference)
    intervals = {
        name: around(float(value), (samples[name],), percentile, confidence, (-1.0, 1.0))
        for name, value in estimates.items()
    }
    undefined = [
        f"the difference in {name} is undefined"
        for name, interval in intervals.items()
        if interval.value is None
    ]
    warnings = (*undefined, *interval_notes(intervals))
    return Comparison(int(cells.sum()), reference, confidence, intervals, warnings)


def _joint_cells(
    y_true: ArrayLike, y_pred_a: ArrayLike, y_pred_b: ArrayLike, groups: Any
) -> tuple[tuple[str, ...], Mask, Counts]:
    """Return names, patterns (P, G) and counts (P, 2, 2, 2) by [pattern, y, ŷ_a, ŷ_b]."""
    truth = binary_labels(y_true, "y_true")
    first = binary_labels(y_pred_a, "y_pred_a")
    second = binary_labels(y_pred_b, "y_pred_b")
    same_length(truth, first, "y_pred_a")
    same_length(truth, second, "y_pred_b")
    members = groups_of(groups, len(truth))
    patterns, of_row = distinct_patterns(members)
    cells = np.zeros((len(patterns), 2, 2, 2), dtype=np.int64)
    np.add.at(cells, (of_row, truth, first, second), 1)
    return members.names, patterns, cells


def _differences(cells: Counts, patterns: Mask, usable: Mask, reference: str) -> dict[str, Values]:
    a = _metrics(cells.sum(axis=-1), patterns, usable, reference)
    b = _metrics(cells.sum(axis=-2), patterns, usable, reference)
    return {name: b[name] - a[name] for name in a}


def _metrics(cells: Counts, patterns: Mask, usable: Mask, reference: str) -> dict[str, Values]:
    groups, overall = group_counts(cells, patterns), total(cells)
    return {
        "acc": metrics.accuracy(overall),
        "dpd": demographic_parity_difference(groups, overall, usable, reference=reference),
        "eod": equalized_odds_difference(groups, overall, usable, reference=reference),
        "bal_acc": metrics.balanced_accuracy(overall),
        "selection_rate": metrics.selection_rate(overall),
    }
