"""Peak memory and time of `measure` and `compare` on many overlapping groups, old and new.

    python benchmarks/pattern_memory.py                       # this version
    python benchmarks/pattern_memory.py --old PATH            # and another checkout, with ratios

Each case runs in a process of its own, since peak memory never falls again. Rows carry random sets
of groups, so that nearly every row is a pattern of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CASES = (
    ("measure", 10_000, 30, 0.3),
    ("measure", 10_000, 200, 0.03),
    ("compare", 10_000, 200, 0.03),
    ("measure", 100_000, 8, 0.3),
)

CASE = """
import json, resource, sys, time
import numpy as np
from mergekit_fair.fairness import Groups, compare, measure
name, n, groups, share = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
y, a, b = rng.integers(0, 2, (3, n))
inside = rng.random((n, groups)) < share
members = Groups(tuple(f"g{index}" for index in range(groups)), inside)
def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = megabytes(), time.perf_counter()
if name == "measure":
    measure(y, a, members)
else:
    compare(y, a, b, members)
seconds = time.perf_counter() - start
patterns = len(np.unique(np.packbits(inside, axis=1), axis=0))
print(json.dumps({"patterns": patterns, "seconds": seconds, "megabytes": megabytes() - before}))
"""


def run(case: tuple[str, int, int, float], package: Path) -> dict[str, float]:
    """One case with the package of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CASE, json.dumps(case)]
    done = subprocess.run(  # the folder of a process comes first
        command, cwd=package, env=environment, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def main() -> None:
    """Print a table; the seconds are of one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, help="another checkout, to compare with")
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    print("| case | patterns | groups | s | MB | old s | old MB | s, old/new | MB, old/new |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        new = run(case, here)
        cells = [case[0], f"{new['patterns']:,}", str(case[2])]
        cells += [f"{new['seconds']:.1f}", f"{new['megabytes']:.0f}"]
        if options.old is not None:
            old = run(case, options.old)
            cells += [f"{old['seconds']:.1f}", f"{old['megabytes']:.0f}"]
            cells += [f"{old[key] / new[key]:.1f}" for key in ("seconds", "megabytes")]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
