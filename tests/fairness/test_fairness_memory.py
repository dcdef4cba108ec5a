"""Thousands of membership patterns need memory for draws × groups, not for draws × patterns."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

from mergekit_fair.fairness import (
    Groups,
    compare,
    grouped,
    inversion,
    measure,
    measure_labels,
    uncertainty,
)

N, GROUPS, DRAWS = 800, 30, 400
# What the draws of one table would take whole: as many bytes as it has cells, times draws.
WHOLE = N * 6 * 8 * DRAWS

LARGE = """
import resource, numpy as np
from mergekit_fair.fairness import Groups, compare, measure
rng = np.random.default_rng(0)
y, a, b = rng.integers(0, 2, (3, 10_000))
inside = rng.random((10_000, 200)) < 0.03
assert len(np.unique(np.packbits(inside, axis=1), axis=0)) > 9_500
groups = Groups(tuple(f"g{index}" for index in range(200)), inside)
weights = rng.choice([0.5, 1.0, 3.0], 10_000) if WEIGHTED else None
def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = megabytes()
CALL
print(megabytes() - before)
"""


@pytest.fixture(scope="module")
def rows() -> tuple[Any, Any, Any, Groups]:
    rng = np.random.default_rng(0)
    y, a, b = rng.integers(0, 2, (3, N))
    membership = rng.random((N, GROUPS)) < 0.2
    assert len(np.unique(membership, axis=0)) > 0.95 * N
    return y, a, b, Groups(tuple(f"g{index}" for index in range(GROUPS)), membership)


def peak(call: Any) -> int:
    """Bytes above what is held before, numpy's arrays included."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_table_of_draws_is_held_whole(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "_AT_ONCE", 2**16)
    monkeypatch.setattr(uncertainty, "_AT_ONCE", 2**16)
    monkeypatch.setattr(inversion, "_AT_ONCE", 2**14)
    y, a, b, groups = rows
    assert peak(lambda: measure(y, a, groups, draws=DRAWS)) < WHOLE / 2
    assert peak(lambda: compare(y, a, b, groups, draws=DRAWS)) < WHOLE / 2
    labels = {"p": y}, {"p": a}, groups
    assert peak(lambda: measure_labels(*labels, draws=DRAWS)) < WHOLE / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "weighted"),
    [
        ("measure(y, a, groups, weights=weights)", True),
        ("compare(y, a, b, groups, weights=weights)", False),
    ],
)
def test_ten_thousand_patterns_of_two_hundred_groups(call: str, weighted: bool) -> None:
    code = LARGE.replace("CALL", call).replace("WEIGHTED", str(weighted))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 500
