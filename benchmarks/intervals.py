"""Benchmark of the intervals: how fast they are, and how often they contain the truth.

Example:
    python benchmarks/intervals.py --speed --coverage --json intervals.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import interval_tables as show
from interval_coverage import Cell, simulate
from interval_pairs import (
    PAIR_SIZES,
    ManyCell,
    PairCell,
    populations,
    simulate_many,
    simulate_pair,
)
from interval_speed import same_distribution, time_bootstrap, time_fairlearn, time_whole
from interval_truths import GAPS, SIZES, truths
from threadpoolctl import threadpool_limits

from mergekit_fair.fairness.settings import REFERENCES


def run_speed(quick: bool, seed: int) -> dict[str, Any]:
    """All timings, in one process with one thread."""
    sizes = (100, 10_000) if quick else (100, 10_000, 1_000_000)
    problems = [(n, 8) for n in sizes] + [(sizes[-1], 40)]
    found: dict[str, Any] = {"bootstrap": [time_bootstrap(*each, seed) for each in problems]}
    show.print_bootstrap(found["bootstrap"])
    found["whole"] = [time_whole(n, seed) for n in sizes]
    show.print_whole(found["whole"])
    found["same"] = same_distribution(4_000, seed, 100 if quick else 1_000)
    show.print_same(found["same"])
    repeated = [(10_000, 3, 1)] if quick else [(10_000, 10, 3), (1_000_000, 5, 1)]
    found["fairlearn"] = [time_fairlearn(n, seed, *much) for n, *much in repeated]
    show.print_fairlearn(found["fairlearn"])
    return found


def run_coverage(trials: int, draws: int, seed: int, workers: int) -> dict[str, Any]:
    """Coverage and power of one predictor's intervals."""
    cells = _simulated(_single_jobs(trials, draws, seed), workers, "one predictor")
    lowest = show.lowest_cells(cells)
    # The lowest of many is low by luck too: it is simulated once more, with other samples.
    jobs = [
        partial(simulate, cell.truth, cell.n, trials, draws, (seed, 9, index))
        for index, cell in enumerate(lowest.values())
    ]
    again = dict(zip(lowest, _simulated(jobs, workers, "the lowest again"), strict=True))
    show.print_coverage(cells, again, trials)
    show.print_power(cells)
    return {
        "one": [cell.to_dict() for cell in cells],
        "again": [
            {"metric": metric, "gap": gap, **cell.to_dict()}
            for (metric, gap, _), cell in again.items()
        ],
    }


def run_comparisons(trials: int, draws: int, seed: int, workers: int) -> dict[str, Any]:
    """Coverage of paired differences, and errors of many comparisons."""
    paired = _simulated(_pair_jobs(trials, draws, seed), workers, "pairs")
    show.print_pairs(paired, trials)
    low = show.low_pairs(paired, trials)
    # A low one is low by luck too: once more, with samples that none of the first is.
    places = sorted({place for _, place in low})
    jobs = [
        partial(simulate_pair, c.population, c.reference, c.n, 4 * trials, draws, (seed, 4, place))
        for place, c in ((place, paired[place]) for place in places)
    ]
    again = dict(zip(places, _simulated(jobs, workers, "low ones again"), strict=True))
    show.print_low_pairs([(metric, paired[place], again[place]) for metric, place in low])
    many = _simulated(_many_jobs(trials, seed), workers, "many")
    show.print_many(many)
    return {
        "pairs": [cell.to_dict() for cell in paired],
        "pairs again": [cell.to_dict() for cell in again.values()],
        "many": [cell.to_dict() for cell in many],
    }


def _single_jobs(trials: int, draws: int, seed: int) -> list[Callable[[], Cell]]:
    populations = [truth for gap in GAPS for truth in truths(gap)]
    return [
        partial(simulate, truth, n, trials, draws, (seed, 1, n, index))
        for n in SIZES
        for index, truth in enumerate(populations)
    ]


def _pair_jobs(trials: int, draws: int, seed: int) -> list[Callable[[], PairCell]]:
    return [
        partial(simulate_pair, each, reference, n, trials, draws, (seed, 2, n, index))
        for reference in REFERENCES
        for n in (PAIR_SIZES if reference == REFERENCES[0] else PAIR_SIZES[-1:])
        for index, each in enumerate(populations())
    ]


def _many_jobs(trials: int, seed: int) -> list[Callable[[], ManyCell]]:
    return [
        partial(simulate_many, gap, n, trials, (seed, 3, n, index))
        for n in SIZES[:2]
        for index, gap in enumerate((0.0, 0.1))
    ]


def _call(job: Callable[[], Any]) -> Any:
    with threadpool_limits(1):
        return job()


def _simulated(jobs: Sequence[Callable[[], Any]], workers: int, what: str) -> list[Any]:
    """Results in the order of the jobs; they depend on seeds, not on the number of workers."""
    start = time.perf_counter()
    if workers == 1:
        found = list(_watched(map(_call, jobs), len(jobs), what))
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            found = list(_watched(pool.imap(_call, jobs), len(jobs), what))
    print(f"{what}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return found


def _watched(found: Iterable[Any], count: int, what: str) -> Iterable[Any]:
    for number, result in enumerate(found, 1):
        if number % max(1, count // 10) == 0:
            print(f"{what}: {number} of {count}", file=sys.stderr, flush=True)
        yield result


def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": sys.version.split()[0],
        **{name: version(name) for name in ("numpy", "pandas", "fairlearn", "mergekit-fair")},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--speed", action="store_true", help="timings; the default part")
    parser.add_argument("--coverage", action="store_true", help="simulated coverage, both parts")
    parser.add_argument("--comparisons", action="store_true", help="its second part alone")
    parser.add_argument("--quick", action="store_true", help="small problems, 40 trials")
    parser.add_argument("--trials", type=int, metavar="N", help="per population and n; 400")
    parser.add_argument("--draws", type=int, default=400, metavar="N", help="of each bootstrap")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="of the simulation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="every cell, not only tables")
    arguments = parser.parse_args()
    arguments.trials = arguments.trials or (40 if arguments.quick else 400)
    if min(arguments.trials, arguments.draws, arguments.workers) < 1:
        parser.error("--trials, --draws and --workers begin at 1")
    return arguments


def main() -> None:
    given = _arguments()
    content: dict[str, Any] = {"machine": _machine(), **vars(given), "json": str(given.json)}
    print(", ".join(f"{key} {value}" for key, value in content["machine"].items()), flush=True)
    simulation = given.trials, given.draws, given.seed, given.workers
    parts: dict[str, Callable[[], Any]] = {}
    if given.speed or not (given.coverage or given.comparisons):
        parts["speed"] = partial(_call, partial(run_speed, given.quick, given.seed))
    if given.coverage:
        parts["coverage"] = partial(run_coverage, *simulation)
    if given.coverage or given.comparisons:
        parts["comparisons"] = partial(run_comparisons, *simulation)
    for name, part in parts.items():
        content[name] = part()
        if given.json:  # after every part, so that a later one cannot lose it
            given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
