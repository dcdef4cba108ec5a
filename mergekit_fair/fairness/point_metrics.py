"""Every number of one predictor as a function of its counts, without intervals."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.fairness import gaps, metrics
from mergekit_fair.fairness.counts import Counts, CountTable, group_counts, total
from mergekit_fair.fairness.eligible_groups import usable_groups
from mergekit_fair.fairness.metrics import Mask, Values
from mergekit_fair.fairness.settings import MetricSettings

MAX_UNANSWERED = 0.05  # largest share of rows of a group whose prediction may be missing


@dataclass(frozen=True, eq=False)
class Deciding:
    """Which groups decide; it belongs to the data set and stays fixed over bootstrap draws.

    Attributes:
        groups: bool (G,), the groups that may decide worst-group accuracy.
        comparable: bool (G,), those that may decide a gap: the same, or none at all if
            predictions are missing for more than MAX_UNANSWERED of a deciding group or of all
            rows. To leave out only that group would let a model hide whom it treats worst.
    """

    groups: Mask
    comparable: Mask

    @classmethod
    def of(cls, table: CountTable, settings: MetricSettings) -> Deciding:
        """Raises MeasurementError as :func:`usable_groups`."""
        counts = group_counts(table.cells, table.patterns)
        usable = usable_groups(table.groups, counts, settings)
        shares = np.append(metrics.unanswered_rate(counts)[usable], _overall_share(table))
        answered = not (shares > MAX_UNANSWERED).any()
        return cls(usable, usable & answered)


def statistics(
    groups: Counts, overall: Counts, deciding: Deciding, reference: str = "between_groups"
) -> dict[str, Values]:
    """All metrics by name.

    Args:
        groups: counts (..., G, 2, 3).
        overall: counts (..., 2, 3).
        deciding: which groups decide.
        reference: what dpd, eod and equal_opportunity compare with.

    Returns:
        Name → values (...), each in [0, 1]; NaN means undefined.
    """
    usable = deciding.comparable
    return {
        "acc": metrics.accuracy(overall),
        "dpd": gaps.demographic_parity_difference(groups, overall, usable, reference=reference),
        "eod": gaps.equalized_odds_difference(groups, overall, usable, reference=reference),
        "bal_acc": metrics.balanced_accuracy(overall),
        "worst_group_acc": metrics.worst_group_accuracy(groups, deciding.groups),
        "selection_rate": metrics.selection_rate(overall),
        "tpr": metrics.true_positive_rate(overall),
        "fpr": metrics.false_positive_rate(overall),
        "equal_opportunity": gaps.equal_opportunity_difference(
            groups, overall, usable, reference=reference
        ),
        "dp_ratio": gaps.demographic_parity_ratio(groups, usable),
        "eo_ratio": gaps.equalized_odds_ratio(groups, usable),
        "unanswered": metrics.unanswered_rate(overall),
    }


def estimate(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: Any,
    *,
    reference: str = "between_groups",
    min_group_size: int = 1,
    exclude: Collection[str] = (),
) -> dict[str, float]:
    """Point values of every metric, without intervals; arguments as in :func:`measure`.

    Returns:
        acc, dpd, eod, bal_acc, worst_group_acc, selection_rate, tpr, fpr, equal_opportunity,
        dp_ratio, eo_ratio, unanswered: floats in [0, 1], NaN where undefined.

    Raises:
        MeasurementError: input that no metric is defined on, or an unknown setting.
    """
    settings = MetricSettings(reference, min_group_size=min_group_size, exclude=exclude)
    table = CountTable.tally(y_true, y_pred, groups)
    deciding = Deciding.of(table, settings)
    counts, overall = group_counts(table.cells, table.patterns), total(table.cells)
    found = statistics(counts, overall, deciding, settings.reference)
    return {name: float(value) for name, value in found.items()}


def _overall_share(table: CountTable) -> Values:
    return metrics.unanswered_rate(total(table.cells))
