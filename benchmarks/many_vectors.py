"""Seconds and memory of `merge`, `vectors` and `basis build` against the number of task vectors.

    python benchmarks/many_vectors.py --work DIR --size 0.1 --vectors 2,4,8,16,32,64
    python benchmarks/many_vectors.py --work DIR --old ../other-checkout --jobs vectors
    python benchmarks/many_vectors.py --work DIR --size 6 --vectors 2 --jobs merge,vectors

For every number of vectors, in turn and in processes of their own: each job, of another checkout
too, if one is given (**before**), and `cat` of all files from the page cache (**read**). Process
start, the same job on models of two layers, is taken off. Prints seconds of the processor, by the
clock in brackets, GB/s of files read (of the processor), the peak of anonymous memory, and of
several numbers the slope of log seconds over log bytes (1: in proportion).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import checkpoints
import numpy as np
from checkpoints import START, WEIGHTS, Family, Shape
from processes import Usage, measure, program

JOBS = {"merge": ["merge"], "vectors": ["vectors"], "basis": ["basis", "build"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where models are made, and stay")
    parser.add_argument("--size", type=float, default=0.1, metavar="GB", help="a model's weights")
    parser.add_argument("--vectors", default="2,4,8,16", metavar="N,…")
    parser.add_argument("--jobs", default="merge,vectors,basis", metavar="JOB,…")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--old", type=Path, help="another checkout, measured beside this one")
    given = parser.parse_args()
    work, counts = given.work.resolve(), [int(part) for part in given.vectors.split(",")]
    packages = {"before": given.old.resolve()} if given.old else {}
    packages["now"] = Path(__file__).resolve().parent.parent
    points: dict[str, list[tuple[float, float]]] = {}
    for count in counts:
        models = Family(work, Shape.of_size(given.size)).make(count)
        small = Family(work, START).make(count)
        files = [model / WEIGHTS for model in models]
        size = sum(file.stat().st_size for file in files) / 1e9
        print(f"\n{count} vectors, {size:.2f} GB of files")
        for job in given.jobs.split(","):
            one_round(work, job, models, small, packages)  # what is asked once of a model
            rounds = [one_round(work, job, models, small, packages) for _ in range(given.repeats)]
            for name in packages:
                usage, start = zip(*(found[name] for found in rounds), strict=True)
                cpu = statistics.median(u.cpu - s.cpu for u, s in zip(usage, start, strict=True))
                wall = statistics.median(u.wall - s.wall for u, s in zip(usage, start, strict=True))
                anon = statistics.median(u.anon for u in usage) / 1e6
                points.setdefault(f"{job} {name}", []).append((size, cpu))
                speed = f"{size / cpu:6.2f} GB/s{anon:8.0f} MB"
                print(f"  {job:8}{name:8}{cpu:8.2f} s ({wall:.2f}){speed}", flush=True)
        cpu, wall = read(files)
        print(f"  {'read':16}{cpu:8.2f} s ({wall:.2f}){size / cpu:6.2f} GB/s", flush=True)
    for name, known in points.items():
        if len(known) > 1:
            sizes, seconds = np.log(np.array(known)).T
            print(f"slope of {name}: {np.polyfit(sizes, seconds, 1)[0]:.2f}")


def one_round(
    work: Path, job: str, models: list[Path], small: list[Path], packages: dict[str, Path]
) -> dict[str, tuple[Usage, Usage]]:
    """Package → what the job cost, and on the small models."""
    return {
        name: (run(work, job, models, package), run(work, job, small, package))
        for name, package in packages.items()
    }


def run(work: Path, job: str, models: list[Path], package: Path) -> Usage:
    items = [
        {"model": str(model), "parameters": {"group": f"g{number}", "weight": 1.0}}
        for number, model in enumerate(models[1:], start=1)
    ]
    recipe = {"merge_method": "subgroup_task_addition", "base_model": str(models[0])}
    recipe |= {"models": items, "parameters": {"lambda": 0.3}}  # type: ignore[dict-item]
    file, out = work / "many.yml", work / "many"
    file.write_text(json.dumps(recipe))
    command = [program("mergekit-fair"), *JOBS[job], str(file)]
    command += {"vectors": ["--json"], "basis": ["-o", str(out)]}.get(job, [str(out)])
    try:
        return measure([[*command, "--quiet"]], [m / WEIGHTS for m in models], out, package)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def read(files: list[Path]) -> tuple[float, float]:
    """Seconds of the processor and by the clock that `cat` takes, the least of three."""
    import resource

    found = []
    for _ in range(3):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(["cat", *map(str, files)], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((cpu, time.perf_counter() - start))
    return min(found)


if __name__ == "__main__":
    try:
        main()
    except checkpoints.BenchmarkError as error:
        sys.exit(f"error: {error}")
