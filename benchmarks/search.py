"""What searches find on a trained family, on rows that they have not seen.

    python benchmarks/search.py sweep.yml -o DIR --budget 24 --seeds 3

`sweep.yml` names recipe, evaluate, baselines and select; its grid, search and the rest are
replaced. Every method and seed is a sweep of its own in DIR and resumes; `one λ` is a grid.

Of the points that are neither degenerate nor saturated, those on the front of (1 − acc, DPD, EOD)
on validation rows are measured on report rows: printed is their hypervolume below (0.5, 0.5, 0.5)
after a quarter, half and all of the budget; 0.125 would be a perfect model.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

# Name → the search block; None: a grid.
METHODS: dict[str, dict[str, Any] | None] = {
    "one λ": None,
    "random": {"method": "random"},
    "optuna": {"method": "optuna"},
    "surrogate": {"method": "surrogate"},
    "surrogate, around fft": {"method": "surrogate", "around": "fft"},
}
REFERENCE = (0.5, 0.5, 0.5)
OBJECTIVES = ("acc", "dpd", "eod")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--budget", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    marks = [max(1, given.budget // 4), given.budget // 2, given.budget]
    heads = ("method", "seeds", *(f"after {mark}" for mark in marks))
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for method in given.methods:
        seeds = given.seeds if METHODS[method] else 1
        runs = [searched(given, method, seed, marks) for seed in range(seeds)]
        means, spreads = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=min(1, seeds - 1))
        cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(means, spreads, strict=True)]
        print("| " + " | ".join([method, str(seeds), *cells]) + " |", flush=True)


def searched(
    given: argparse.Namespace, method: str, seed: int, marks: Sequence[int]
) -> list[float]:
    """Hypervolumes on report rows of one search."""
    from mergekit_fair.progress import Silent
    from mergekit_fair.sweep.point_runner import LocalExecutor, TimeBudget
    from mergekit_fair.sweep.preparation import prepared
    from mergekit_fair.sweep.runner import SweepRun, run_sweep
    from mergekit_fair.sweep.store import Store
    from mergekit_fair.sweep.sweep_config import load_sweep

    folder = given.out / f"{list(METHODS).index(method)}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yml").write_text(yaml.safe_dump(block_of(given, method, seed)))
    sweep, out = load_sweep(folder / "sweep.yml"), folder / "out"
    run_sweep(sweep, out, Silent())
    evaluator, planner = prepared(sweep)
    store = Store(out)
    run = SweepRun.of(
        sweep,
        planner,
        evaluator,
        store,
        Silent(),
        make_executor=lambda: LocalExecutor(sweep, evaluator, planner.models()[0], Silent()),
        budget=TimeBudget(),
    )
    try:
        return volumes(run, marks)
    finally:
        run.runner.close()
        store.close()


def volumes(run: Any, marks: Sequence[int]) -> list[float]:
    """After so many points, of the front on validation rows, on report rows."""
    from mergekit_fair.sweep.search.pareto import front, hypervolume

    points = [p for p in run.candidates().points if p.kind in ("merge", "search")]
    results = run.runner.measure(points)
    here = np.array([objectives(result) for result in results])
    kept, found = [np.flatnonzero(front(here[:mark])) for mark in marks], []
    wanted = [points[index] for index in sorted({int(i) for each in kept for i in each})]
    there = {r.id: objectives(r) for r in run.runner.measure(wanted, "report")}
    for each in kept:
        of_front = np.array([there[points[int(index)].id] for index in each]).reshape(-1, 3)
        found.append(hypervolume(of_front, REFERENCE))
    print(f"{run.sweep.where}: {found[-1]:.5f}", file=sys.stderr)
    return found


def objectives(result: Any) -> tuple[float, ...]:
    """1 − acc, DPD and EOD; NaN of a point that cannot be chosen on the searched rows."""
    evaluation = result.evaluation
    is_usable = evaluation is not None and not evaluation.degenerate and not evaluation.saturated
    values = [] if evaluation is None else [result.value(name) for name in OBJECTIVES]
    known = [float(value) for value in values if value is not None]
    if len(known) < len(OBJECTIVES) or (not is_usable and result.split == "validation"):
        return (float("nan"),) * 3
    return (1 - known[0], *known[1:])


def block_of(given: argparse.Namespace, method: str, seed: int) -> Mapping[str, Any]:
    """The sweep file of one method and seed."""
    raw = yaml.safe_load(given.sweep.read_text())
    kept = {key: raw[key] for key in ("evaluate", "baselines", "select") if key in raw}
    recipe = raw["recipe"]
    if isinstance(recipe, str):
        recipe = yaml.safe_load((given.sweep.parent / recipe).read_text())
    kept |= {"recipe": recipe, "seed": seed}
    search = METHODS[method]
    if search is None:
        kept["grid"] = {"lambda": [round(float(x), 4) for x in np.linspace(0, 1, given.budget)]}
    else:
        kept["search"] = {**search, "budget": given.budget}
    data = kept["evaluate"].get("data")
    if isinstance(data, str):
        kept["evaluate"]["data"] = str((given.sweep.parent / data).absolute())
    return kept


if __name__ == "__main__":
    main()
