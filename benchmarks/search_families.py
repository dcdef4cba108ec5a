"""How searches over λ_g spend their evaluations, on simulated families whose every λ costs nothing.

    python benchmarks/search_families.py --seeds 6                 # 5 minutes
    python benchmarks/search_families.py --seeds 2 --groups 5      # does it run?

A family is 1,600 rows with a group and a label. Vector g moves the score of row i by λ_g times a
signal of the label, a bias against i's group that all vectors share, what g does to i's group, a
drift and noise; the square of Σ_g λ_g adds more drift, as sums of aligned vectors do. With the mean
of the vectors, Σ_g λ_g = 1, as many rows are selected as by FFT, with their sum nearly all.

Printed are the share of saturated points, of the first 2G + 2 and of all, and the hypervolume of
(1 − acc, DPD, EOD) of the others below (0.5, 0.5, 0.5) after 8, 16 and 32 evaluations, each a mean
over seeds and two drifts. `+ grid`: eleven λ for all groups at once were measured before.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from mergekit_fair.evaluation.evaluate import Level
from mergekit_fair.fairness.rates import RARE
from mergekit_fair.sweep.limits import Limit
from mergekit_fair.sweep.search.level_model import at_level
from mergekit_fair.sweep.search.pareto import hypervolume
from mergekit_fair.sweep.search.proposers import Observation, Space
from mergekit_fair.sweep.search.rate_model import GroupLayout
from mergekit_fair.sweep.search.search_stage import PROPOSERS
from mergekit_fair.sweep.selection import Rule

ROWS, BUDGET = 1600, 32
MARKS = (8, 16, 32)
DRIFTS = (0.1, 0.4)
REFERENCE = (0.5, 0.5, 0.5)
RATES = ("selection_rate", "tpr", "fpr")


class Family:
    """Scores of every λ, and FFT's."""

    def __init__(self, groups: int, seed: int, drift: float) -> None:
        rng = np.random.default_rng(seed)
        self.groups = groups
        self.group = rng.choice(groups, ROWS, p=rng.dirichlet(np.full(groups, 8)))
        base = np.clip(rng.normal(0.5, 0.08, groups), 0.3, 0.7)
        self.labels = (rng.random(ROWS) < base[self.group]).astype(int)
        signal = (2 * self.labels - 1) + rng.normal(0, 1.0, ROWS)
        bias = rng.normal(0, 0.45, groups)
        self.start = rng.normal(-0.3, 0.5, ROWS)
        vectors = []
        for own in range(groups):
            does = rng.normal(0, 0.3, groups)
            does[own] = rng.normal(-0.2, 0.4)
            slope = 1.1 * (1 + 0.2 * (self.group == own) + rng.normal(0, 0.15))
            moved = slope * signal + (bias + does)[self.group]
            vectors.append(moved + drift + rng.normal(0, 0.25) + rng.normal(0, 0.5, ROWS))
        self.vectors, self.curve = np.array(vectors), 0.3 + rng.normal(0, 0.1, ROWS)
        fft = 1.2 * signal + bias[self.group] + rng.normal(0, 0.4, ROWS) + 0.15
        self.fft = self.measured(fft)

    def at(self, x: tuple[float, ...]) -> dict[str, Any]:
        total = float(np.sum(x))
        return self.measured(self.start + np.asarray(x) @ self.vectors + self.curve * total**2)

    def measured(self, scores: np.ndarray) -> dict[str, Any]:
        predicted = (scores > 0).astype(int)

        def block(rows: np.ndarray) -> dict[str, float]:
            y, answer = self.labels[rows], predicted[rows]
            shares = (answer.mean(), answer[y == 1].mean(), answer[y == 0].mean())
            sizes = {"n": len(y), "n_pos": int(y.sum()), "acc": float((y == answer).mean())}
            return {**sizes, **dict(zip(RATES, map(float, shares), strict=True))}

        every = block(np.ones(ROWS, dtype=bool))
        by_group = {f"g{k}": block(self.group == k) for k in range(self.groups)}
        gaps = {
            rate: max(b[rate] for b in by_group.values()) - min(b[rate] for b in by_group.values())
            for rate in RATES
        }
        rarer = min(every["selection_rate"], 1 - every["selection_rate"])
        return {
            "overall": every,
            "groups": by_group,
            "acc": every["acc"],
            "selection_rate": every["selection_rate"],
            "dpd": gaps["selection_rate"],
            "eod": max(gaps["tpr"], gaps["fpr"]),
            "degenerate": rarer < RARE * min(self.labels.mean(), 1 - self.labels.mean()),
        }

    def rule(self) -> Rule:
        """Accuracy where both gaps are at most FFT's, at FFT's selection rate."""
        limits = [Limit(name, "<=", self.fft[name]) for name in ("dpd", "eod")]
        rule = Rule("acc", (*limits, Limit("saturated", "<=", 0.0)))
        return rule.for_search(Level("fft", self.fft["selection_rate"]))

    def observed(self, x: tuple[float, ...], rule: Rule) -> Observation:
        found = self.at(x)
        values = {name: np.array(found[name]) for name in ("acc", "dpd", "eod", "selection_rate")}
        violation = float("inf") if found["degenerate"] else float(rule.violation(values))
        objectives = tuple(rule.to_minimise(values).tolist())
        return Observation(x, found["groups"], ROWS, objectives, violation, found["overall"])


def searched(method: str, family: Family, seed: int, *, grid: bool) -> list[float]:
    """Shares of saturated points (start, all), then hypervolumes at `MARKS`."""
    groups, rule = family.groups, family.rule()
    names = tuple(f"g{k}" for k in range(groups))
    space = Space(names, (0.0,) * groups, (1.0,) * groups, size=(1.0,) * groups)
    proposer = PROPOSERS[method](space, rule, seed, GroupLayout(names, is_partition=True))
    diagonal = [family.observed((step / 10,) * groups, rule) for step in range(11)]
    known = [seen for seen in diagonal if grid and at_level(rule, seen)]
    history = list(known)
    while len(history) < len(known) + BUDGET:
        history += [family.observed(x, rule) for x in proposer.ask(history, 1)]
    new = history[len(known) :]
    usable = [at_level(rule, seen) and np.isfinite(seen.violation) for seen in new]
    found = [1 - np.mean(usable[: 2 * groups + 2]), 1 - np.mean(usable)]
    for mark in MARKS:
        points = [
            s.objectives for s, is_usable in zip(new[:mark], usable, strict=False) if is_usable
        ]
        found.append(hypervolume(np.array(points), REFERENCE) if points else 0.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--groups", type=int, nargs="+", default=[3, 5, 8])
    given = parser.parse_args()
    heads = ("G", "method", "saturated: start", "all", *(f"after {mark}" for mark in MARKS))
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for groups in given.groups:
        for method in PROPOSERS:
            for grid in (False, True) if method != "random" else (False,):
                runs = [
                    searched(method, Family(groups, seed, drift), seed, grid=grid)
                    for seed in range(given.seeds)
                    for drift in DRIFTS
                ]
                start, every, *volumes = np.mean(runs, axis=0)
                cells = [f"{start:.0%}", f"{every:.0%}", *(f"{each:.4f}" for each in volumes)]
                name = f"{method}{' + grid' if grid else ''}"
                print("| " + " | ".join([str(groups), name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
