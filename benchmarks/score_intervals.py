"""How often the intervals of AUC and calibration contain the truth, by simulation.

Scores of group g are normal: N(c_g, 1) for negative rows, N(c_g + d_g, 1) for positive ones; so all
AUCs are known. 8 groups, the smallest with 2 % of the rows; weights, where there are any, are
log-normal and independent of all else.

Example:
    python benchmarks/score_intervals.py --trials 400
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from interval_coverage import Tally
from interval_truths import NAMES, SHARES
from numpy.typing import NDArray

from mergekit_fair.fairness import score_quality
from mergekit_fair.fairness.intervals import Interval

SIZES = (600, 2_000, 10_000)
SIGMA = 0.7  # of the logarithm of the weights
KINDS = ("auc", "bpsn_auc", "bnsp_auc", "calibration")
# Separation d of every group, shift c of every group.
PLACES = {
    "alike, AUC .7": (np.full(8, 0.7416), np.zeros(8)),
    "alike, AUC .98": (np.full(8, 2.904), np.zeros(8)),
    "smallest worse": (np.array([0.5] + [1.5] * 7), np.zeros(8)),
    "smallest shifted": (np.full(8, 1.5), np.array([0.8] + [0.0] * 7)),
    "evenly spread": (np.linspace(0.7, 2.3, 8), np.linspace(0, 1, 8)),
    "half shifted": (np.full(8, 1.5), np.array([0.0] * 4 + [0.7] * 4)),
}
Rows = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Scored:
    """A population: separations, shifts, and P(y = 1)."""

    separation: NDArray[np.float64]
    shift: NDArray[np.float64]
    base: float

    def sample(self, n: int, rng: np.random.Generator) -> Rows:
        """y, scores, probabilities and groups of n rows."""
        group = rng.choice(len(SHARES), n, p=SHARES)
        y = (rng.random(n) < self.base).astype(int)
        scores = rng.normal(size=n) + self.shift[group] + y * self.separation[group]
        return y, scores, self.chances(scores), group

    def chances(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(y = 1 | score) in the last group, were it not shifted: a model that knows one group."""
        d = self.separation[-1]
        odds = np.log(self.base / (1 - self.base)) + d * scores - d * d / 2
        return np.asarray(1 / (1 + np.exp(-odds)))

    def truths(self) -> dict[str, NDArray[np.float64]]:
        """Of every group, by kind."""
        wins = np.array([self._wins(self.separation + self.shift - c) for c in self.shift])
        losses = np.array(
            [
                self._wins(d + c - self.shift)
                for d, c in zip(self.separation, self.shift, strict=True)
            ]
        )
        outside = SHARES * (1 - np.eye(8))
        outside /= outside.sum(axis=1, keepdims=True)
        return {
            "auc": np.diag(wins),
            "bpsn_auc": (outside * wins).sum(axis=1),
            "bnsp_auc": (outside * losses).sum(axis=1),
            "calibration": np.array([self._mean_chance(g) - self.base for g in range(8)]),
        }

    @staticmethod
    def _wins(differences: NDArray[np.float64]) -> list[float]:
        return [NormalDist().cdf(x / 2**0.5) for x in differences]

    def _mean_chance(self, g: int) -> float:
        grid = np.linspace(-9, 9, 20_001)
        density = np.exp(-(grid**2) / 2)
        density /= density.sum()
        means = [
            float(density @ self.chances(grid + self.shift[g] + y * self.separation[g]))
            for y in (0, 1)
        ]
        return (1 - self.base) * means[0] + self.base * means[1]


def simulate(
    truth: Scored, n: int, trials: int, *, weighted: bool, seed: list[int]
) -> dict[tuple[str, str], Tally]:
    """(kind, smallest | large | gap) → what became of the intervals of `trials` samples."""
    rng = np.random.default_rng(seed)
    tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
    truths = truth.truths()
    for trial in range(trials):
        y, scores, chances, group = truth.sample(n, rng)
        found = score_quality(
            y,
            scores,
            [NAMES[g] for g in group],
            probabilities=chances,
            weights=rng.lognormal(0, SIGMA, n) if weighted else None,
            draws=400,
            seed=trial,
        )
        for kind, values in truths.items():
            for where, number in (("smallest", 0), ("large", 4)):
                if NAMES[number] in found.groups:
                    interval = getattr(found.groups[NAMES[number]], kind)
                    tallies[kind, where].add(_ends(interval), values[number])
            gap = getattr(found, f"{kind}_gap")
            tallies[kind, "gap"].add(_ends(gap), float(np.ptp(values)))
    return tallies


def _ends(interval: Interval) -> tuple[float, float] | None:
    if interval.low is None or interval.high is None:
        return None
    return interval.low, interval.high


def main() -> None:
    """Print a table: lowest and mean coverage over populations, mean width."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| | n | weights | smallest group | large group | gap |\n|---|---|---|---|---|---|")
    for n in SIZES:
        for weighted in (False, True):
            cells = [
                simulate(
                    Scored(*PLACES[place], base),
                    n,
                    given.trials,
                    weighted=weighted,
                    seed=[given.seed, n, weighted, number],
                )
                for number, (place, base) in enumerate(
                    (place, base) for place in PLACES for base in (0.4, 0.1)
                )
            ]
            for kind in KINDS:
                shown = [
                    _summary([cell[kind, where] for cell in cells])
                    for where in ("smallest", "large", "gap")
                ]
                has = "yes" if weighted else "no"
                print(f"| {kind} | {n:,} | {has} | {' | '.join(shown)} |", flush=True)


def _summary(tallies: list[Tally]) -> str:
    coverages = [100 * tally.coverage for tally in tallies]
    width = float(np.mean([tally.mean_width for tally in tallies]))
    return f"{min(coverages):.1f} / {np.mean(coverages):.1f} ({width:.2f})"


if __name__ == "__main__":
    main()
