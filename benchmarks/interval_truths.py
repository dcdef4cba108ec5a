"""Populations with a known DPD and EOD, and samples of them as count tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness import Groups
from mergekit_fair.fairness.rates import largest, max_min_gap, smallest

Rates = NDArray[np.float64]

NAMES = tuple(f"g{index}" for index in range(8))
SHARES = np.array([0.02] + [0.14] * 7)  # of the groups; the first is the smallest
PATTERNS = np.eye(len(NAMES), dtype=np.bool_)
GAPS = (0.0, 0.02, 0.1, 0.3)
SIZES = (600, 2_000, 10_000)
LOWEST, HIGHEST = 0.02, 0.98  # no rate lies outside

# Level and base rate → TPR and FPR before the gap: level = base · TPR + (1 − base) · FPR.
MARGINS = {
    (0.4, 0.4): (0.7, 0.2),
    (0.4, 0.15): (0.7, 0.347),
    (0.15, 0.4): (0.3, 0.05),
    (0.15, 0.15): (0.5, 0.088),
}
# Where a group stands between the lowest rate (0) and the highest (1).
PLACES = {
    "linear": np.linspace(0, 1, 8),
    "smallest up": np.array([1.0] + [0.0] * 7),
    "smallest down": np.array([0.0] + [1.0] * 7),
    "one large up": np.array([0.0] * 7 + [1.0]),
    "half up": np.array([0.0] * 4 + [1.0] * 4),
}
# Only the TPR differs, so that EOD rests on it alone; DPD is then another number.
TPR_ONLY = ("smallest up", "smallest down")


@dataclass(frozen=True, eq=False)
class Truth:
    """A population of 8 groups: P(y = 1) is one number, TPR and FPR are given by group."""

    place: str
    level: float
    base: float
    tpr: Rates
    fpr: Rates

    @classmethod
    def of(
        cls, gap: float, place: str, level: float, base: float, *, tpr_only: bool = False
    ) -> Truth:
        """TPR and FPR with a range of `gap`, around the level as far as they stay in [0, 1]."""
        tpr, fpr = MARGINS[level, base]
        return cls(
            f"{place}{', TPR only' if tpr_only else ''}",
            level,
            base,
            _placed(tpr, gap, PLACES[place]),
            _placed(fpr, 0.0 if tpr_only else gap, PLACES[place]),
        )

    @property
    def values(self) -> dict[str, float]:
        """The true dpd, eod, acc and worst_group_acc."""
        selection = self.base * self.tpr + (1 - self.base) * self.fpr
        accuracy = self.base * self.tpr + (1 - self.base) * (1 - self.fpr)
        return {
            "acc": float(SHARES @ accuracy),
            "dpd": float(max_min_gap(selection)),
            "eod": float(largest(max_min_gap(np.stack([self.tpr, self.fpr])))),
            "worst_group_acc": float(smallest(accuracy)),
        }

    @property
    def rates(self) -> Rates:
        """P(ŷ = 1 | g, y): (8, 2)."""
        return np.stack([self.fpr, self.tpr], axis=1)

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Counts of n independent rows: (8, 2, 3)."""
        weights = _weights(self.base)
        chances = np.stack([weights * (1 - self.rates), weights * self.rates], axis=2)
        cells = np.zeros((*weights.shape, 3), dtype=np.int64)
        cells[..., :2] = rng.multinomial(n, chances.reshape(-1)).reshape(chances.shape)
        return cells


def truths(gap: float) -> Iterator[Truth]:
    """Every population whose DPD or EOD is `gap`."""
    for level, base in MARGINS:
        if gap == 0:
            yield Truth.of(gap, "linear", level, base)
            continue
        for place in PLACES:
            yield Truth.of(gap, place, level, base)
        for place in TPR_ONLY:
            yield Truth.of(gap, place, level, base, tpr_only=True)


def many_rows(
    truth: Truth, models: int, shared: float, n: int, rng: np.random.Generator
) -> tuple[NDArray[Any], dict[str, NDArray[Any]], Groups]:
    """Labels, predictions of equally good models and groups of n rows; `shared` as above."""
    group = rng.choice(8, n, p=SHARES)
    labels = (rng.random(n) < truth.base).astype(np.int8)
    common, rates = rng.random(n), truth.rates[group, labels]
    predictions = {}
    for index in range(models):
        own = np.where(rng.random(n) < shared, common, rng.random(n))
        predictions[f"model {index}"] = (own < rates).astype(np.int8)
    return labels, predictions, Groups(NAMES, PATTERNS[group])


def _placed(rate: float, gap: float, place: Rates) -> Rates:
    middle = float(SHARES @ place)
    low = min(max(rate - gap * middle, LOWEST), HIGHEST - gap)
    return low + gap * place


def _weights(base: float) -> Rates:
    """P(g, y): (8, 2)."""
    return np.outer(SHARES, [1 - base, base])
