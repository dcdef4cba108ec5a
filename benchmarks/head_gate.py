"""How often a fair head moves: where it should not, and where it should.

    python benchmarks/head_gate.py [--trials 100] [--workers 2]

Of 32 normal features eight decide the label, and a group shifts one of the others by `known`
standard deviations; the target's score takes `unfair` of those shifts as its own. Where it takes
nothing, or no feature tells the groups, a head that moves does so by noise. For every population
and metric: % of trials in which the head moves, with a one-sided confidence of 80 and of 95 %, and
what heads that move at 80 % do to 20,000 other rows. `SURE` holds those that the command takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from mergekit_fair.evaluation.evaluate import counted
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.measure import estimate_table
from mergekit_fair.heads import fitting
from mergekit_fair.heads.fair_head import Gap, HeadSettings, fit_head, moves_of
from mergekit_fair.heads.last_layer import FeatureRows

SETTINGS = MetricSettings()
FEATURES, DECIDING = 32, 8
GATES = (0.8, 0.95)
ROWS = {"train": 2_000, "report": 20_000}


@dataclass(frozen=True)
class Population:
    """Groups of equal size; `n` validation rows."""

    groups: int
    n: int
    known: float
    unfair: float

    def rows(self, count: int, rng: np.random.Generator) -> FeatureRows:
        """Rows with the target's scores."""
        group = rng.integers(0, self.groups, count)
        features = rng.standard_normal((count, FEATURES))
        features[:, -self.groups :] += self.known * np.eye(self.groups)[group]
        score = 0.6 * features[:, :DECIDING].sum(axis=1)
        labels = rng.random(count) < 1 / (1 + np.exp(-score))
        score = score + self.unfair * (features[:, -self.groups] - features[:, -1])
        names = {f"group {k}": group == k for k in range(self.groups)}
        blank = np.zeros(count, dtype=np.int8)
        rows = Predictions("t", tuple(range(count)), labels.astype(np.int8), blank, names, ())
        return FeatureRows(features.astype(np.float32), rows.with_scores(score))


POPULATIONS = [
    Population(groups, n, known, unfair)
    for known, unfair in ((0.0, 0.0), (0.0, 0.3), (2.0, 0.0), (2.0, 0.1), (2.0, 0.3))
    for groups, n in ((2, 600), (3, 1_200), (5, 1_700))
]


@dataclass(frozen=True)
class Trial:
    """Whether the head moves at each gate, and what it does to other rows where it does."""

    moves: tuple[bool, ...]
    target: float
    gap: float = 0.0
    acc: float = 0.0


def trial(population: Population, metric: Gap, seed: int) -> Trial:
    """One draw of all rows."""
    rng = np.random.default_rng(seed)
    sizes = ROWS | {"validation": population.n}
    rows = {split: population.rows(count, rng) for split, count in sizes.items()}
    report, validation = rows["report"], rows["validation"]
    before = estimate_table(counted(report.rows), SETTINGS)
    fitting.SURE = {metric: 0.0}  # whatever is fitted
    head = fit_head(rows, SETTINGS, HeadSettings(metric), has_bias=True)
    if head.mu is None:
        return Trial((False,) * len(GATES), before[metric])
    moves = moves_of(head.directions, validation, SETTINGS)
    parts = fitting.halves(metric, moves, SETTINGS, head.mu, 0)
    passed = []
    for gate in GATES:
        fitting.SURE = {metric: gate}
        passed.append(fitting.soft_gap_change(metric, validation.rows, parts, 0)[1] < 0)
    after = estimate_table(counted(head.moved(report)), SETTINGS)
    changes = (after[name] - before[name] for name in (metric, "acc"))
    return Trial(tuple(passed), before[metric], *changes)


def lines(trials: int, workers: int) -> Iterator[str]:
    titles = ["groups known by", "target takes", "groups", "rows", "metric", "target's gap"]
    titles += [f"moves in % (gate {gate:.0%})" for gate in GATES]
    yield f"| {' | '.join([*titles, 'gap then', 'acc then'])} |"
    yield "|---" * (len(titles) + 2) + "|"
    with ProcessPoolExecutor(workers) as pool:
        for population in POPULATIONS:
            for metric in ("eod", "dpd"):
                seeds = range(trials)
                found = list(pool.map(trial, repeat(population), repeat(metric), seeds))
                moved = [each for each in found if each.moves[0]]
                cells = [f"{population.known:g} sd", f"{population.unfair:g}"]
                cells += [str(population.groups), f"{population.n:,}", metric]
                cells.append(f"{np.mean([each.target for each in found]):.3f}")
                cells += [
                    f"{100 * np.mean([each.moves[at] for each in found]):.0f}"
                    for at in range(len(GATES))
                ]
                cells += [
                    f"{np.mean([getattr(each, key) for each in moved]):+.3f}" if moved else ""
                    for key in ("gap", "acc")
                ]
                yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    for line in lines(given.trials, given.workers):
        print(line, flush=True)


if __name__ == "__main__":
    main()
