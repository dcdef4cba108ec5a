"""The smoothed table: what is pulled towards one half, and by how much."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_fair.fairness import CountTable
from mergekit_fair.fairness.grouped import group_counts
from mergekit_fair.fairness.smoothing import Smoothed


def smoothed(cells, patterns):
    table = CountTable(tuple(map(str, range(patterns.shape[1]))), patterns, cells)
    return Smoothed.of(table).cells


def test_a_partition_gets_half_a_row_of_each_prediction():
    """Jeffreys' prior: k of m become m (k + 1/2) / (m + 1)."""
    cells = np.array([[[3, 0, 0], [2, 6, 0]], [[0, 0, 0], [0, 1, 4]]])
    found = smoothed(cells, np.eye(2, dtype=bool))
    expected = [
        [[3 * 3.5 / 4, 3 * 0.5 / 4, 0], [8 * 2.5 / 9, 8 * 6.5 / 9, 0]],
        [[0, 0, 0], [1 * 0.5 / 2, 1 * 1.5 / 2, 4]],
    ]
    assert found == pytest.approx(np.array(expected))


@st.composite
def tables(draw):
    groups = draw(st.integers(1, 4))
    patterns = draw(st.sets(st.integers(0, 2**groups - 1), min_size=1))
    bits = np.array([[code >> g & 1 for g in range(groups)] for code in sorted(patterns)])
    counts = st.integers(0, 9)
    cells = [draw(st.lists(counts, min_size=6, max_size=6)) for _ in bits]
    cells[0][0] += not np.any(cells)  # a table has rows
    return np.array(cells).reshape(-1, 2, 3), bits.astype(bool)


def added(cells, patterns):
    """How many rows a group and label gets: a in m (k + a/2) / (m + a), summed over patterns."""
    found = smoothed(cells, patterns)
    m, k = cells[..., :2].sum(axis=-1), cells[..., 1]
    p = np.divide(found[..., 1], m, out=np.full(m.shape, 0.5), where=m > 0)
    # p = (k + a/2) / (m + a) solved for a; where k = m/2 any a gives the same p.
    bent = np.where(2 * p == 1, 0.0, (k - p * m) / np.where(2 * p == 1, 1.0, p - 0.5))
    return patterns.T.astype(float) @ bent, 2 * k == m


@settings(max_examples=100, deadline=None)
@given(tables())
def test_totals_are_kept_and_missing_predictions_stay(table):
    cells, patterns = table
    found = smoothed(cells, patterns)
    assert found.sum(axis=-1) == pytest.approx(cells.sum(axis=-1))
    assert (found[..., 2] == cells[..., 2]).all()
    assert (found >= 0).all()
    nobody = ~patterns.any(axis=1)
    assert (found[nobody] == cells[nobody]).all()  # rows in no group
    towards_half = (
        np.abs(found[..., 1] - found[..., 0])
        <= np.abs(cells[..., 1] - cells[..., 0] + 1e-12) + 1e-9
    )
    assert towards_half.all()


@settings(max_examples=100, deadline=None)
@given(tables())
def test_a_group_gets_about_one_row(table):
    cells, patterns = table
    rows, even = added(cells, patterns)
    sizes = group_counts(cells, patterns)[..., :2].sum(axis=-1)
    overlapping = ((patterns.T.astype(int) @ patterns) > 0).sum(axis=0)
    for group, label in zip(*np.nonzero(sizes), strict=True):
        if even[patterns[:, group], label].any():
            continue
        assert 1 - 1e-6 <= rows[group, label] <= overlapping[group] + 1e-6


def test_the_smallest_of_overlapping_groups_gets_exactly_one():
    patterns = np.array([[True, False], [True, True], [False, False]])
    cells = np.zeros((3, 2, 3), dtype=np.int64)
    cells[:, 1, 1] = [90, 10, 50]
    rows, _ = added(cells, patterns)
    assert rows[1, 1] == pytest.approx(1)
    assert rows[0, 1] == pytest.approx(90 / 100 + 1)
