"""Racing: points are measured on growing random parts of the rows, and the hopeless ones stopped.

After every part the rest of the rows is predicted and the sweep's rule applied in every draw
(`predictive`, `judgement`). Points may be stopped if, without them, the rule chooses another point
in at most a stated share of the draws. That is not the same as "is never chosen": the best
point decides who is tied with it, so it can matter without being chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import SweepError
from mergekit_fair.fairness.counts import distinct_patterns
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.sweep.race.judgement import DRAWS, Judgement, Terms, judgement
from mergekit_fair.sweep.race.predictive import Course, Rows

# Chosen by benchmarks/race.py: nearly all wrong stops happened on fewer than 200 rows.
RUNGS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SMALLEST_RUNG = 200  # rows
RISK = 0.001  # of 400 draws, none may change


@dataclass(frozen=True)
class Entrant:
    """A point that takes part.

    Attributes:
        id: of the point.
        size: Σ|λ|, as the rule compares it.
    """

    id: str
    size: float


@dataclass(frozen=True, eq=False)
class Standings:
    """What the seen rows say about the end of the race.

    Attributes:
        ids: (P,), of the entrants.
        judgement: the draws.
    """

    ids: tuple[str, ...]
    judgement: Judgement

    def chances(self) -> dict[str, float]:
        """Share of the draws in which the full evaluation chooses a point, in [0, 1]."""
        chosen, _ = self.judgement.decide(np.ones(len(self.ids), dtype=bool))
        return {name: float((chosen == i).mean()) for i, name in enumerate(self.ids)}

    def survivors(self, risk: float = RISK) -> list[str]:
        """Ids of the points that go on, in the order of entry; at least one.

        Points are left out one after the other, always the one whose absence changes the choice
        in the fewest draws, while the choice among the rest differs from the choice among all in
        at most `risk` of the draws. With one id left the race is over.

        Args:
            risk: in [0, 1), share of the draws.
        """
        among = np.ones(len(self.ids), dtype=bool)
        wanted, _ = self.judgement.decide(among)
        while among.sum() > 1:
            chosen, best = self.judgement.decide(among)
            idle = among & ~np.isin(np.arange(len(among)), [*chosen, *best])
            if idle.any() and not idle[among].all():
                among = among & ~idle
                continue
            errors = {i: self._error(among, i, wanted) for i in np.flatnonzero(among).tolist()}
            least = min(errors, key=errors.__getitem__)
            if errors[least] > risk:
                break
            among[least] = False
        return [name for name, goes_on in zip(self.ids, among, strict=True) if goes_on]

    def _error(self, among: NDArray[np.bool_], without: int, wanted: Rows) -> float:
        left = among.copy()
        left[without] = False
        chosen, _ = self.judgement.decide(left)
        return float((chosen != wanted).mean())


def standings(
    course: Course,
    terms: Terms,
    entrants: Sequence[Entrant],
    seen: Rows,
    margins: NDArray[np.floating],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Standings:
    """Ask the seen rows.

    Args:
        course: labels, groups and the baselines' margins of all N rows.
        terms: the rule.
        entrants: P points that are still in the race and add something (λ ≠ 0), in plan order.
        seen: int (m,), numbers of the rows that all of them are measured on.
        margins: (P, m) on these rows; see :func:`judgement`.
        draws: number of predictions of the full split.
        seed: of the draws.

    Raises:
        SweepError: no entrants, or margins of another shape.
    """
    if not entrants:
        raise SweepError("nobody takes part", where="race")
    if margins.shape != (len(entrants), len(seen)):
        raise SweepError(
            "needs one margin for each entrant and seen row",
            where="race",
            got=f"shape {margins.shape}",
            allowed=f"shape ({len(entrants)}, {len(seen)})",
        )
    sizes = np.array([entrant.size for entrant in entrants])
    found = judgement(course, terms, seen, margins, sizes, draws=draws, seed=seed)
    return Standings(tuple(entrant.id for entrant in entrants), found)


def row_blocks(
    labels: NDArray[np.integer],
    groups: Groups,
    seed: int,
    rungs: Sequence[float] = RUNGS,
    smallest: int = SMALLEST_RUNG,
) -> list[Rows]:
    """Cut a random order of the rows into the blocks of the rungs.

    The order is stratified: after any share of it, every combination of label and groups has been
    seen in the same share, up to one row.

    Args:
        labels: int (N,).
        groups: of the same rows.
        seed: of the order.
        rungs: increasing shares of the rows, the last one 1.
        smallest: rungs with fewer rows are left out.

    Returns:
        Disjoint, non-empty arrays of row numbers; together they are all rows.
    """
    rng = np.random.default_rng(seed)
    _, pattern = distinct_patterns(groups)
    cell = pattern * 2 + labels
    place = np.empty(len(labels))
    for value in np.unique(cell):
        mine = np.flatnonzero(cell == value)
        # The k-th of n rows comes at a random place within the k-th n-th of the order.
        place[mine] = (rng.permutation(len(mine)) + rng.random(len(mine))) / len(mine)
    order = np.argsort(place, kind="stable")
    ends = [round(share * len(order)) for share in rungs]
    ends = [end for end in ends[:-1] if end >= smallest] + [len(order)]
    return [block for block in np.split(order, ends[:-1]) if len(block)]
