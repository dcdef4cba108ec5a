"""Is what `mergekit_fair.fairness.power` says true? Samples at the smallest gaps, through the tool.

    python benchmarks/power.py --trials 100              # about 10 minutes
    python benchmarks/power.py --trials 5                # does it run?

For every study the smallest gap and the smallest difference that it can show are predicted; then
samples with just that gap, or that difference, go through `measure` and `compare`. They should be
shown in 80 % of samples. A prediction a tenth too small or too large shows about 70 or 90 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness import MetricSettings, compare, measure
from mergekit_fair.fairness.power import Assumed, Detectable, Shown, Study, detectable

AGREEMENT = 0.9
TESTS = 3
SETTINGS = MetricSettings(min_group_size=30)


@dataclass(frozen=True)
class Case:
    """Rows by group, and the share of positive labels."""

    sizes: tuple[int, ...]
    base_rate: float

    @property
    def name(self) -> str:
        return f"{' + '.join(f'{size:,}' for size in self.sizes)}, {self.base_rate:g} positive"

    @property
    def groups(self) -> NDArray[np.str_]:
        return np.repeat([f"g{number}" for number in range(len(self.sizes))], self.sizes)

    @property
    def labels(self) -> NDArray[np.int8]:
        parts = [np.arange(size) < round(self.base_rate * size) for size in self.sizes]
        return np.concatenate(parts).astype(np.int8)


CASES = (
    Case((700, 1_300), 0.24),
    Case((100, 500, 1_400), 0.4),
    Case((80, 280, 280, 280, 280, 280, 280, 280), 0.4),
    Case((200, 1_400, 1_400, 1_400, 1_400, 1_400, 1_400, 1_400), 0.15),
)


def rates(
    case: Case, found: Detectable, metric: str, one: Shown, gap: float
) -> NDArray[np.float64]:
    """(n,), chance of a positive prediction, the group standing out by the gap."""
    y, is_out = case.labels, case.groups == one.group
    if metric == "dpd":
        return _standing_out(np.full(len(y), found.assumed.selection_rate), is_out, gap)
    chances = np.where(y == 1, found.assumed.tpr, found.assumed.fpr)
    positive = int((y[is_out] == 1).sum()) == one.rows  # of TPR's rows, else of FPR's
    of_rate = y == int(positive)
    chances[of_rate] = _standing_out(chances[of_rate], is_out[of_rate], gap)
    return chances


def _standing_out(
    levels: NDArray[np.float64], is_out: NDArray[np.bool_], gap: float
) -> NDArray[np.float64]:
    low = min(max(levels[0] - gap * is_out.mean(), 0.0), 1 - gap)
    return np.asarray(low + gap * is_out)


def pair(
    a: NDArray[np.float64], b: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Two predictions that are alike on `AGREEMENT` of rows, as far as the rates allow."""
    apart = np.clip(1 - AGREEMENT, np.abs(a - b), np.minimum(a + b, 2 - a - b))
    first_only = (apart + a - b) / 2
    luck = rng.random(len(a))
    one = luck < a  # below first_only: a alone; from a on to a + (b's own): b alone
    other = (luck >= first_only) & (luck < first_only + b)
    return one.astype(np.int8), other.astype(np.int8)


def powers(case: Case, trials: int, draws: int) -> Iterator[tuple[str, Shown, float, float]]:
    """Metric, prediction, and in how many of the samples gap and difference are shown."""
    study = Study.of(case.labels, case.groups, SETTINGS)
    found = detectable(study, Assumed.of(study.base_rate, agreement=AGREEMENT), tests=TESTS)
    for metric in ("dpd", "eod"):
        for one in getattr(found, metric):
            seen = [
                _gap_is_shown(case, found, metric, one, trial, draws) for trial in range(trials)
            ]
            told = [
                _difference_is_shown(case, found, metric, one, trial, draws)
                for trial in range(trials)
            ]
            yield metric, one, float(np.mean(seen)), float(np.mean(told))


def _gap_is_shown(
    case: Case, found: Detectable, metric: str, one: Shown, seed: int, draws: int
) -> bool:
    if one.gap is None:
        return False
    chances = rates(case, found, metric, one, one.gap)
    predicted = (np.random.default_rng(seed).random(len(chances)) < chances).astype(np.int8)
    measured = measure(case.labels, predicted, case.groups, seed=seed, draws=draws)
    return bool(measured.uncertainty[metric].distinguishable_from_0)


def _difference_is_shown(
    case: Case, found: Detectable, metric: str, one: Shown, seed: int, draws: int
) -> bool:
    if one.difference is None:
        return False
    gap = min(2 * one.difference, 1.0)
    a, b = (rates(case, found, metric, one, each) for each in (gap, gap - one.difference))
    first, second = pair(a, b, np.random.default_rng(seed))
    told = compare(case.labels, first, second, case.groups, seed=seed, draws=2 * draws)
    difference = told.metrics[metric]
    is_low = difference.p_value is not None and difference.p_value <= 0.05 / TESTS
    return bool(is_low and difference.high is not None and difference.high < 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1000)
    arguments = parser.parse_args()
    print("| rows by group | seconds | | stands out | gap | shown in % | difference | shown in % |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        start = time.perf_counter()
        detectable(Study.of(case.labels, case.groups, SETTINGS), tests=TESTS)
        seconds = time.perf_counter() - start
        for metric, one, seen, told in powers(case, arguments.trials, arguments.draws):
            sizes = ["none" if x is None else f"{x:.3f}" for x in (one.gap, one.difference)]
            print(
                f"| {case.name} | {seconds:.2f} | {metric.upper()} | {one.group}, {one.rows:,} | "
                f"{sizes[0]} | {100 * seen:.0f} | {sizes[1]} | {100 * told:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
