"""Benchmark of paired intervals of macro and worst gaps over three classes: coverage, false claims.

Two models answer rows of G groups and three classes; what they get right, they have partly in
common. Populations: no gap in either model; the same gap in both; one class's gap lower in the
second; gaps lower in all classes. The truth is that of 2,000,000 rows.

Example:
    python benchmarks/class_intervals.py --trials 100
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.counts import Patterns
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.fairness.multi_pairs import multi_differences
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS, estimate_views
from mergekit_fair.fairness.settings import MetricSettings
from mergekit_fair.fairness.views import Views

NAMES = ("hate", "offensive", "neither")
TRUTH_ROWS = 2_000_000
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Population:
    """Biases (C,) in logits that the first group has over the others, of the first and the second
    model; shares of the classes; groups."""

    name: str
    first: tuple[float, float, float]
    second: tuple[float, float, float]
    shares: tuple[float, float, float] = (0.3, 0.3, 0.4)
    groups: int = 3


POPULATIONS: Sequence[Population] = (
    Population("no gap in either", (0, 0, 0), (0, 0, 0)),
    Population("the same gap in both", (1, 0, 0), (1, 0, 0)),
    Population("as large, of another class", (1, 0, 0), (0, 1, 0)),
    Population("smaller in one class", (1, 0, 0), (0.5, 0, 0)),
    Population("smaller in all", (1, -1, 0), (0.3, -0.3, 0)),
    Population("gone", (1, 0, 0), (0, 0, 0)),
    Population("no gap, a rare class", (0, 0, 0), (0, 0, 0), (0.05, 0.25, 0.7)),
    Population("smaller, a rare class", (1, 0, 0), (0.5, 0, 0), (0.05, 0.25, 0.7)),
    Population("no gap, eight groups", (0, 0, 0), (0, 0, 0), groups=8),
    Population("smaller, eight groups", (1, 0, 0), (0.5, 0, 0), groups=8),
)


def rows_of(
    population: Population, n: int, rng: np.random.Generator
) -> tuple[Codes, Codes, Codes, Codes]:
    """Groups, classes, and what the two models say, each (n,)."""
    groups = rng.integers(0, population.groups, n)
    labels = rng.choice(3, n, p=population.shares)
    common = 2.0 * np.eye(3)[labels] + rng.gumbel(size=(n, 3))
    said = []
    for bias in (population.first, population.second):
        own = common + 0.5 * rng.normal(size=(n, 3)) + (groups == 0)[:, None] * np.array(bias)
        said.append(own.argmax(axis=1))
    return groups, labels, said[0], said[1]


def truth_of(population: Population, seed: int) -> dict[str, float]:
    """Metric → the second's minus the first's."""
    groups, labels, *said = rows_of(population, TRUTH_ROWS, np.random.default_rng((seed, 99)))
    members = Groups.of(groups.astype(str), len(groups))
    values = [
        estimate_views(Views.of_classes(labels, one, NAMES, members), MetricSettings())
        for one in said
    ]
    return {name: values[1][name] - values[0][name] for name in MULTI_METRICS}


def simulate(population: Population, n: int, trials: int, draws: int, seed: int) -> dict[str, Any]:
    """Metric → share of intervals that cover, of those that leave out 0, and their mean width."""
    truth = truth_of(population, seed)
    found: dict[str, list[tuple[bool, bool, float]]] = {name: [] for name in MULTI_METRICS}
    one_hot = np.eye(3, dtype=np.int8)
    settings = MetricSettings(draws=draws)
    for trial in range(trials):
        rng = np.random.default_rng((seed, n, trial))
        groups, labels, a, b = rows_of(population, n, rng)
        patterns = Patterns.of(Groups.of(groups.astype(str), n).by_name(), n)
        truths, one, two = (one_hot[each][patterns.rows] for each in (labels, a, b))
        gaps = ("dpd", "eod")
        differences = multi_differences(patterns, NAMES, truths, one, two, settings, gaps)
        for name, each in differences.metrics.items():
            if each.low is not None and each.high is not None:
                covers = each.low - 1e-12 <= truth[name] <= each.high + 1e-12
                apart = each.p_value is not None and each.p_value <= 0.05
                found[name].append((covers, apart, each.high - each.low))
    return {
        name: dict(zip(("truth", "n", "covers", "apart", "width"),
                       (truth[name], len(of), *np.mean(of, axis=0).tolist()), strict=True))
        for name, of in found.items() if of
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--sizes", type=int, nargs="+", default=[600, 2000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print("| population | rows | metric | difference | covers | leaves out 0 | width |")
    print("|---|---|---|---|---|---|---|")
    results: dict[str, Any] = {}
    for population in POPULATIONS:
        for n in options.sizes:
            found = simulate(population, n, options.trials, options.draws, options.seed)
            results[f"{population.name}, {n}"] = found
            for name, each in found.items():
                print(
                    f"| {population.name} | {n} | {name} | {each['truth']:+.3f} | "
                    f"{each['covers']:.0%} | {each['apart']:.0%} | {each['width']:.3f} |",
                    flush=True,
                )
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
