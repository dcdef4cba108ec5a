"""Several processes under a launcher, here two on the CPU with gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mergekit_fair.merging.in_memory import load_tensors


@pytest.mark.slow
def test_two_processes_train_one_family(family: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = tmp_path / "train.yml"
    config.write_text((family / "train.yml").read_text() + "seeds: 2\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    job = ["-m", "mergekit_fair", "train", str(config), "-o", str(out)]
    finished = subprocess.run(
        [*launch, *job],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    runs = json.loads((out / "train.json").read_text())["runs"]
    # 253 rows in batches of 16 on two processes: 8 steps an epoch, two epochs.
    assert {name: run["steps"] for name, run in runs.items() if "steps" in run} == {
        "fft": 16,
        "lora": 16,
        "groups/blue": 16,
        "groups/green": 16,
        "seeds/1": 16,
    }
    assert runs["soup"]["of"] == ["fft", "seeds/1"]
    assert finished.stderr.count("fft: fft, 253 rows") == 1  # one process reports
    assert set(load_tensors(out / "fft")) == set(load_tensors(out / "base"))
    assert not (out / ".work").exists()
