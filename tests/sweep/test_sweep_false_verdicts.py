"""The benchmark of false verdicts stands in for parts of a sweep, and must not fall behind them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "false_verdicts.py"


@pytest.mark.slow
def test_a_population_runs_and_nothing_is_won() -> None:
    options = ["--sweeps", "2", "--only", "clusters of 20", "--json"]
    command = [sys.executable, str(BENCHMARK), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout.splitlines()[-1])
    assert (found["sweeps"], found["false"]) == (2, 0)
