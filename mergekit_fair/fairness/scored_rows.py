"""Rows with a score, sorted by all that they say: what AUC and calibration are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.calibration import calibration
from mergekit_fair.fairness.clusters import cluster_codes
from mergekit_fair.fairness.counts import distinct_patterns
from mergekit_fair.fairness.eligible_groups import GroupSizes, is_answered
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.fairness.jackknife import Estimate
from mergekit_fair.fairness.labels import same_length
from mergekit_fair.fairness.ranking import RankedRows
from mergekit_fair.fairness.rates import Mask, Values
from mergekit_fair.fairness.scores import score_values
from mergekit_fair.fairness.settings import MetricSettings
from mergekit_fair.fairness.weights import Weighted


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """n rows that have weight, and the m of them that have a score.

    Attributes:
        members: (n, G), by name: the order of columns decides nothing.
        labels: (n,), 0 or 1.
        weights: (n,).
        is_missing: bool (n,), without a score.
        ranked: the m others, in an order of their own.
        probabilities: (m,), or None.
    """

    members: Groups
    labels: NDArray[np.int8]
    weights: Values
    is_missing: Mask
    ranked: RankedRows
    probabilities: Values | None

    def __len__(self) -> int:
        return len(self.ranked.rank)

    @classmethod
    def of(
        cls,
        labels: NDArray[np.int8],
        scores: ArrayLike,
        groups: Groups,
        probabilities: ArrayLike | None,
        weights: ArrayLike | None,
        clusters: Any = None,
    ) -> ScoredRows:
        """Read and check; arguments as of `score_quality`.

        Raises:
            MeasurementError: other lengths, no numbers, no probabilities, or no weights.
        """
        values = score_values(scores)
        same_length(labels, values, "scores")
        chances = _checked_chances(probabilities, np.isfinite(values))
        weighted, codes = Weighted.of(weights, len(labels)), cluster_codes(clusters, len(labels))
        y, values, chances = labels[weighted.rows], values[weighted.rows], chances[weighted.rows]
        members = _by_name(Groups(groups.names, groups.membership[weighted.rows]))
        mine = np.ones(len(y)) if weighted.weights is None else weighted.weights
        known = np.isfinite(values)
        # Sorted by all that a row says, so that the order of rows decides nothing.
        keys = (distinct_patterns(members)[1], mine, chances, y, values)
        order = np.flatnonzero(known)[np.lexsort([key[known] for key in keys])]
        ranked = RankedRows(
            np.cumsum(np.diff(values[order], prepend=values[order][:1]) > 0),
            y[order] == 1,
            mine[order],
            members.membership[order],
            None if codes is None else cluster_codes(codes[weighted.rows][order], len(order)),
        )
        return cls(
            members,
            y,
            mine,
            ~known,
            ranked,
            None if probabilities is None else chances[order],
        )

    def sizes(self, settings: MetricSettings) -> GroupSizes:
        """How many rows the groups have, with and without a score."""
        members = dict(zip(self.members.names, self.members.membership.T, strict=True))
        return GroupSizes.of_rows(self.labels, members, None, settings)

    def is_answered(self, settings: MetricSettings) -> bool:
        """Whether few enough scores are missing in every group that decides and of all rows."""
        eligible = self.sizes(settings).large()
        inside, lost = self.members.membership[:, eligible], self.weights * self.is_missing
        weight = np.append(self.weights @ inside, self.weights.sum())
        return is_answered(np.append(lost @ inside, lost.sum()), weight)

    def calibration(self, group: int | None = None) -> Estimate | None:
        """Of a group, or of all rows."""
        if self.probabilities is None:
            return None
        ranked = self.ranked
        chosen = np.ones(len(self), bool) if group is None else ranked.members[:, group]
        rows = self.probabilities, ranked.positive, ranked.weights, chosen
        return calibration(*rows, ranked.clusters)


def _checked_chances(probabilities: ArrayLike | None, known: Mask) -> Values:
    """Probabilities (n,), in [0, 1] where a score is known; 0 without any."""
    if probabilities is None:
        return np.zeros(len(known))
    chances = score_values(probabilities, "probabilities")
    if chances.shape != known.shape:
        raise MeasurementError(
            "needs one probability per score",
            where="probabilities",
            got=len(chances),
            allowed=len(known),
        )
    wrong = known & ~((chances >= 0) & (chances <= 1))
    if wrong.any():
        raise MeasurementError(
            f"row {int(wrong.argmax())} is no probability",
            where="probabilities",
            got=float(chances[wrong.argmax()]),
            allowed="numbers in [0, 1]",
            fix="leave them out, if the scores are no probabilities",
        )
    return chances


def _by_name(groups: Groups) -> Groups:
    """The same with its columns in the order of their names."""
    order = sorted(range(len(groups.names)), key=lambda column: groups.names[column])
    names = tuple(groups.names[column] for column in order)
    return Groups(names, groups.membership[:, order])
