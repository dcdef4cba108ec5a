"""What searches over λ_g find, on rows that they have not seen: simulated families.

    python benchmarks/search_families.py --seeds 10                           # half an hour
    python benchmarks/search_families.py --seeds 2 --groups 5 --methods surrogate

A family is rows with a group and a label, 1,600 to search on and 16,000 to report on. Vector g
moves the score of a row by λ_g times a signal of the label, a bias against its group that all
vectors share, what g does to its group, a drift and noise; the square of Σ_g λ_g adds more drift,
as sums of aligned vectors do. With the mean of the vectors, Σ_g λ_g = 1, as many rows are selected
as by FFT, with their sum nearly all.

A search reads predictions or soft rates, and adds to the base (λ_g in [0, 1]; `both signs`:
[−0.5, 1]) or to FFT ([−1, 1]). Of its points that are not saturated, those on the front of
(1 − acc, DPD, EOD) on the searched rows, by predictions, are measured on report rows: printed is
their hypervolume below (0.5, 0.5, 0.5) after 8, 16 and 32 evaluations, a mean over seeds and two
drifts, with its ratio to the first line's and the 95 % interval of the ratio over families (paired
bootstrap); and what EOD and accuracy change against FFT on report rows at the point with the least
EOD on the searched rows whose accuracy there is at most a point below FFT's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from mergekit_fair.evaluation.levels import Level
from mergekit_fair.evaluation.soft_objective import SOFTNESS
from mergekit_fair.fairness.rates import RARE
from mergekit_fair.sweep.limits import Limit
from mergekit_fair.sweep.search.level_model import at_level
from mergekit_fair.sweep.search.pareto import front, hypervolume
from mergekit_fair.sweep.search.proposers import Observation, Space
from mergekit_fair.sweep.search.rate_model import GroupLayout
from mergekit_fair.sweep.search.search_stage import PROPOSERS
from mergekit_fair.sweep.selection import Rule

REPORT, BUDGET = 16_000, 32
MARKS = (8, 16, 32)
DRIFTS = (0.1, 0.4)
REFERENCE = (0.5, 0.5, 0.5)
RATES = ("selection_rate", "tpr", "fpr")
# What λ_g are added to, and their range.
PLACES = {"base": (0.0, 1.0), "both signs": (-0.5, 1.0), "fft": (-1.0, 1.0)}
VARIANTS = tuple((soft, place) for place in PLACES for soft in (False, True))
COST = 0.01  # of accuracy, for the least EOD


class Family:
    """What all rows of a family share."""

    def __init__(self, groups: int, seed: int, drift: float) -> None:
        rng = np.random.default_rng(seed)
        self.groups, self.drift = groups, drift
        self.shares = rng.dirichlet(np.full(groups, 8))
        self.base = np.clip(rng.normal(0.5, 0.08, groups), 0.3, 0.7)
        self.bias = rng.normal(0, 0.45, groups)
        self.does = rng.normal(0, 0.3, (groups, groups))
        self.does[np.diag_indices(groups)] = rng.normal(-0.2, 0.4, groups)
        self.slope, self.shift = rng.normal(0, 0.15, groups), rng.normal(0, 0.25, groups)


class Rows:
    """Scores of every λ, and FFT's, on n rows of a family."""

    def __init__(self, family: Family, seed: int, n: int) -> None:
        rng = np.random.default_rng([7, seed])
        self.n, groups = n, family.groups
        self.group = rng.choice(groups, n, p=family.shares)
        self.labels = (rng.random(n) < family.base[self.group]).astype(int)
        signal = (2 * self.labels - 1) + rng.normal(0, 1.0, n)
        self.start = rng.normal(-0.3, 0.5, n)
        vectors = []
        for own in range(groups):
            slope = 1.1 * (1 + 0.2 * (self.group == own) + family.slope[own])
            moved = slope * signal + (family.bias + family.does[own])[self.group]
            vectors.append(moved + family.drift + family.shift[own] + rng.normal(0, 0.5, n))
        self.vectors, self.curve = np.array(vectors), 0.3 + rng.normal(0, 0.1, n)
        self.fft = 1.2 * signal + family.bias[self.group] + rng.normal(0, 0.4, n) + 0.15
        self.masks = [self.group == own for own in range(groups)]

    def scores(self, x: Sequence[float], place: str) -> np.ndarray:
        total, moved = float(np.sum(x)), np.asarray(x) @ self.vectors
        if place == "fft":
            return self.fft + moved + self.curve * ((1 + total) ** 2 - 1)
        return self.start + moved + self.curve * total**2

    def measured(self, scores: np.ndarray, *, soft: bool = False) -> dict[str, Any]:
        """Of predictions or soft rates; the level is always that of predictions."""
        hard = (scores > 0).astype(float)
        chances = expit(scores / (SOFTNESS * scores.std())) if soft else hard

        def block(rows: Any, chances: np.ndarray = chances) -> dict[str, float]:
            y, chance = self.labels[rows], chances[rows]
            shares = (chance.mean(), chance[y == 1].mean(), chance[y == 0].mean())
            right = float(np.where(y == 1, chance, 1 - chance).mean())
            sizes = {"n": len(y), "n_pos": int(y.sum()), "acc": right}
            return {**sizes, **dict(zip(RATES, map(float, shares), strict=True))}

        every = {**block(slice(None)), "selection_rate": float(hard.mean())}
        by_group = {f"g{own}": block(mask) for own, mask in enumerate(self.masks)}
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


def rule_of(fft: dict[str, Any]) -> Rule:
    """Accuracy where both gaps are at most FFT's, at FFT's selection rate."""
    limits = [Limit(name, "<=", fft[name]) for name in ("dpd", "eod")]
    rule = Rule("acc", (*limits, Limit("saturated", "<=", 0.0)))
    return rule.for_search(Level("fft", fft["selection_rate"]))


@dataclass(frozen=True)
class Reader:
    """Measures points as a search sees them."""

    rows: Rows
    place: str
    soft: bool

    @property
    def rule(self) -> Rule:
        return rule_of(self.rows.measured(self.rows.fft, soft=self.soft))

    def __call__(self, x: tuple[float, ...]) -> Observation:
        found = self.rows.measured(self.rows.scores(x, self.place), soft=self.soft)
        values = {name: np.array(found[name]) for name in ("acc", "dpd", "eod", "selection_rate")}
        rule = self.rule
        violation = float("inf") if found["degenerate"] else float(rule.violation(values))
        objectives = tuple(rule.to_minimise(values).tolist())
        return Observation(x, found["groups"], self.rows.n, objectives, violation, found["overall"])


def searched(
    method: str,
    family: Family,
    seed: int,
    *,
    soft: bool,
    place: str,
    n: int,
    coordinates: Callable[[Space, Rows], Space] = lambda space, rows: space,  # noqa: ARG005
) -> dict[str, float]:
    """What one search finds, in a space that may have other coordinates."""
    rows, report = Rows(family, 2 * seed + 1, n), Rows(family, 10**6 + seed, REPORT)
    names = tuple(f"g{own}" for own in range(family.groups))
    low, high = ((end,) * family.groups for end in PLACES[place])
    space = coordinates(Space(names, low, high, size=(1.0,) * family.groups), rows)
    read, predicted = Reader(rows, place, soft), Reader(rows, place, soft=False)
    proposer = PROPOSERS[method](space, read.rule, seed, GroupLayout(names, is_partition=True))
    known = [read((0.0,) * family.groups)] if place == "fft" else []
    history = list(known)
    while len(history) < len(known) + BUDGET:
        history += [read(x) for x in proposer.ask(history, 1)]
    points = [seen.x for seen in history[len(known) :]]
    found = [predicted(x) for x in points]
    usable = np.array([at_level(predicted.rule, s) and np.isfinite(s.violation) for s in found])
    here = np.array([seen.objectives for seen in found])
    there = np.array([gaps_of(report, report.scores(x, place)) for x in points])
    fft, fft_there = gaps_of(rows, rows.fft), gaps_of(report, report.fft)
    results = {"saturated": 1 - usable.mean()}
    for mark in MARKS:
        kept = np.flatnonzero(usable[:mark])
        best = kept[front(here[kept])] if len(kept) else kept
        results[f"after {mark}"] = hypervolume(there[best], REFERENCE)
    kept = np.flatnonzero(usable & (here[:, 0] <= fft[0] + COST))
    least = kept[np.argmin(here[kept, 2])] if len(kept) else None
    change = np.zeros(3) if least is None or here[least, 2] > fft[2] else there[least] - fft_there
    return {**results, "EOD": change[2], "acc": -change[0]}


def gaps_of(rows: Rows, scores: np.ndarray) -> np.ndarray:
    """1 − acc, DPD, EOD of predictions."""
    found = rows.measured(scores)
    return np.array([1 - found["acc"], found["dpd"], found["eod"]])


def ratio(values: np.ndarray, first: np.ndarray) -> str:
    """Of means over families, with its paired interval."""
    picks = np.random.default_rng(0).integers(len(values), size=(4000, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1) / first[picks].mean(axis=1), (0.025, 0.975))
    return f"× {values.mean() / first.mean():.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--groups", type=int, nargs="+", default=[3, 5, 8])
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--methods", nargs="+", default=["surrogate", "optuna", "random"])
    given = parser.parse_args()
    marks = [f"after {mark}" for mark in MARKS]
    heads = ("G", "method", "reads", "adds to", "saturated", *marks, "EOD", "acc")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for groups in given.groups:
        first: dict[str, np.ndarray] | None = None
        for method in given.methods:
            for soft, place in VARIANTS if method != "random" else VARIANTS[::2]:
                runs = [
                    searched(
                        method, Family(groups, s, drift), s, soft=soft, place=place, n=given.rows
                    )
                    for s in range(given.seeds)
                    for drift in DRIFTS
                ]
                table = {key: np.array([run[key] for run in runs]) for key in runs[0]}
                first = first or table
                cells = [
                    f"{table[key].mean():.4f} {ratio(table[key], first[key])}" for key in marks
                ]
                changes = [f"{table[key].mean():+.3f}" for key in ("EOD", "acc")]
                reads = "–" if method == "random" else "soft rates" if soft else "predictions"
                start = [str(groups), method, reads, place, f"{table['saturated'].mean():.0%}"]
                print("| " + " | ".join([*start, *cells, *changes]) + " |", flush=True)


if __name__ == "__main__":
    main()
