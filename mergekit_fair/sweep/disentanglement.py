"""How much vectors disturb each other's groups: the disentanglement error ξ of a sweep's points.

    ξ(λ) = Σ_g P_{x in g}(ŷ(x; θ₀ + λ_g Δ_g) ≠ ŷ(x; θ₀ + Σ_h λ_h Δ_h))

over the groups with λ_g ≠ 0. It is 0 where no vector changes what another one predicts of its own
group, and at most the number of groups.

Source: "Task Arithmetic in the Tangent Space", arXiv 2305.12827, with subgroups for tasks
and whether predictions differ for the distance, as there for classification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mergekit_fair.sweep.measured_points import AnsweredPoint, row_weights, share_of

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
    points: Sequence[AnsweredPoint], names: Sequence[str]
) -> tuple[DisentanglementError, ...]:
    """ξ of every point of two or more vectors, each of which was also measured alone at its λ_g.

    Args:
        points: of one sweep.
        names: of the vectors; those that name no group of the rows have no ξ.
    """
    of_points = [(each, np.flatnonzero(each.lambdas).tolist()) for each in points]
    alone = [(each, active[0]) for each, active in of_points if len(active) == 1]
    found = []
    for each, active in of_points:
        singles = {
            names[vector]: single
            for single, vector in alone
            if vector in active and abs(single.lambdas[vector] - each.lambdas[vector]) <= _SAME
        }
        if len(active) < 2 or len(singles) < len(active):
            continue
        if not singles.keys() <= each.rows.groups.keys():
            continue
        terms = {name: _disturbed(each, single, name) for name, single in singles.items()}
        found.append(DisentanglementError(each.point.label, float(sum(terms.values())), terms))
    return tuple(found)


def _disturbed(each: AnsweredPoint, single: AnsweredPoint, group: str) -> float:
    """The share of a group's rows that its own vector alone answers otherwise."""
    is_other = each.rows.predicted != single.rows.predicted
    return share_of(is_other, each.rows.groups[group], row_weights(each.rows))
