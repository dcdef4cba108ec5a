"""How large the validation front gets for the forward passes spent: three searches and one λ.

    python benchmarks/search.py sweep.yml -o DIR --budget 40 --seeds 3

`sweep.yml` names recipe, evaluate and select; its grid, search and the rest are replaced. Every
method and seed is a sweep of its own in DIR and resumes; `lambda` is a grid of one λ for all.

The hypervolume is that of the points (1 − acc, DPD, EOD) that are not degenerate, below the
reference (0.5, 0.5, 0.5): 0.125 would be a perfect model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

METHODS = ("lambda", "random", "optuna", "surrogate")
REFERENCE = (0.5, 0.5, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--budget", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    curves: dict[str, list[list[tuple[int, float]]]] = {}
    for method in METHODS:
        seeds = 1 if method == "lambda" else given.seeds
        for seed in range(seeds):
            curves.setdefault(method, []).append(searched(given, method, seed))
            print(f"{method} {seed}: {curves[method][-1][-1][1]:.5f}", file=sys.stderr)
    print(table(curves, given.budget))


def searched(given: argparse.Namespace, method: str, seed: int) -> list[tuple[int, float]]:
    """(evaluations spent, hypervolume so far) of one search."""
    from mergekit_fair.progress import Silent
    from mergekit_fair.sweep.runner import run_sweep
    from mergekit_fair.sweep.sweep_config import load_sweep

    folder = given.out / f"{method}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    raw = yaml.safe_load(given.sweep.read_text())
    kept = {key: raw[key] for key in ("evaluate", "baselines", "select") if key in raw}
    recipe = raw["recipe"]
    if isinstance(recipe, str):
        recipe = yaml.safe_load((given.sweep.parent / recipe).read_text())
    kept |= {"recipe": recipe, "seed": seed}
    if method == "lambda":
        kept["grid"] = {"lambda": [round(float(x), 4) for x in np.linspace(0, 1, given.budget)]}
    else:
        kept["search"] = {"method": method, "budget": given.budget}
    data = kept["evaluate"].get("data")
    if isinstance(data, str):
        kept["evaluate"]["data"] = str((given.sweep.parent / data).absolute())
    (folder / "sweep.yml").write_text(yaml.safe_dump(kept))
    run_sweep(load_sweep(folder / "sweep.yml"), folder / "out", Silent())
    return grown(folder / "out")


def grown(out: Path) -> list[tuple[int, float]]:
    from mergekit_fair.sweep.search.pareto import hypervolume

    spent, points, found = 0, [], []
    for text in (out / "points.jsonl").read_text().splitlines():
        line: dict[str, Any] = json.loads(text)
        if line["split"] != "validation" or line.get("kind") == "baseline":
            continue
        spent += 1
        evaluation = line.get("evaluation")
        if evaluation and not evaluation["degenerate"]:
            values = [evaluation["metrics"][name]["value"] for name in ("acc", "dpd", "eod")]
            if None not in values:
                points.append((1 - values[0], *values[1:]))
        volume = hypervolume(np.array(points), np.array(REFERENCE)) if points else 0.0
        found.append((spent, float(volume)))
    return found


def table(curves: dict[str, list[list[tuple[int, float]]]], budget: int) -> str:
    marks = [max(1, budget // 4), budget // 2, budget]
    lines = [
        "| method | seeds | " + " | ".join(f"after {mark}" for mark in marks) + " |",
        "|---|---|" + "---|" * len(marks),
    ]
    for method, runs in curves.items():
        cells = []
        for mark in marks:
            values = [max((v for spent, v in run if spent <= mark), default=0.0) for run in runs]
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4f}{spread}")
        lines.append(f"| {method} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
