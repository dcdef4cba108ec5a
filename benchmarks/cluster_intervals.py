"""How often the intervals of a benchmark are right where documents of one template are alike.

    python benchmarks/cluster_intervals.py [--suite stereoset] [--trials 200]
    python benchmarks/cluster_intervals.py [--templates 60] [--rows 24] [--groups 4]

Simulated answers to questions like BBQ's: every template has its own chance of "unknown" and of the
stereotyped answer (normal effects on the logit, standard deviation --spread), shared by its rows; a
second model has the first one's effects and others of its own. Likewise of terms (StereoSet), pairs
of occupations (WinoBias) and decisions (discrim-eval), as many and as large as in the report rows
of the tasks (`cluster_worlds.py`). Printed for every score: how often its interval holds the
truth, how wide it is, the same of the interval that rows would have as independent ones; then the
same of paired differences, and how often models without a difference are called different. The
truth is that of 20,000 clusters (6,000 decisions). Last, of BBQ, pairs that hardly differ: the
second model flips some of the first one's answers, in few templates or in many.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from itertools import product

import numpy as np
from cluster_worlds import BbqWorld, DiscrimEvalWorld, StereoSetWorld, WinoBiasWorld, World

from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark import Benchmark, BenchmarkRows, mean_of
from mergekit_fair.fairness.benchmark_pairs import compare_benchmark
from mergekit_fair.fairness.benchmark_scores import measure_benchmark
from mergekit_fair.fairness.groups import Groups

SUITES: dict[str, Callable[[float, bool], World]] = {
    "stereoset": StereoSetWorld,
    "winobias": WinoBiasWorld,
    "discrim_eval": DiscrimEvalWorld,
}
HEAD = ("score", "truth", "holds", "width", "by rows", "width")
HEAD_OF_PAIRS = ("b − a", "holds", "width", "p ≤ .05")


def truth(world: World) -> list[dict[str, float]]:
    """The scores of both models over a great many clusters."""
    rng = np.random.default_rng(12345)
    settings = MetricSettings(min_group_size=30, draws=2, exclude=world.excluded)
    found = []
    for rows in world.models(rng, many=True):
        metrics = measure_benchmark(rows, settings).metrics
        found.append({name: float(metrics[name].value or 0.0) for name in world.shown})
    return found


def run(world: World, trials: int, draws: int) -> None:
    true = truth(world)
    held: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    claims: dict[str, int] = defaultdict(int)
    settings = MetricSettings(min_group_size=30, draws=draws, exclude=world.excluded)
    for trial in range(trials):
        first, second = world.models(np.random.default_rng([7, trial]))
        measured, pair = (
            measure_benchmark(first, settings),
            compare_benchmark(first, second, settings),
        )
        for name in world.shown:
            one = measured.metrics[name]
            held[name].append((_holds(one, true[0][name]), _width(one)))
            if (by_row := measured.if_rows_were_independent.get(name)) is not None:
                held[f"{name} by rows"].append((_holds(by_row, true[0][name]), _width(by_row)))
            gap, other = pair.metrics[name], true[1][name] - true[0][name]
            held[f"{name} paired"].append((_holds(gap, other), _width(gap)))
            claims[name] += gap.p_value is not None and gap.p_value <= 0.05
    print(f"| {' | '.join((*HEAD, *HEAD_OF_PAIRS))} |")
    print(f"|---{'|--:' * (len(HEAD) + len(HEAD_OF_PAIRS) - 1)}|")
    for name in world.shown:
        of_rows = held.get(f"{name} by rows")
        cells = [name, f"{true[0][name]:.3f}".replace("-", "−"), *_shares(held[name])]
        cells += _shares(of_rows) if of_rows else ["", ""]
        difference = f"{true[1][name] - true[0][name]:+.3f}".replace("-", "−")
        cells += [difference, *_shares(held[f"{name} paired"]), f"{claims[name] / trials:.1%}"]
        print(f"| {' | '.join(cells)} |".replace("%", " %"), flush=True)


def run_flips(trials: int) -> None:
    """Two models that differ in few answers: how often the difference in accuracy is covered."""
    acc = Benchmark("acc", (mean_of("acc", "accuracy", better="higher"),))
    settings = MetricSettings(draws=2)
    print("\nflipped answers: templates, rows, share, in, direction: holds, width")
    for templates, rows in ((13, 46), (60, 24), (200, 30)):
        of_row = np.repeat(np.arange(templates), rows)
        alike = (Groups.of(["all"] * len(of_row), len(of_row)), of_row, np.ones(len(of_row)))
        for share, where, one_way in product((0.02, 0.1), (0.3, 5.0), (False, True)):
            found = []
            for trial in range(trials):
                rng = np.random.default_rng([11, trial])
                first = rng.random(len(of_row)) < rng.beta(1, 1, templates)[of_row]
                chance = rng.beta(share * where, (1 - share) * where, templates)
                up = np.ones(templates, bool) if one_way else rng.random(templates) < 0.5
                second = np.where(rng.random(len(of_row)) < chance[of_row], up[of_row], first)
                a, b = (
                    BenchmarkRows(acc, tuple(range(len(v))), v[:, np.newaxis].astype(float), *alike)
                    for v in (first, second)
                )
                gap = compare_benchmark(a, b, settings).metrics["acc"]
                found.append((_holds(gap, share / 2 if one_way else 0.0), _width(gap)))
            few, way = "few" if where < 1 else "many", "one way" if one_way else "to and fro"
            said = f"{templates:>4}{rows:>4}{share:>6}  {few:<5}{way:<11}"
            print(f"{said}{''.join(f'{each:>8}' for each in _shares(found))}", flush=True)


def _holds(interval: object, value: float) -> bool:
    low, high = getattr(interval, "low", None), getattr(interval, "high", None)
    return low is not None and high is not None and low <= value <= high


def _width(interval: object) -> float:
    low, high = getattr(interval, "low", None), getattr(interval, "high", None)
    return float("nan") if low is None or high is None else high - low


def _shares(found: list[tuple[bool, float]]) -> list[str]:
    share = np.mean([inside for inside, _ in found])
    return [f"{share:.1%}", f"{np.nanmean([each for _, each in found]):.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--suite", choices=("bbq", *SUITES), default="bbq")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--templates", type=int, default=60, help="Of bbq; so --rows, --groups.")
    parser.add_argument("--rows", type=int, default=24, help="Of a template.")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--spread", type=float, default=0.8)
    parser.add_argument("--draws", type=int, default=500)
    given = parser.parse_args()
    print(f"{given.suite}, {given.trials} trials")
    for is_apart, title in enumerate(("alike", "apart")):
        print(f"\nGroups and models {title}:\n")
        if given.suite == "bbq":
            size = (given.templates, given.rows, given.groups)
            world: World = BbqWorld(given.spread, bool(is_apart), *size)
        else:
            world = SUITES[given.suite](given.spread, bool(is_apart))
        run(world, given.trials, given.draws)
    if given.suite == "bbq":
        run_flips(given.trials)


if __name__ == "__main__":
    main()
