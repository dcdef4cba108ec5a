"""Results depend on neither the order of rows and groups nor on the hash seed."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mergekit_fair.fairness import compare, measure
from mergekit_fair.fairness.settings import REFERENCES


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    n = 300
    y_true, y_pred = rng.integers(0, 2, (2, n))
    predictions = y_pred.astype(object)
    predictions[[5, 50]] = None
    return y_true, predictions, [[g for g in "abcd" if rng.random() < 0.4] for _ in range(n)]


@pytest.mark.parametrize("reference", REFERENCES)
def test_rows_and_groups(rows, reference):
    y_true, y_pred, groups = rows
    how = {"reference": reference, "draws": 100}
    first = measure(*rows, **how).to_dict()
    order = np.random.default_rng(1).permutation(len(y_true))
    shuffled = measure(y_true[order], y_pred[order], [groups[row] for row in order], **how)
    assert shuffled.to_dict() == first
    backwards = {name: np.array([name in g for g in groups]) for name in "dcba"}
    second = measure(y_true, y_pred, backwards, **how).to_dict()
    second["warnings"], first["warnings"] = sorted(second["warnings"]), sorted(first["warnings"])
    second["groups"] = {name: second["groups"][name] for name in "abcd"}
    assert json.dumps(rounded(second), sort_keys=True) == json.dumps(rounded(first), sort_keys=True)


def rounded(value):
    """Without the last bits, in which sums of floats in another order differ."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    if isinstance(value, str):  # "(b 1 of 70, a 1 of 80)" names groups in their order
        return "".join(sorted(value))
    return round(value, 10) + 0.0 if isinstance(value, float) else value


def test_of_two_groups_that_tie_the_first_name_is_the_worst():
    y_true, y_pred = [0, 1] * 20, [0, 1, 1, 1] * 10
    masks = {"zebra": np.arange(40) < 15, "ant": np.arange(40) >= 15}
    for groups in (masks, dict(reversed(masks.items()))):
        summary = measure(y_true, y_pred, groups, draws=50).one_vs_rest
        assert summary.dpd.worst_group == summary.eod.worst_group == "ant"


def test_pandas_columns_are_read_by_position(rows):
    y_true, y_pred, groups = rows
    index = np.random.default_rng(2).permutation(len(y_true)) + 1000
    series = (
        pd.Series(y_true, index=index),
        pd.Series(y_pred, index=index[::-1]),
        pd.Series(groups, index=[0] * len(groups)),
    )
    assert measure(*series, draws=50) == measure(*rows, draws=50)


CODE = """
import json, numpy as np
from mergekit_fair.fairness import *
rng = np.random.default_rng(0)
y, a, b = rng.integers(0, 2, (3, 120)).tolist()
groups = [{g for g in ("men", "women", "old", "young") if rng.random() < 0.5} for _ in y]
classes = [["x", "y", "z"][k] for k in rng.integers(0, 3, 120)]
print(json.dumps([
    measure(y, a, groups, draws=50).to_dict(),
    compare(y, a, b, groups, draws=50).to_dict(),
    compare_many(y, {"p": a, "q": b, "r": y}, groups, baseline="q", draws=50).to_dict(),
    measure_classes(classes, classes[::-1], groups, draws=50).to_dict(),
    measure_labels({"u": y, "v": a}, {"u": b, "v": b}, groups, draws=50).to_dict(),
    measure_scores(np.array(a) / 3, groups, draws=50).to_dict(),
]))
"""


def test_the_hash_seed():
    found = set()
    for seed in ("0", "1", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_a_comparison_of_shuffled_rows_and_groups(rows):
    y_true, y_pred, groups = rows
    other = 1 - y_true
    first = compare(y_true, y_pred, other, groups, draws=100).to_dict()
    order = np.random.default_rng(4).permutation(len(y_true))
    shuffled = (column[order] for column in (y_true, y_pred, other))
    assert compare(*shuffled, [groups[row] for row in order], draws=100).to_dict() == first


@pytest.mark.parametrize("seed", [5, 38])
def test_a_comparison_of_groups_that_tie(seed):
    """Groups with equal rates: which of them a test looks at does not depend on their order."""
    rng = np.random.default_rng(seed)
    y_true, a, b = rng.integers(0, 2, (3, 40))
    masks = {name: rng.random(40) < 0.4 for name in "abcdef"}
    backwards = dict(reversed(masks.items()))
    first = compare(y_true, a, b, masks, draws=200)
    assert compare(y_true, a, b, backwards, draws=200).metrics == first.metrics
