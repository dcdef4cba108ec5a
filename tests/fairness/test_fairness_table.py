"""One row a metric: everything that lists metrics follows the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mergekit_fair.fairness import METRICS, compare, estimate, measure
from mergekit_fair.fairness.grouped import Grouped
from mergekit_fair.fairness.metric_kinds import Gap, Metric
from mergekit_fair.fairness.metrics import (
    COMPARED,
    GROUP_RATES,
    HEADLINE,
    LOWER_IS_BETTER,
    MATCHED,
)
from mergekit_fair.fairness.settings import REFERENCES


@pytest.fixture(scope="module")
def rows() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(5)
    y_true = rng.integers(0, 2, 200)
    y_pred = np.where(rng.random(200) < 0.7, y_true, 1 - y_true)
    return y_true, y_pred, rng.choice(list("abc"), 200)


def test_every_metric_is_measured_estimated_and_explained(rows: Any) -> None:
    measured = measure(*rows, draws=50).metrics
    points = estimate(*rows)
    assert list(points) == list(METRICS)
    assert list(measured) == [name for name, metric in METRICS.items() if not metric.is_point]
    for name, interval in measured.items():
        assert interval.value == pytest.approx(points[name], abs=1e-12)
        assert interval.low is not None
        assert interval.high is not None
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.title
        assert metric.description
        assert metric.undefined
        assert metric.explained_where in (None, *METRICS)


def test_flags_pick_the_metrics(rows: Any) -> None:
    assert HEADLINE == ("acc", "dpd", "eod")
    assert set(HEADLINE) <= set(MATCHED) <= set(METRICS)
    assert list(compare(*rows[:2], *rows[1:], draws=50).metrics) == list(COMPARED)
    assert {"dpd", "eod", "equal_opportunity", "fpr", "unanswered"} <= LOWER_IS_BETTER
    assert not {"acc", "selection_rate", "dp_ratio"} & LOWER_IS_BETTER


def test_rates_by_group_follow_their_table(rows: Any) -> None:
    for group in measure(*rows, draws=20).to_dict()["groups"].values():
        assert list(group) == ["n", "n_pos", *GROUP_RATES, "unanswered"]


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_metric_of_many_tables_is_that_of_each(reference: str) -> None:
    from mergekit_fair.fairness.eligible_groups import EligibleGroups, GroupSizes

    rng = np.random.default_rng(2)
    groups = rng.integers(0, 4, (30, 3, 2, 3))
    overall = groups.sum(axis=1) + rng.integers(0, 3, (30, 2, 3))
    rows = np.full((3, 2), 9)
    sizes = GroupSizes(("a", "b", "c"), rows, rows, np.array([False, False, True]), 1)
    eligible = EligibleGroups(sizes, np.ones((3, 2, 3)), is_answered=True)
    for metric in METRICS.values():
        together = metric.values(Grouped(groups, overall), eligible, reference)
        alone = [
            metric.values(Grouped(*draw), eligible, reference)
            for draw in zip(groups, overall, strict=True)
        ]
        np.testing.assert_array_equal(together, alone)
        assert ((together >= 0) & (together <= 1) | np.isnan(together)).all()


def test_a_row_without_its_numbers_is_no_metric() -> None:
    with pytest.raises(TypeError):
        Metric(name="x", title="x", description="x", better=None, undefined="")  # type: ignore[abstract]
    assert {name for name, metric in METRICS.items() if isinstance(metric, Gap)} >= {"dpd", "eod"}
