"""How much vectors disturb each other's groups: the disentanglement error ξ of a sweep's points.

    ξ(λ) = Σ_g P_{x in g}(ŷ(x; θ₀ + λ_g Δ_g) ≠ ŷ(x; θ₀ + Σ_h λ_h Δ_h))

over the groups with λ_g ≠ 0. It is 0 where no vector changes what another one predicts of its own
group, and at most the number of groups.

Source: "Task Arithmetic in the Tangent Space", arXiv 2305.12827, eq. 6, with subgroups for tasks
and whether predictions differ for the distance, as there for classification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mergekit_fair.sweep.measured_points import MeasuredPoint, row_weights, share_of

_SAME = 1e-9


@dataclass(frozen=True)
class DisentanglementError:
    """ξ of one point.

    Attributes:
        label: of the point.
        error: ξ.
        groups: group with λ_g ≠ 0 → its term, in [0, 1].
    """

    label: str
    error: float
    groups: dict[str, float]


def disentanglement(
    points: Sequence[MeasuredPoint], names: Sequence[str]
) -> tuple[DisentanglementError, ...]:
    """ξ of every point of two or more vectors, each of which was also measured alone at its λ_g.

    Args:
        points: of one sweep.
        names: of the vectors; those that name no group of the rows have no ξ.
    """
    alone = {
        (int(active[0]), each.lambdas[active[0]]): each
        for each in points
        if len(active := np.flatnonzero(each.lambdas)) == 1
    }
    found = []
    for each in points:
        active = np.flatnonzero(each.lambdas).tolist()
        singles = {
            names[vector]: single
            for vector in active
            for (other, value), single in alone.items()
            if other == vector and abs(value - each.lambdas[vector]) <= _SAME
        }
        if (
            len(active) < 2
            or len(singles) < len(active)
            or not singles.keys() <= each.rows.groups.keys()
        ):
            continue
        terms = {name: _disturbed(each, single, name) for name, single in singles.items()}
        error = float(sum(terms.values()))
        found.append(DisentanglementError(each.point.label, error, terms))
    return tuple(found)


def _disturbed(each: MeasuredPoint, single: MeasuredPoint, group: str) -> float:
    """The share of a group's rows that its own vector alone answers otherwise."""
    is_other = each.rows.predicted != single.rows.predicted
    return share_of(is_other, each.rows.groups[group], row_weights(each.rows))
