"""Joint cells: whole rows are counted, and whole rows are resampled."""

import numpy as np
import pytest
from replicates import grouped, replicates

from mergekit_fair.fairness import CountTable
from mergekit_fair.fairness import grouped as grouped_module
from mergekit_fair.fairness.joint import JointTable


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, k, 300) for k in (2, 3, 3, 2)]
    members = [[g for g in "ab" if rng.random() < 0.5] for _ in range(300)]
    return columns, members


def as_dict(table):
    """(groups of the row, *its values) → count."""
    return {
        (
            tuple(np.array(table.patterns.names)[table.patterns.membership[pattern]]),
            *values.tolist(),
        ): int(count)
        for pattern, values, count in zip(table.pattern, table.columns, table.counts, strict=True)
    }


def by_hand(columns, members):
    found = {}
    for values in zip(map(tuple, members), *(column.tolist() for column in columns), strict=True):
        found[values] = found.get(values, 0) + 1
    return found


def test_tally(rows):
    table = JointTable.tally(*rows)
    assert table.n == 300
    assert as_dict(table) == by_hand(*rows)


def test_many_columns_of_large_codes_do_not_overflow():
    rng = np.random.default_rng(1)
    columns = [rng.integers(0, 1000, 200) for _ in range(12)]  # 10**36 combinations
    members = ["a"] * 200
    table = JointTable.tally(columns, members)
    assert as_dict(table) == by_hand(columns, [("a",)] * 200)


def test_cells_of_a_view_are_those_of_its_rows(rows):
    columns, members = rows
    table = JointTable.tally(*rows)
    for index in (1, 2):
        cells = table.table((table.columns[:, 0], table.columns[:, index])).cells
        values = [None if value == 2 else value for value in columns[index].tolist()]
        expected = CountTable.tally(columns[0], values, members)
        assert (cells == expected.cells).all()


def test_the_order_of_rows_does_not_matter(rows):
    columns, members = rows
    order = np.random.default_rng(2).permutation(300)
    first = JointTable.tally(columns, members)
    second = JointTable.tally([c[order] for c in columns], [members[row] for row in order])
    assert (first.columns == second.columns).all()
    assert (first.counts == second.counts).all()


def test_views_see_the_same_draws_whatever_fits_into_memory(rows, monkeypatch):
    table = JointTable.tally(*rows)
    views = [(table.columns[:, 0], table.columns[:, index]) for index in (1, 2)]
    whole = replicates(table.counts, 40, seed=5)
    for at_once in (2**21, 7 * len(table.counts), 1):
        monkeypatch.setattr(grouped_module, "_AT_ONCE", at_once)
        for (truth, predicted), found in zip(
            views, table.resampled(views, 40, seed=5), strict=True
        ):
            cells = np.zeros((40, len(table.patterns.membership), 2, 3), dtype=np.int64)
            for kind, pattern in enumerate(table.pattern):
                cells[:, pattern, truth[kind], predicted[kind]] += whole[:, kind]
            expected = grouped(cells, table.patterns.membership)
            assert (found.groups == expected.groups).all()
            assert (found.overall == expected.overall).all()
