"""Splits: by column, by a hash of the row, or both; limits; and how version 0.1 dealt."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import raises

from mergekit_fair.data.blocks import Splits
from mergekit_fair.data.row_keys import row_keys, text_keys
from mergekit_fair.data.shares_of_01 import draw
from mergekit_fair.data.splits import assign_splits, check_leaks, stratify
from mergekit_fair.errors import DataError

SHARES = {"train": 0.6, "validation": 0.2, "report": 0.2}


def split(n_or_values, labels=None, membership=None, inputs=None, **spec):
    values = ["-"] * n_or_values if isinstance(n_or_values, int) else n_or_values
    labels = np.zeros(len(values), dtype=np.int8) if labels is None else np.asarray(labels)
    if membership is None:
        membership = np.ones((len(values), 1), dtype=bool)
    inputs = [f"text {row}" for row in range(len(values))] if inputs is None else inputs
    frame, keys = pd.DataFrame({"s": values}), text_keys(inputs)
    return assign_splits(frame, Splits(**spec), keys, labels, membership, "data set 'x'")


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


def test_shares_are_kept_as_by_chance():
    """20,000 rows: within 5 standard deviations of the share; what is left over is unused."""
    found = split(20_000, shares={"train": 0.3, "validation": 0.1, "report": 0.2})
    for name, share in (("train", 0.3), ("validation", 0.1), ("report", 0.2), ("", 0.4)):
        assert abs((found == name).mean() - share) < 5 * np.sqrt(share * (1 - share) / 20_000)


@st.composite
def tables(draw_):
    """Rows (input, label, group), some of them twice, and how to deal and limit them."""
    rows = draw_(
        st.lists(
            st.tuples(st.integers(0, 400), st.integers(0, 1), st.integers(0, 2)),
            min_size=1,
            max_size=60,
        )
    )
    weights = draw_(st.lists(st.integers(1, 5), min_size=4, max_size=4))
    shares = {n: w / sum(weights) for n, w in zip(SHARES, weights, strict=False)}
    return rows, shares, draw_(st.integers(0, 2**70))


def dealt(rows, shares, seed, **more):
    """Split of every row of a table; rows that fill all splits are put in front."""
    rows = [*((1000 + i, i % 2, i % 3) for i in range(200)), *rows]
    labels = np.array([label for _, label, _ in rows], dtype=np.int8)
    membership = np.eye(3, dtype=bool)[[group for *_, group in rows]]
    inputs = [f"text {text}" for text, *_ in rows]
    found = split(len(rows), labels, membership, inputs, shares=shares, seed=seed, **more)
    return found[200:].tolist()


@given(tables(), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_that_come_go_or_are_sorted_move_no_other_row(table, data):
    rows, shares, seed = table
    before = dealt(rows, shares, seed)
    order = data.draw(st.permutations(range(len(rows))))
    kept = order[: data.draw(st.integers(1, len(rows)))]  # sorted anew, and some are gone
    more = [(row + 500, 1, 0) for row in range(data.draw(st.integers(0, 5)))]
    after = dealt([*(rows[row] for row in kept), *more], shares, seed)
    assert after[: len(kept)] == [before[row] for row in kept]
    # Equal inputs share a split, whatever their labels and groups are.
    by_input: dict[int, set[str]] = {}
    for (text, *_), name in zip(rows, before, strict=True):
        by_input.setdefault(text, set()).add(name)
    assert all(len(names) == 1 for names in by_input.values())


@given(tables(), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_with_a_limit_no_row_ever_crosses(table, limit):
    """A row more may move others out of a limit or in, never to another split."""
    rows, shares, seed = table
    limits = {"train": limit, "validation": limit}
    for some in (rows, rows[1:], [*rows, (900, 0, 0)]):
        limited, whole = dealt(some, shares, seed, limit=limits), dealt(some, shares, seed)
        assert all(name in ("", full) for name, full in zip(limited, whole, strict=True))


def test_a_row_more_moves_at_most_one_of_its_split_out_of_a_limit():
    def at(n):
        found = split(n, labels=np.arange(n) % 2, shares=SHARES, limit={"train": 50})
        return set(np.flatnonzero(found == "train").tolist())

    before = at(400)
    for n in (401, 402, 405):
        after = at(n)
        assert len(after) == 50
        assert len(before - after) <= 3  # two strata, and the rows that came


def test_larger_shares_keep_what_smaller_ones_had():
    small = split(2000, shares={"train": 0.4, "validation": 0.2, "report": 0.2})
    large = split(2000, shares={"train": 0.5, "validation": 0.2, "report": 0.3})
    for name in ("train", "report"):
        assert set(np.flatnonzero(small == name)) < set(np.flatnonzero(large == name))
    # With all of the shares changed by a tenth, at most two tenths of the rows move.
    assert (small != large).mean() < 0.3


def test_a_column_deals_its_values_together():
    authors = [f"author {row % 40}" for row in range(400)]
    found = split(authors, shares=SHARES, by="s")
    for author in set(authors):
        assert len({found[row] for row in range(400) if authors[row] == author}) == 1
    assert set(found) == set(SHARES)
    with raises(DataError, "1 of 3", "row 1", where=f"{WHERE}.by", fix="`keep`"):
        split(["a", "", "b"], shares={"train": 1}, by="s")
    with raises(DataError, "'t'", where=f"{WHERE}.by", allowed=["s"]):
        split(["a"], shares={"train": 1}, by="t")


def test_an_official_split_beside_dealt_ones():
    parts = ["train"] * 300 + ["dev"] * 100 + ["test"] * 50 + ["odd"] * 10
    fixed = {"column": "s", "names": {"report": "test"}, "ignore": "odd"}
    shares = {"train": 0.8, "validation": 0.2}
    found = split(parts, **fixed, deal=["train", "dev"], shares=shares)
    assert (found[400:450] == "report").all()
    assert (found[450:] == "").all()
    assert set(found[:400]) == {"train", "validation"}
    assert 0.1 < (found[:400] == "validation").mean() < 0.3
    # The same rows as without the official ones, and "*" is every other value.
    assert np.array_equal(found[:400], split(400, shares=shares))
    assert np.array_equal(found, split(parts, **fixed, deal="*", shares=shares))
    with raises(DataError, "'dev' (100)", where=WHERE, allowed=["test", "train"]):
        split(parts, **fixed, deal=["train"], shares=shares)
    nothing = {"column": "s", "names": {"report": "none"}, "deal": "*", "shares": shares}
    with raises(DataError, "'report'", where=WHERE):
        split(parts, **nothing)


def test_equal_pictures_under_two_names_are_one_input(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"one" if name < "c" else b"other")
    keys = row_keys([str(tmp_path / name) for name in ("a.png", "b.png", "c.png")], "image")
    assert keys[0] == keys[1] != keys[2]
    spec = Splits(column="s", on_leak="drop", names={"train": "t", "report": "r"})
    parts = np.array(["train", "report", "report"])
    found, said = check_leaks(keys, parts, spec, "x")
    assert found.tolist() == ["train", "", "report"]
    assert "report rows in train: 1" in said[0]
    with raises(DataError, where=tmp_path / "gone.png"):
        row_keys([str(tmp_path / "gone.png")], "image")


def test_places_do_not_depend_on_processor_or_version():
    """What a row's split is must not change: these are the digests of RFC 7693 in Python."""
    found = split(8, shares=SHARES).tolist()
    assert found == [*["train"] * 3, *["report"] * 2, "train", "validation", "report"]


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
        "from mergekit_fair.data.shares_of_01 import draw\n"
        "from mergekit_fair.data.splits import stratify\n"
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
