"""Documents without splits of their own are dealt into a validation and a report split."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from mergekit_fair.data.splits import draw
from mergekit_fair.evaluation.documents import EVALUATED

# In the proportion of the 0.2 and 0.3 of the tasks that also have a train split.
SHARES = (0.4, 0.6)
SEED = 0


def deal(units: Sequence[Hashable], strata: Sequence[Hashable], split: str) -> list[int]:
    """Row numbers of one split, in a random order; the same for the same arguments.

    Args:
        units: of every row; rows of one unit are in one split.
        strata: of every row; a unit is dealt in its first row's stratum, in proportion.
        split: validation or report.
    """
    members: dict[Hashable, list[int]] = {}
    for row, unit in enumerate(units):
        members.setdefault(unit, []).append(row)
    numbers: dict[Hashable, int] = {}
    firsts = [rows[0] for rows in members.values()]
    codes = [numbers.setdefault(strata[row], len(numbers)) for row in firsts]
    parts = draw(np.array(codes, dtype=np.int64), SHARES, np.random.default_rng(SEED))
    wanted = parts == EVALUATED.index(split)
    chosen = [
        row for rows, mine in zip(members.values(), wanted, strict=True) if mine for row in rows
    ]
    order = np.random.default_rng(SEED).permutation(len(chosen))
    return [chosen[index] for index in order.tolist()]
