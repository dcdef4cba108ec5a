"""Are λ-curves of models that this checkout trains those of another one, within seeds' spread?

    python benchmarks/train_curves.py --rows redditbias.csv --old ../other-checkout --seeds 3

For every seed both checkouts train FFT and two groups' models from the same base (with the settings
of `train.py`), and this one sweeps λ from 0 to 1 on the same validation rows. Prints accuracy, DPD
and EOD at each λ and of FFT: means over seeds, their difference, and that in standard errors,
√(s₁² + s₂²) / √N of the two standard deviations s over N seeds. What is there already is not
trained again. Points of one seed are of the same models: that all differ in one direction is one
observation, not many.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from checkpoints import BenchmarkError
from train import settings

METRICS = ("acc", "dpd", "eod")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--old", type=Path, required=True, help="another checkout")
    parser.add_argument("--bf16", action="store_true", help="this checkout trains in bfloat16")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=800, help="training rows")
    parser.add_argument("--validation", type=int, default=900, help="validation rows")
    parser.add_argument("--work", type=Path, default=Path("train-curves"))
    given = parser.parse_args()
    here = Path(__file__).parents[1]
    curves = {
        name: [curve(given, name, package, seed) for seed in range(given.seeds)]
        for name, package in (("before", given.old), ("bf16" if given.bf16 else "now", here))
    }
    print_curves(curves)


def curve(
    given: argparse.Namespace, name: str, package: Path, seed: int
) -> dict[str, dict[str, float]]:
    """Point → metric → value on validation rows, of a family that a checkout trains."""
    folder = given.work / name / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    train = settings(given.rows, given.limit, bf16=name == "bf16") | {"seed": seed, "lora": False}
    train["data"]["splits"]["limit"] |= {"validation": given.validation, "report": 200}
    (folder / "train.yml").write_text(yaml.safe_dump(train))
    sweep: dict[str, Any] = {
        "recipe": "models/addition.yml",
        "grid": {"lambda": "0:1:0.25"},
        "evaluate": {"data": train["data"], "max_length": 64, "device": "cpu"},
        "baselines": {"fft": "models/fft"},
        "select": {"maximize": "acc"},
    }
    (folder / "sweep.yml").write_text(yaml.safe_dump(sweep))
    run(["train", "train.yml", "-o", "models"], folder, package)
    if not (folder / "sweep" / "results.csv").is_file():
        run(["sweep", "sweep.yml", "-o", "sweep", "--no-write"], folder, Path(__file__).parents[1])
    with (folder / "sweep" / "results.csv").open(newline="") as stream:
        lines = [line for line in csv.DictReader(stream) if line["split"] == "validation"]
    return {line["label"]: {key: float(line[key]) for key in METRICS} for line in lines}


def run(command: list[str], folder: Path, package: Path) -> None:
    """A command of a checkout, in a folder.

    Raises:
        BenchmarkError: it failed; a sweep that keeps its baseline has not.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(package.resolve())}
    whole = [sys.executable, "-m", "mergekit_fair", *command, "--quiet"]
    done = subprocess.run(
        whole, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 3):
        raise BenchmarkError(f"{command[0]} in {folder}:\n{done.stderr[-3000:]}")


def print_curves(curves: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """A line for each point and metric."""
    print(f"{'point':8s} metric  before (sd)      after (sd)       difference  standard errors")
    worst = 0.0
    for point in curves["before"][0]:
        for metric in METRICS:
            before, after = ([seed[point][metric] for seed in curves[name]] for name in curves)
            spread = [statistics.stdev(of) for of in (before, after)]
            difference = statistics.mean(after) - statistics.mean(before)
            error = math.hypot(*spread) / math.sqrt(len(after))
            errors = abs(difference) / error if error else math.nan
            worst = worst if math.isnan(errors) else max(worst, errors)
            means = [
                f"{statistics.mean(of):.3f} ({sd:.3f})"
                for of, sd in zip((before, after), spread, strict=True)
            ]
            print(
                f"{point:8s} {metric:6s}  {means[0]:15s}  {means[1]:15s}  {difference:+.3f}"
                f"      {'equal' if error == 0 == difference else f'{errors:.1f}'}"
            )
    print(f"largest: {worst:.1f} standard errors")


if __name__ == "__main__":
    main()
