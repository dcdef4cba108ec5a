"""Simultaneous Wilson bands: all group rates at once, and what they leave open for a gap.

Each of the m rates gets a Wilson interval at confidence c^(1/m) (Šidák 1967; conservative for
correlated rates, such as those of overlapping groups). With probability c all of them hold, so
whatever follows from all of them holds too:

    max(0, max_g L_g − min_g U_g) ≤ max_g r_g − min_g r_g ≤ max_g U_g − min_g L_g
    min_g L_g / max_g U_g ≤ min_g r_g / max_g r_g ≤ min(1, min_g U_g / max_g L_g)

No bootstrap, hence no collapse when a group's few rows all agree; wide, because it asks for
every rate and uses no tie between them. Reference ``between_groups`` only.
"""

from __future__ import annotations

from collections.abc import Sequence

from mergekit_fair.fairness.counts import Counts
from mergekit_fair.fairness.gaps import Rate
from mergekit_fair.fairness.intervals import Ends, wilson
from mergekit_fair.fairness.metrics import Mask, false_positive_rate, selection_rate

Limits = list[tuple[float, float]]


def rate_limits(
    rates: Sequence[Rate], groups: Counts, usable: Mask, confidence: float
) -> list[Limits]:
    """Simultaneous limits of every defined rate of every usable group: one list per rate.

    A rate that fewer than two usable groups have is left out, as in the gaps.

    Args:
        rates: selection rate, TPR, FPR.
        groups: counts (G, 2, 3).
        usable: bool (G,).
        confidence: that all limits hold at once.
    """
    counted = [_successes(rate, groups[usable]) for rate in rates]
    counted = [pairs for pairs in counted if len(pairs) >= 2]
    m = sum(len(pairs) for pairs in counted)
    return [[wilson(k, n, confidence ** (1 / m)) for k, n in pairs] for pairs in counted]


def gap_band(limits: list[Limits]) -> Ends | None:
    """Limits of the largest range over the rates, in [0, 1]; None if nothing can be compared."""
    if not limits:
        return None
    low = max(max(low for low, _ in pairs) - min(high for _, high in pairs) for pairs in limits)
    high = max(max(high for _, high in pairs) - min(low for low, _ in pairs) for pairs in limits)
    return max(low, 0.0), high


def ratio_band(limits: list[Limits]) -> Ends | None:
    """Limits of the smallest ratio over the rates, in [0, 1]; None if nothing can be compared."""
    if not limits:
        return None
    lows = [min(low for low, _ in pairs) / max(high for _, high in pairs) for pairs in limits]
    highs = [_highest_ratio(pairs) for pairs in limits]
    return min(lows), min(highs)


def _highest_ratio(pairs: Limits) -> float:
    largest = max(low for low, _ in pairs)
    return min(1.0, min(high for _, high in pairs) / largest) if largest > 0 else 1.0


def _successes(rate: Rate, groups: Counts) -> list[tuple[int, int]]:
    """(successes, trials) of a rate in every group that has trials."""
    if rate is selection_rate:
        trials = groups[..., :2].sum(axis=(-2, -1))
        successes = groups[..., 1].sum(axis=-1)
    else:
        label = 0 if rate is false_positive_rate else 1
        trials = groups[..., label, :2].sum(axis=-1)
        successes = groups[..., label, 1]
    pairs = zip(successes.tolist(), trials.tolist(), strict=True)
    return [(k, n) for k, n in pairs if n]
