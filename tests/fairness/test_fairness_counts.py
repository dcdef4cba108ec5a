"""The count table holds everything that the rows say."""

import numpy as np
import pytest

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import CountTable, Groups
from mergekit_fair.fairness.grouped import group_counts, total


def test_tally_by_hand():
    table = CountTable.tally(
        [1, 1, 0, 0, 1], [1, 0, 0, 1, 1], [["a", "b"], ["a"], ["b"], [], ["a", "b"]]
    )
    assert table.groups == ("a", "b")
    assert table.patterns.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert table.cells.tolist() == [
        [[0, 1, 0], [0, 0, 0]],
        [[1, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [1, 0, 0]],
        [[0, 0, 0], [0, 2, 0]],
    ]
    assert table.n == 5
    a, b = group_counts(table.cells, table.patterns).tolist()
    assert a == [[0, 0, 0], [1, 2, 0]]
    assert b == [[1, 0, 0], [0, 2, 0]]
    assert total(table.cells).tolist() == [[1, 1, 0], [1, 2, 0]]


def test_group_counts_keep_leading_axes():
    rng = np.random.default_rng(0)
    patterns = np.array([[True, False], [True, True], [False, False]])
    cells = rng.integers(0, 9, size=(5, 4, 3, 2, 2))
    groups = group_counts(cells, patterns)
    assert groups.shape == (5, 4, 2, 2, 2)
    assert groups.dtype == np.int64
    assert (groups[..., 0, :, :] == cells[..., 0, :, :] + cells[..., 1, :, :]).all()
    assert (total(cells) == cells.sum(axis=2)).all()


def test_more_than_eight_groups_and_a_ready_membership():
    rng = np.random.default_rng(1)
    membership = rng.random((300, 11)) < 0.4
    y_true, y_pred = rng.integers(0, 2, (2, 300))
    groups = Groups(tuple("abcdefghijk"), membership)
    table = CountTable.tally(y_true, y_pred, groups)
    counts = group_counts(table.cells, table.patterns)
    for column, matrix in zip(membership.T, counts, strict=True):
        for y in (0, 1):
            for p in (0, 1):
                assert matrix[y, p] == (column & (y_true == y) & (y_pred == p)).sum()


def test_the_order_of_cells_does_not_depend_on_the_order_of_groups():
    masks = {"b": np.array([True, True, False]), "a": np.array([False, True, True])}
    forward = CountTable.tally([0, 1, 1], [0, 1, 0], masks)
    backward = CountTable.tally([0, 1, 1], [0, 1, 0], dict(reversed(masks.items())))
    assert (forward.cells == backward.cells).all()
    assert (forward.patterns == backward.patterns[:, ::-1]).all()


def test_a_table_of_nothing():
    with pytest.raises(MeasurementError) as caught:
        CountTable(("a",), np.ones((1, 1), dtype=bool), np.zeros((1, 2, 2), dtype=np.int64))
    assert str(caught.value) == "cells: there are no rows. Check the split."


def test_a_table_cannot_be_changed():
    table = CountTable.tally([0, 1], [0, 1], ["a", "b"])
    with pytest.raises(ValueError, match="read-only"):
        table.cells[0] = 0
    with pytest.raises(AttributeError):
        table.groups = ()


PATTERNS = np.eye(2, dtype=bool)


def test_cells_without_missing_predictions_may_have_two_columns():
    cells = np.arange(8).reshape(2, 2, 2)
    table = CountTable(("a", "b"), PATTERNS, cells)
    assert table.cells.shape == (2, 2, 3)
    assert (table.cells[..., :2] == cells).all()
    assert not table.cells[..., 2].any()


@pytest.mark.parametrize(
    ("patterns", "cells", "message"),
    [
        (
            PATTERNS,
            np.ones((2, 3, 2), dtype=int),
            "cells: must be numbers of rows by [pattern, y, ŷ]; got 'shape (2, 3, 2), dtype "
            "int64'; allowed: integers of shape (2, 2, 3).",
        ),
        (
            PATTERNS,
            np.ones((2, 2, 3)),
            "cells: must be numbers of rows by [pattern, y, ŷ]; got 'shape (2, 2, 3), dtype "
            "float64'; allowed: integers of shape (2, 2, 3).",
        ),
        (PATTERNS, -np.ones((2, 2, 3), dtype=int), "cells: must not be negative; got -1."),
        (
            np.ones((2, 3), dtype=bool),
            np.ones((2, 2, 3), dtype=int),
            "patterns: needs one boolean column per group; got 'shape (2, 3), dtype bool'; "
            "allowed: shape (P, 2), dtype bool.",
        ),
        (
            np.eye(2),
            np.ones((2, 2, 3), dtype=int),
            "patterns: needs one boolean column per group; got 'shape (2, 2), dtype float64'; "
            "allowed: shape (P, 2), dtype bool.",
        ),
    ],
)
def test_tables_made_by_hand_are_checked(patterns, cells, message):
    with pytest.raises(MeasurementError) as caught:
        CountTable(("a", "b"), patterns, cells)
    assert str(caught.value) == message
