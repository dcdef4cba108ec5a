"""Splits: by column or by seeded, stratified shares; limits."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import raises

from mergekit_fair.data.blocks import Splits
from mergekit_fair.data.splits import assign_splits, draw, stratify
from mergekit_fair.errors import DataError

SHARES = {"train": 0.6, "validation": 0.2, "report": 0.2}


def split(n_or_values, labels=None, membership=None, **spec):
    values = ["-"] * n_or_values if isinstance(n_or_values, int) else n_or_values
    labels = np.zeros(len(values), dtype=np.int8) if labels is None else np.asarray(labels)
    if membership is None:
        membership = np.ones((len(values), 1), dtype=bool)
    return assign_splits(
        pd.DataFrame({"s": values}), Splits(**spec), labels, membership, "data set 'x'"
    )


WHERE = "data set 'x', splits"


def test_by_column():
    values = ["train", "report", "validation", "train"]
    assert split(values, column="s").tolist() == values


def test_by_column_with_names_and_ignored_values():
    found = split(
        ["tr", "dev", "te", "te2", "x"],
        column="s",
        names={"train": "tr", "validation": "dev", "report": ["te", "te2"]},
        ignore="x",
    )
    assert found.tolist() == ["train", "validation", "report", "report", ""]


def test_an_unknown_value_of_the_column():
    allowed = ["train", "validation", "report"]
    with raises(DataError, "'test' (2), 'dev' (1)", "row 1", where=WHERE, allowed=allowed):
        split(["train", "test", "dev", "test"], column="s")


def test_a_missing_column_and_a_missing_split():
    with raises(DataError, "'t'", where=f"{WHERE}.column", allowed=["s"]):
        split(["train"], column="t")
    with raises(DataError, "'validation'", where=WHERE, got={"train": 2, "report": 1}):
        split(["train", "report", "train"], column="s")


def test_shares_too_small_for_the_rows():
    with raises(DataError, "'report'", where=WHERE, got={"train": 3}, fix="larger `shares`"):
        split(3, shares={"train": 0.9, "report": 0.1})


def test_a_stratum_is_one_label_and_one_pattern():
    labels = np.array([0, 1, 0, 0])
    membership = np.array([[1, 0], [1, 0], [1, 1], [1, 0]], dtype=bool)
    found = stratify(labels, membership)
    assert found[0] == found[3]
    assert len(set(found.tolist())) == 3


@st.composite
def deals(draw_):
    strata = draw_(st.lists(st.integers(0, 6), min_size=1, max_size=80))
    weights = draw_(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    shares = tuple(weight / sum(weights) for weight in weights)
    return np.array(strata), shares, draw_(st.integers(0, 2**32 - 1))


@given(deals())
@settings(max_examples=150)
def test_every_stratum_is_dealt_within_one_row(deal):
    strata, shares, seed = deal
    parts = draw(strata, shares, np.random.default_rng(seed))
    assert ((parts >= 0) & (parts < len(shares))).all()  # every row is in exactly one part
    for stratum in np.unique(strata):
        inside = parts[strata == stratum]
        for part, share in enumerate(shares):
            assert abs((inside == part).sum() - share * inside.size) < 1
    again = draw(strata, shares, np.random.default_rng(seed))
    assert np.array_equal(parts, again)


@given(deals(), st.integers(1, 80))
def test_a_limit_is_exact_and_stratified(deal, limit):
    strata, _, seed = deal
    labels, membership = strata % 2, np.eye(7, dtype=bool)[strata]
    found = split(
        ["train"] * len(strata),
        labels,
        membership,
        column="s",
        names={"train": "train"},
        limit={"train": limit},
        seed=seed,
    )
    kept = found == "train"
    assert kept.sum() == min(limit, len(strata))
    for stratum in np.unique(strata):
        inside = strata == stratum
        assert abs(kept[inside].sum() - kept.mean() * inside.sum()) < 1 + 1e-9


def test_many_tiny_strata_reach_every_split():
    membership = np.eye(100, dtype=bool)
    found = split(100, membership=membership, shares=SHARES)
    counts = {name: int((found == name).sum()) for name in SHARES}
    assert counts == {"train": 60, "validation": 20, "report": 20}


def test_shares_below_one_leave_rows_unused():
    found = split(100, shares={"train": 0.3, "report": 0.2})
    assert [(found == name).sum() for name in ("train", "report", "")] == [30, 20, 50]


def test_a_limit_is_not_the_head_and_moves_no_other_split():
    whole = split(400, shares=SHARES)
    limited = split(400, shares=SHARES, limit={"train": 40, "report": 10})
    kept = np.flatnonzero(limited == "train")
    assert set(kept) <= set(np.flatnonzero(whole == "train"))
    assert kept.max() > 200
    assert np.array_equal(whole == "validation", limited == "validation")
    both = split(400, shares=SHARES, limit={"report": 10})
    assert np.array_equal(both == "report", limited == "report")


def test_seeds_differ():
    assert not np.array_equal(split(50, shares=SHARES), split(50, shares=SHARES, seed=1))


def test_the_result_does_not_depend_on_the_hash_seed():
    code = (
        "import numpy as np, hashlib\n"
        "from mergekit_fair.data.splits import draw, stratify\n"
        "i = np.arange(200)\n"
        "s = stratify(i % 2, np.column_stack([i % 3 == 0, i % 5 == 0]))\n"
        "print(draw(s, (0.6, 0.2, 0.2), np.random.default_rng(3)).tolist())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
