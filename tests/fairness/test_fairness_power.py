"""The smallest gap that rows can show: against formulas, and what makes it larger."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from mergekit_fair.fairness import MetricSettings, measure
from mergekit_fair.fairness.power import Assumed, Detectable, Study, detectable

TOLERANCE = 0.06  # of a size: 2,000 normal samples have no more than that
SETTINGS = MetricSettings(min_group_size=30)
normal = NormalDist().inv_cdf


def rows(*sizes: int, positive: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups, the first positive * size rows of each being 1."""
    labels = np.concatenate([np.arange(n) < positive * n for n in sizes]).astype(int)
    return labels, np.repeat([f"g{number}" for number in range(len(sizes))], sizes)


def found(labels: np.ndarray, groups: Any, **more: Any) -> Detectable:
    study = Study.of(labels, groups, more.pop("settings", SETTINGS), **more)
    return detectable(study, Assumed.of(0.5), tests=15)


def test_two_groups_are_a_difference_of_two_rates() -> None:
    """|e₁ − e₂| has its 97.5 % quantile at z(0.9875); 80 % of estimates lie above −z(0.8)."""
    n = 2_000
    (one,) = found(*rows(n, n)).dpd  # both are the smallest, and the largest
    error = np.sqrt(2 * 0.25 / n)
    expected = (normal(1 - 0.025 / 2) + normal(0.8)) * error
    assert one.gap == pytest.approx(expected, rel=TOLERANCE)
    assert one.rows == n


def test_four_times_the_rows_show_half_the_gap() -> None:
    few, many = (found(*rows(n, 3 * n, 3 * n)) for n in (300, 1_200))
    for metric in ("dpd", "eod"):
        for one, other in zip(getattr(few, metric), getattr(many, metric), strict=True):
            assert one.gap / 2 == pytest.approx(other.gap, rel=0.1)  # rates are not 0.5 throughout
            assert one.difference / 2 == pytest.approx(other.difference, rel=0.1)


def test_a_cluster_of_m_equal_rows_is_a_row() -> None:
    labels, groups = rows(4_000, 4_000)
    whole = found(labels, groups).dpd[0].gap
    clusters = np.arange(8_000) // 4
    clustered = found(labels, groups, clusters=clusters, correlation=1.0)
    assert clustered.dpd[0].gap == pytest.approx(2 * whole, rel=TOLERANCE)
    assert clustered.assumed.intracluster_correlation == 1.0
    alone = found(labels, groups, clusters=np.arange(8_000), correlation=1.0)
    assert alone.dpd == found(labels, groups).dpd


def test_weights_cost_rows() -> None:
    labels, groups = rows(1_000, 1_000)
    weights = np.where(np.arange(2_000) % 2, 1.0, 9.0)  # (Σw)² / Σw² = 0.61 n
    plain, weighted = found(labels, groups).dpd[0], found(labels, groups, weights=weights).dpd[0]
    assert weighted.gap / plain.gap == pytest.approx(np.sqrt(82 / 50), rel=TOLERANCE)
    assert found(labels, groups, weights=np.full(2_000, 3.0)).dpd[0] == plain


def test_who_decides_is_who_is_looked_at() -> None:
    labels, groups = rows(25, 600, 900)
    assert [one.group for one in found(labels, groups).dpd] == ["g1", "g2"]
    settings = MetricSettings(min_group_size=30, exclude=("g2",))
    assert found(labels, groups, settings=settings).dpd == []
    positive = found(*rows(40, 600, positive=0.5))  # 20 positives of g0 decide nothing
    assert positive.dpd
    assert positive.eod == []


def test_nothing_is_shown_by_a_handful_of_rows() -> None:
    one = found(*rows(*[2] * 20), settings=MetricSettings()).dpd[0]
    assert (one.gap, one.difference) == (None, None)
    few = found(*rows(5, 6))
    assert few.dpd == []
    assert Detectable.model_validate_json(few.model_dump_json()) == few


def test_models_that_agree_show_smaller_differences() -> None:
    study = Study.of(*rows(400, 2_000), SETTINGS)
    sizes = [
        detectable(study, Assumed.of(0.5, agreement=agreement), tests=15).dpd[0].difference
        for agreement in (0.7, 0.9, 0.99)
    ]
    assert sizes == sorted(sizes, reverse=True)
    fewer = detectable(study, Assumed.of(0.5, agreement=0.7), tests=1).dpd[0].difference
    assert fewer < sizes[0]


def test_measure_finds_it_in_four_samples_of_five() -> None:
    """Samples as `detectable` takes them, through the tool's own test."""
    labels, groups = rows(150, 700, 700)
    size = found(labels, groups).dpd[0].gap
    share = (groups == "g0").mean()
    rates = 0.5 - size * share + size * (groups == "g0")
    rng = np.random.default_rng(0)
    seen = [
        measure(labels, (rng.random(len(rates)) < rates).astype(int), groups, draws=300)
        .uncertainty["dpd"]
        .distinguishable_from_0
        for _ in range(40)
    ]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.19)  # three standard errors
