"""One offset a group on a model's scores, where rows may be in several groups.

Of all decisions that know scores and groups, the most accurate one within limits on the groups'
rates compares the score with a threshold that is a sum over the row's groups (Hardt et al.,
arXiv 1610.02413; for groups that overlap, the Lagrangian of Chen et al., arXiv 2310.05725).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.evaluation.soft_objective import SoftObjective, deciding_groups
from mergekit_fair.fairness import MetricSettings

# Shares of the fitted offsets that are tried on hard predictions.
SHARES = (1.0, 0.75, 0.5, 0.25)


@dataclass(frozen=True)
class GroupOffsets:
    """1 is predicted where s + Σ_g a_g > 0, the sum over the groups of a row.

    Rows in no group with an offset keep the model's own threshold.

    Attributes:
        offsets: group → a_g, in the units of the scores.

    >>> rows = Predictions(
    ...     "toxic", (0, 1, 2, 3), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]),
    ...     {"a": np.array([True, True, False, False]), "b": np.array([False, True, True, False])},
    ...     (), np.array([-0.75, -0.75, 0.25, 0.25]),
    ... )
    >>> GroupOffsets({"a": 0.5, "b": 0.5}).scores(rows)
    array([-0.25,  0.25,  0.75,  0.25])
    """

    offsets: Mapping[str, float]

    @property
    def groups(self) -> tuple[str, ...]:
        """Those that have an offset."""
        return tuple(self.offsets)

    def scores(self, predictions: Predictions) -> Scores:
        """The moved scores (n,); NaN stays NaN."""
        moved = np.array(predictions.scores, dtype=np.float64)
        for name, offset in self.offsets.items():
            if name in predictions.groups:
                moved += offset * predictions.groups[name]
        return moved

    def times(self, share: float) -> GroupOffsets:
        """The same direction, less far."""
        return GroupOffsets({name: share * offset for name, offset in self.offsets.items()})


def fit_offsets(gap: str, rows: Predictions, settings: MetricSettings) -> GroupOffsets:
    """The minimum of `SoftObjective` over one direction a group: the rows that are in it.

    Args:
        gap: `dpd` or `eod`.
        rows: with logit gaps.
        settings: who decides, and so gets an offset: groups of which each rate, or one of them,
            is a share of at least `min_group_size` rows.

    Raises:
        MeasurementError: there are no scores, or fewer than two such groups.
    """
    fitted = deciding_groups(gap, rows, settings)
    members = [rows.groups[name] for name in fitted]
    steps = SoftObjective.of(gap, rows, settings, members).minimum()
    return GroupOffsets(dict(zip(fitted, map(float, steps), strict=True)))
