"""Coverage of paired differences, and how often `compare_many` finds what is not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from interval_coverage import CONFIDENCE, Tally
from interval_truths import Truth, many_rows, paired_rows

from mergekit_fair.fairness import compare, compare_many

METRICS = ("dpd", "eod", "worst_group_acc")
SHARED = 0.8  # chance that predictions of a row come from the same random number
# Gap of the first predictor, of the second.
STEPS = (
    *((0.0, 0.0), (0.02, 0.02), (0.2, 0.2)),
    *((0.0, 0.02), (0.02, 0.0), (0.2, 0.22)),
    *((0.0, 0.1), (0.1, 0.0), (0.1, 0.02), (0.2, 0.3)),
)
# Who is off in the first predictor, and in the second.
MOVES = (("linear", "linear"), ("smallest up", "smallest up"), ("linear", "smallest up"))
MODELS = 11  # a baseline and ten others


@dataclass(frozen=True)
class Pair:
    """Two populations of predictions, and whether their gaps are where coverage is hard."""

    step: tuple[float, float]
    move: tuple[str, str]
    first: Truth
    second: Truth

    @property
    def kind(self) -> str:
        """`near 0`: a gap below 0.05 in one of them; `far` otherwise."""
        return "near 0" if min(self.step) < 0.05 else "far"

    @property
    def difference(self) -> float:
        return self.step[1] - self.step[0]


def pairs() -> Iterator[Pair]:
    """Every pair at a level of 0.4 and of 0.15; the base rate is 0.4."""
    for step in STEPS:
        moves = MOVES[:1] if step == (0, 0) else MOVES
        for move in moves:
            for level in (0.4, 0.15):
                first, second = (
                    Truth.of(gap, place, level, 0.4) for gap, place in zip(step, move, strict=True)
                )
                yield Pair(step, move, first, second)


@dataclass
class PairCell:
    """All trials of one pair and one n; `significant` counts p-values of at most 5 %."""

    pair: Pair
    n: int
    trials: int
    tallies: dict[str, Tally]
    significant: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return {
            "gaps": self.pair.step,
            "places": self.pair.move,
            "level": self.pair.first.level,
            "n": self.n,
            "trials": self.trials,
            "intervals": {metric: tally.to_dict() for metric, tally in self.tallies.items()},
            "significant": self.significant,
        }


def simulate_pair(pair: Pair, n: int, trials: int, draws: int, seed: Iterable[int]) -> PairCell:
    """Compare `trials` samples of n rows."""
    rng = np.random.default_rng(list(seed))
    first, second = pair.first.values, pair.second.values
    cell = PairCell(
        pair, n, trials, {metric: Tally() for metric in METRICS}, dict.fromkeys(METRICS, 0)
    )
    for trial in range(trials):
        rows = paired_rows(pair.first, pair.second, SHARED, n, rng)
        found = compare(*rows, confidence=CONFIDENCE, draws=draws, seed=trial)
        for metric, tally in cell.tallies.items():
            interval, p_value = found.metrics[metric], found.p_values[metric]
            ends = None
            if interval.low is not None and interval.high is not None:
                ends = interval.low, interval.high
            tally.add(ends, second[metric] - first[metric])
            cell.significant[metric] += p_value is not None and p_value <= 1 - CONFIDENCE
    return cell


@dataclass
class ManyCell:
    """Runs of `compare_many` in which all models are equally good.

    Attributes:
        any_found: runs with a significant accuracy, DPD or EOD after Holm's correction.
        uncorrected: runs with a p-value of at most 5 %.
    """

    gap: float
    n: int
    trials: int
    any_found: int = 0
    uncorrected: int = 0

    def to_dict(self) -> dict[str, Any]:
        return self.__dict__


def simulate_many(gap: float, n: int, trials: int, seed: Iterable[int]) -> ManyCell:
    """Compare ten models with an eleventh, all of one truth, with as many draws as by default."""
    rng = np.random.default_rng(list(seed))
    truth = Truth.of(gap, "linear", 0.4, 0.4)
    cell = ManyCell(gap, n, trials)
    for trial in range(trials):
        labels, predictions, groups = many_rows(truth, MODELS, SHARED, n, rng)
        found = compare_many(labels, predictions, groups, baseline="model 0", seed=trial)
        cell.any_found += any(found.significant(*key) for key in found.adjusted)
        cell.uncorrected += any(
            found.differences[name].p_values[metric] <= 1 - CONFIDENCE
            for name, metric in found.adjusted
        )
    return cell
