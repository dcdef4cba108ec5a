"""A sweep beside its forward passes alone, with few rows and with many, before and now.

    python benchmarks/sweep_passes.py demo-run                          # after `mergekit-fair demo`
    python benchmarks/sweep_passes.py demo-run --old ../other-checkout  # before, and after
    python benchmarks/sweep_passes.py demo-run --rows 100 --points 3 --rounds 1   # does it run?

In turn, each in a process of its own, `--rounds` times for every number of rows:

    before, now   `mergekit-fair sweep --no-write` over eleven λ, the chosen one on report rows
    passes        the same rows in the same batches in a plain PyTorch loop (`sweep.py --forward`):
                  the loop alone, and its whole process
    start         importing what every program of this kind imports: torch, transformers, lm-eval

Seconds by the clock and of the processor; ratios are medians of rounds. Of a busy machine the
processor's are worth more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from sweep import BATCH, LENGTH, TASK

_START = (
    "import torch, transformers.modeling_utils, transformers.models.bert.modeling_bert;"
    "import lm_eval.tasks, lm_eval.models.huggingface"
)


@dataclass(frozen=True)
class Seconds:
    """By the clock, and of the processor."""

    wall: float
    cpu: float

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)

    def __str__(self) -> str:
        return f"{self.wall:6.1f} ({self.cpu:5.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder of `mergekit-fair demo`")
    parser.add_argument("--rows", nargs="+", default=["100", "300", "all"], help="of a split")
    parser.add_argument("--points", type=int, default=11)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--old", type=Path, help="another checkout, measured beside this one")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    here = Path(__file__).resolve().parent.parent
    packages = {"before": given.old.resolve()} if given.old else {}
    packages["now"] = here
    with tempfile.TemporaryDirectory() as folder:
        for rows in given.rows:
            limit = None if rows == "all" else int(rows)
            found = [
                measured(Path(folder), given.demo.resolve(), given.points, limit, packages)
                for _ in range(given.rounds)
            ]
            report(rows, found, list(packages))


def measured(
    folder: Path, demo: Path, points: int, limit: int | None, packages: dict[str, Path]
) -> dict[str, Seconds]:
    """One round."""
    found = {"start": run([sys.executable, "-c", _START])[0]}
    evaluate: dict[str, object] = {"tasks": [TASK], "data": str(demo / "data.yml")}
    evaluate |= {"device": "cpu", "batch_size": BATCH, "max_length": LENGTH}
    evaluate |= {"limit": limit} if limit else {}
    lambdas = [round(float(x), 4) for x in np.linspace(0, 1, points)]
    recipe = yaml.safe_load((demo / "addition.yml").read_text())
    sweep = {"recipe": recipe, "grid": {"lambda": lambdas}, "evaluate": evaluate}
    (folder / "sweep.yml").write_text(yaml.safe_dump(sweep))
    for name, package in packages.items():
        with tempfile.TemporaryDirectory(dir=folder) as out:
            command = [sys.executable, "-m", "mergekit_fair", "sweep", str(folder / "sweep.yml")]
            found[name], _ = run([*command, "-o", f"{out}/out", "--no-write"], package)
    how = folder / "forward.json"
    how.write_text(json.dumps({"points": points, "limit": limit}))
    loop = Path(__file__).with_name("sweep.py")
    found["process of passes"], said = run(
        [sys.executable, str(loop), str(demo), "--forward", str(how)], packages["now"]
    )
    passes = json.loads(said.splitlines()[-1])
    found["passes"] = Seconds(passes["seconds"], passes["processor"])
    return found


def run(command: list[str], package: Path | None = None) -> tuple[Seconds, str]:
    """A process, with the package of a checkout: what it cost, and what it printed."""
    paths = {} if package is None else {"PYTHONPATH": str(package)}
    before, start = os.times(), time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | paths, cwd=package
    )
    wall, after = time.monotonic() - start, os.times()
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    cpu = after.children_user + after.children_system
    return Seconds(wall, cpu - before.children_user - before.children_system), done.stdout


def report(rows: str, found: list[dict[str, Seconds]], sweeps: list[str]) -> None:
    """Medians, and medians of the rounds' ratios."""
    print(f"\n{rows} rows a split, {len(found)} rounds; seconds by the clock (of the processor)")
    for name in found[0]:
        middle = [statistics.median(getattr(r[name], k) for r in found) for k in ("wall", "cpu")]
        print(f"  {name:22} {Seconds(*middle)}")
    for name in sweeps:
        ratios("sweep / passes", name, [(r[name], r["passes"]) for r in found])
        apart = [(r[name] - r["start"], r["passes"]) for r in found]
        ratios("start apart / passes", name, apart)
        ratios("sweep / their process", name, [(r[name], r["process of passes"]) for r in found])


def ratios(label: str, name: str, pairs: list[tuple[Seconds, Seconds]]) -> None:
    wall, cpu = (
        statistics.median(getattr(part, kind) / getattr(whole, kind) for part, whole in pairs)
        for kind in ("wall", "cpu")
    )
    print(f"  {name:7} {label:22} {wall:5.2f} ({cpu:.2f})", flush=True)


if __name__ == "__main__":
    main()
