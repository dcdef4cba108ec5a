"""How often a race chooses what the full evaluation chooses, and for how many forward passes.

    python benchmarks/race.py [SWEEP.yml:FOLDER ...] [--repeats 100] [--orders] [--synthetic]

SWEEP.yml is a sweep file and FOLDER the folder of its finished sweep, whose stored margins are
raced again; one of its baselines is called fft. Every repeat draws its rows with replacement from
the sweep's (so that repeats differ in what is right) and races over another order of them;
--orders adds races over the rows themselves in other orders. One line for each problem and rule:

    ties       points that the full evaluation cannot tell from the best, mean over repeats
    same       share of races whose choice is that of the full evaluation, with its Wilson interval
    or tied    or another point that satisfies the constraints and is tied with the best
    passes     share of rows × points that were run, the winner measured on all rows included,
               baselines not
    regret     mean loss of the objective over races with another choice; positive: the race's is
               worse
    s/rung     seconds of the slowest question who goes on

and at the end the same by number of ties.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from race_problems import Problem, finished, synthetic

from mergekit_fair.fairness.intervals import wilson
from mergekit_fair.sweep.race.judgement import Judgement, Terms, judgement, objective_draws
from mergekit_fair.sweep.race.standings import RISK, RUNGS, row_blocks, standings
from mergekit_fair.sweep.rule import Select

TIE_DRAWS = 2000
RULES = (
    {"maximize": "acc", "subject_to": {"dpd": "<= fft", "eod": "<= fft"}},
    {"maximize": "bal_acc", "subject_to": {"dpd": "<= fft - 0.03"}},
    {"maximize": "worst_group_acc", "subject_to": {"acc": ">= fft - 0.01"}},
    {"maximize": "acc", "subject_to": {"level_matched.dpd": "<= fft", "saturated": False}},
)


def terms_of(problem: Problem, rule: dict[str, Any]) -> Terms:
    """The rule with the baseline's values on these rows as limits."""
    constraints = Select(**rule).constraints()
    given = problem.baselines["fft"]
    answered = given[np.isfinite(given)]
    level = float((answered > 0).mean())
    limits = []
    for constraint in constraints:
        value = 0.0
        if constraint.baseline:
            ask = Terms(constraint.metric, exclude=problem.exclude, level=level)
            value = float(_complete(problem, ask, given[np.newaxis]).objective[0, 0])
        limits.append((constraint, value + constraint.number))
    return Terms(rule["maximize"], tuple(limits), exclude=problem.exclude, level=level)


def _complete(problem: Problem, terms: Terms, margins: np.ndarray, draws: int = 1) -> Judgement:
    everything = np.arange(len(problem.labels))
    sizes = problem.sizes if len(margins) == len(problem.sizes) else np.zeros(len(margins))
    return judgement(problem.course, terms, everything, margins, sizes, draws=draws)


@dataclass(frozen=True, eq=False)
class Truth:
    """The full evaluation: its judgement, and the points that cannot be told from the best."""

    judgement: Judgement
    chosen: int
    alike: frozenset[int]

    @classmethod
    def of(cls, problem: Problem, terms: Terms) -> Truth:
        found = _complete(problem, terms, problem.margins)
        exact = replace(found, margin=_percentile_margins(problem, terms))
        (chosen,), (best,) = exact.decide(np.ones(len(problem.margins), dtype=bool))
        fitting = found.candidate[0] & (found.violation[0] == 0)
        alike = np.flatnonzero(fitting & (exact.margin[best] > 0)).tolist()
        return cls(exact, int(chosen), frozenset({*alike, int(chosen)}))


def _percentile_margins(problem: Problem, terms: Terms) -> np.ndarray:
    """+inf where the percentile interval of row − column reaches 0 (a tie), else −inf."""
    n = len(problem.labels)
    drawn = objective_draws(
        problem.course, terms, np.arange(n), problem.margins,
        mean=np.ones(n), draws=TIE_DRAWS, seed=0,
    )  # fmt: skip
    tail = 100 * (1 - terms.confidence) / 2
    low = [np.nanpercentile(drawn[:, [top]] - drawn, tail, axis=0) for top in range(drawn.shape[1])]
    return np.where(np.array(low) <= 0, np.inf, -np.inf)


@dataclass(frozen=True)
class Outcome:
    same: bool
    alike: bool
    passes: float
    regret: float
    ties: int
    seconds: float


def race(problem: Problem, terms: Terms, truth: Truth, seed: int, risk: float) -> Outcome:
    """One race over one order of the rows."""
    blocks = row_blocks(problem.labels, problem.groups, seed, RUNGS)
    alive = np.arange(len(problem.entrants))
    seen, run, slowest = np.empty(0, dtype=np.intp), 0, 0.0
    for block in blocks:
        seen = np.concatenate([seen, block])
        run += len(block) * len(alive)
        if len(alive) == 1 or len(seen) == len(problem.labels):
            continue
        started = time.perf_counter()
        entrants = [problem.entrants[i] for i in alive]
        now = standings(
            problem.course, terms, entrants, seen, problem.margins[np.ix_(alive, seen)], seed=seed
        )
        going_on = set(now.survivors(risk))
        slowest = max(slowest, time.perf_counter() - started)
        alive = np.array([i for i in alive if problem.entrants[i].id in going_on])
    (chosen,), _ = truth.judgement.decide(np.isin(np.arange(len(problem.entrants)), alive))
    objective = truth.judgement.objective[0]
    return Outcome(
        chosen == truth.chosen,
        int(chosen) in truth.alike,
        run / problem.margins.size,
        float(objective[truth.chosen] - objective[chosen]) if chosen >= 0 else float("nan"),
        len(truth.alike),
        slowest,
    )


def repeated(
    problem: Problem, rule: dict[str, Any], repeats: int, risk: float, *, resample: bool
) -> list[Outcome]:
    """Races over seeded orders, of seeded resamples of the rows or of the rows themselves."""
    found = []
    truth, terms, mine = None, None, problem
    for seed in range(repeats):
        if resample:
            rng = np.random.default_rng(10_000 + seed)
            mine = problem.rows(rng.integers(len(problem.labels), size=len(problem.labels)))
        if resample or truth is None or terms is None:
            terms = terms_of(mine, rule)
            truth = Truth.of(mine, terms)
        found.append(race(mine, terms, truth, seed, risk))
    return found


HEAD = (
    f"{'problem':16}{'rule':52}{'rows':11}{'races':>6}{'ties':>6}{'same':>7}  {'95 % interval':15}"
    f"{'or tied':>8}{'passes':>8}{'regret':>9}{'s/rung':>8}"
)


def line(problem: str, rule: str, kind: str, outcomes: list[Outcome]) -> str:
    """One line of the table."""
    n = len(outcomes)
    same = sum(outcome.same for outcome in outcomes)
    low, high = wilson(same, n, 0.95)
    wrong = [outcome.regret for outcome in outcomes if not outcome.same]
    regret = f"{np.mean(wrong):+.4f}" if wrong else "-"
    ties, alike, passes = (
        np.mean([getattr(outcome, key) for outcome in outcomes])
        for key in ("ties", "alike", "passes")
    )
    return (
        f"{problem:16}{rule:52}{kind:11}{n:6}{ties:6.1f}{same / n:7.3f}  "
        f"{f'{low:.3f} to {high:.3f}':15}{alike:8.3f}{passes:8.3f}{regret:>9}"
        f"{max(outcome.seconds for outcome in outcomes):8.2f}"
    )


def print_by_ties(outcomes: list[Outcome]) -> None:
    """The last lines: all races, and those with few and with many ties."""
    for low, high in ((1, 99), (1, 1), (2, 3), (4, 7), (8, 99)):
        some = [outcome for outcome in outcomes if low <= outcome.ties <= high]
        name = {1: f"{low}", 99: f"{low} or more"}.get(high, f"{low} to {high}")
        if some:
            print(line("all", f"points tied at the top: {name}", "", some))


def in_words(rule: dict[str, Any]) -> str:
    limits = " and ".join(f"{c}" for c in Select(**rule).constraints())
    return f"{rule['maximize']}, {limits}"


def problems(args: argparse.Namespace) -> Iterator[Problem]:
    for pair in args.sweeps:
        sweep, _, folder = pair.partition(":")
        yield finished(Path(sweep), Path(folder))
    if args.synthetic or not args.sweeps:
        yield synthetic("peak", rows=2000, points=10, groups=4, curve=4.0, seed=0)
        yield synthetic("gentle", rows=2000, points=10, groups=4, curve=1.0, seed=1)
        yield synthetic("plateau", rows=2000, points=20, groups=8, curve=0.0, seed=2)
        yield synthetic("few rows", rows=400, points=10, groups=3, curve=2.0, seed=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP.yml:FOLDER")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--risk", type=float, default=RISK)
    parser.add_argument("--orders", action="store_true", help="also the rows as they are")
    parser.add_argument("--synthetic", action="store_true", help="beside the given sweeps")
    args = parser.parse_args()
    print(HEAD)
    everything = []
    for problem in problems(args):
        for rule in RULES:
            for kind in ("resampled", "orders") if args.orders else ("resampled",):
                outcomes = repeated(
                    problem, rule, args.repeats, args.risk, resample=kind == "resampled"
                )
                print(line(problem.name, in_words(rule), kind, outcomes), flush=True)
                everything += outcomes
    print_by_ties(everything)


if __name__ == "__main__":
    main()
