"""Clusters: whole ones are resampled, and intervals know how few independent things there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import (
    METRICS,
    CountTable,
    MetricSettings,
    grouped,
    measure,
    measure_classes,
    measure_labels,
    measure_scores,
    score_quality,
)
from mergekit_fair.fairness.clusters import cluster_codes, widened
from mergekit_fair.fairness.intervals import Samples
from mergekit_fair.fairness.smoothing import resampled

N, K = 400, 60


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    """400 rows of 60 clusters that share half of their luck; groups lie across clusters."""
    rng = np.random.default_rng(0)
    cluster, group = rng.integers(0, K, N), rng.choice(["a", "b", "c"], N)
    y = rng.integers(0, 2, N)
    luck = rng.normal(size=K)[cluster] + rng.normal(size=N)
    return {
        "y_true": y,
        "y_pred": (luck + y > 0.4).astype(int),
        "groups": group,
        "clusters": cluster,
        "scores": luck + y,
    }


def binary(rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: rows[key] for key in ("y_true", "y_pred", "groups", "clusters")} | changes


def test_codes() -> None:
    assert cluster_codes(None, 3) is None
    assert cluster_codes([7, 7.0, "7", np.nan], 4).tolist() == [0, 0, 0, 1]  # type: ignore[union-attr]
    assert cluster_codes(np.array([1.0, np.nan, 1.0, np.nan]), 4).tolist() == [0, 1, 0, 2]  # type: ignore[union-attr]
    assert cluster_codes(np.array(["x", "nan", "x", "nan"]), 4).tolist() == [0, 1, 0, 2]  # type: ignore[union-attr]
    assert cluster_codes([None, None], 2) is None
    with raises(MeasurementError, "one cluster per row", where="clusters"):
        cluster_codes(["a"], 2)
    with raises(MeasurementError, "one alone", where="clusters"):
        measure([0, 1, 1, 0], [0, 1, 1, 0], ["a", "a", "b", "b"], clusters=["x"] * 4)


def test_a_cluster_for_every_row_is_none(rows: dict[str, Any]) -> None:
    plain = measure(**binary(rows, clusters=None), draws=50).to_dict()
    assert "clusters" not in plain
    for clusters in (np.arange(N), [f"row {row}" for row in range(N)], [None] * N):
        assert measure(**binary(rows, clusters=clusters), draws=50).to_dict() == plain


def test_neither_names_nor_the_order_of_rows_decide(rows: dict[str, Any]) -> None:
    found = measure(**binary(rows), draws=50).to_dict()
    assert found["clusters"] == K
    renamed = [f"{(7 * code) % K:02d}" for code in rows["clusters"]]
    assert measure(**binary(rows, clusters=renamed), draws=50).to_dict() == found
    order = np.random.default_rng(1).permutation(N)
    mixed = {key: values[order] for key, values in binary(rows).items()}
    assert measure(**mixed, draws=50).to_dict() == found


def test_draws_are_whole_clusters(rows: dict[str, Any]) -> None:
    """Mean and covariance of the sums are those of K − 1 of K clusters."""
    table = CountTable.tally(**binary(rows))
    assert table.clusters is not None
    assert len(table.clusters) == K
    draws = 20_000
    drawn = resampled(table, draws, seed=1).groups.reshape(draws, -1)
    held = np.zeros((K, 3, 2, 3))
    for row in range(N):
        place = rows["clusters"][row], "abc".index(rows["groups"][row])
        held[(*place, rows["y_true"][row], rows["y_pred"][row])] += 1
    flat = held.reshape(K, -1)
    assert drawn.mean(axis=0) == pytest.approx((K - 1) * flat.mean(axis=0), rel=0.02)
    expected = (K - 1) * np.cov(flat.T, ddof=0)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    error = np.abs(np.cov(drawn.T) - expected)[scale > 0] / scale[scale > 0]
    assert error.max() < 0.05  # 5 standard errors


def test_draws_do_not_depend_on_what_fits_into_memory(
    rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = CountTable.tally(**binary(rows))
    whole = Samples.of(table, MetricSettings(draws=40))
    monkeypatch.setattr(grouped, "_AT_ONCE", 7 * K)
    parts = Samples.of(table, MetricSettings(draws=40))
    assert (whole.drawn.groups == parts.drawn.groups).all()
    # Smoothed rows are no whole numbers: kernels add up blocks of other widths otherwise.
    assert whole.smooth_drawn.groups == pytest.approx(parts.smooth_drawn.groups, rel=1e-12)


def test_copies_tell_nothing_new(rows: dict[str, Any]) -> None:
    """Ten copies of every row are as sure as the rows, if they are said to be of one cluster."""
    single = binary(rows, clusters=None)
    tenfold = {key: np.repeat(single[key], 10) for key in ("y_true", "y_pred", "groups")}
    copied = measure(**tenfold, clusters=np.repeat(np.arange(N), 10))
    plain, naive = measure(**single), measure(**tenfold)
    for name in ("acc", "selection_rate", "dpd", "eod", "worst_group_acc", "bal_acc"):
        widths = []
        for result in (copied, plain, naive):
            interval = result.metrics[name]
            assert interval.value == pytest.approx(plain.metrics[name].value)
            assert interval.low is not None
            assert interval.high is not None
            widths.append(interval.high - interval.low)
        assert widths[0] == pytest.approx(widths[1], rel=0.12), name
        assert widths[2] < 0.7 * widths[1], name


def test_effective_rows_are_never_more_than_rows() -> None:
    """Clusters that balance out vary less than chance does; that is luck, not knowledge."""
    y_pred = np.tile([0, 1], 200)
    y_true = np.ones(400, dtype=int)
    groups = np.repeat(["a", "b"], 200)
    pairs = measure(y_true, y_pred, groups, clusters=np.repeat(np.arange(200), 2))
    plain = measure(y_true, y_pred, groups)
    found, least = pairs.metrics["acc"], plain.metrics["acc"]
    assert found.low is not None
    assert least.low is not None
    assert found.low <= least.low


def test_few_clusters_have_the_limits_of_students_t() -> None:
    assert widened(0.95, 1e9) == pytest.approx(0.95)
    assert widened(0.95, 11) == pytest.approx(0.97413, abs=1e-5)  # t = 2.2281 with 10 degrees
    assert 0.999 < widened(0.95, 2) <= 1
    assert widened(0.95, 1) == widened(0.95, 2)


def test_few_clusters_are_said(rows: dict[str, Any]) -> None:
    few = measure(**binary(rows, clusters=rows["clusters"] % 12), draws=20)
    assert few.clusters == 12
    assert any(text.startswith("12 clusters, fewer than 30") for text in few.warnings)
    groups = np.where(rows["clusters"] < 9, "few", rows["groups"])
    of_group = measure(**binary(rows, groups=groups), draws=20)
    assert any("'few' (9)" in text for text in of_group.warnings)


def test_a_group_whose_clusters_agree_has_an_interval_of_its_clusters() -> None:
    """Twelve clusters of ten rows that are all 0 say as much as twelve rows, not as 120."""
    sizes = [10] * 12 + [1] * 120
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    group = np.where(cluster < 12, "a", "b")
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 2, len(cluster))
    y_pred = np.where(group == "a", 0, rng.random(len(cluster)) < 0.1).astype(int)

    def high(clusters: Any) -> float:
        samples = Samples.of(
            CountTable.tally(y_true, y_pred, group, None, clusters), MetricSettings()
        )
        selected = samples.smooth_drawn.groups[:, 0, :, 1].sum(axis=1)
        return float(np.quantile(selected / samples.smooth_drawn.groups[:, 0].sum((1, 2)), 0.975))

    assert high(None) < 0.03
    assert 0.08 < high(cluster) < 0.3
    found = measure(y_true, y_pred, group, clusters=cluster, against="b").against
    assert found is not None
    limits = found.groups["a"]["selection_rate"]
    plain = measure(y_true, y_pred, group, against="b").against
    assert plain is not None
    assert limits.high is not None
    assert plain.groups["a"]["selection_rate"].high is not None
    assert limits.high > plain.groups["a"]["selection_rate"].high + 0.05


def test_whole_clusters_change_places_under_permutation() -> None:
    """Two groups of authors without any difference: 0.05 of runs, not most, call it a gap."""
    refused = {"clusters": 0, "rows": 0}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(5, 30, K)
        author = np.repeat(np.arange(K), sizes)
        group = np.where(author < K // 2, "a", "b")
        y_pred = (rng.random(len(author)) < rng.beta(0.5, 0.5, K)[author]).astype(int)
        y_true = rng.integers(0, 2, len(author))
        for name, clusters in (("clusters", author), ("rows", None)):
            chance = measure(y_true, y_pred, group, clusters=clusters, draws=60)
            null = chance.uncertainty["dpd"].null
            assert null is not None
            refused[name] += null.p_value <= 0.05
    assert refused["clusters"] <= 5
    assert refused["rows"] >= 15


def test_what_cannot_change_places_has_no_permutations(rows: dict[str, Any]) -> None:
    found = measure(**binary(rows), draws=50)
    for name in ("dpd", "eod"):
        assert found.uncertainty[name].null is None
        assert found.uncertainty[name].distinguishable_from_0 is None
    assert any("under permuted group labels are not drawn" in text for text in found.warnings)


def test_intervals_of_clusters_cover(rows: dict[str, Any]) -> None:
    """Authors of one group each, half of whose luck is their own; the gap is 0.2."""
    del rows
    covered = {"clusters": 0, "rows": 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        author = np.repeat(np.arange(80), 12)
        group = author % 3
        luck = np.sqrt(0.5) * (rng.normal(size=80)[author] + rng.normal(size=len(author)))
        y_pred = (luck > np.array([0.0, 0.2533, 0.5244])[group]).astype(int)  # .5, .4, .3
        y_true = rng.integers(0, 2, len(author))
        for name, clusters in (("clusters", author), ("rows", None)):
            table = CountTable.tally(y_true, y_pred, group, None, clusters)
            samples = Samples.of(table, MetricSettings(draws=50, seed=seed))
            interval = METRICS["selection_rate"].interval(samples)
            assert interval.low is not None
            assert interval.high is not None
            covered[name] += interval.low <= 0.4 <= interval.high
    assert covered["clusters"] >= 54
    assert covered["rows"] <= 46


def test_weights_and_clusters_go_together(rows: dict[str, Any]) -> None:
    """A row of weight 3 is as sure as three rows of its cluster."""
    weights = np.random.default_rng(2).integers(1, 4, N)
    weighted = measure(**binary(rows), weights=weights, draws=50)
    repeated = measure(
        **{key: np.repeat(values, weights) for key, values in binary(rows).items()}, draws=50
    )
    assert weighted.clusters == repeated.clusters == K
    for name in ("acc", "selection_rate", "tpr"):
        one, other = weighted.metrics[name], repeated.metrics[name]
        assert (one.low, one.high) == pytest.approx((other.low, other.high))
    zero = np.where(rows["clusters"] < 10, 0, 1)
    assert measure(**binary(rows), weights=zero, draws=20).clusters == K - 10


def test_scores_of_copies_are_as_sure_as_the_rows(rows: dict[str, Any]) -> None:
    score = 1 / (1 + np.exp(-rows["scores"]))
    single = (rows["y_true"], score, rows["groups"])
    tenfold = tuple(np.repeat(column, 10) for column in single)
    clusters = np.repeat(np.arange(N), 10)
    plain = score_quality(*single, probabilities=single[1])
    copied = score_quality(*tenfold, probabilities=tenfold[1], clusters=clusters)
    naive = score_quality(*tenfold, probabilities=tenfold[1])
    pairs = [
        (lambda found: found.auc),
        (lambda found: found.calibration),
        (lambda found: found.groups["a"].bpsn_auc),
        (lambda found: found.auc_gap),
        (lambda found: found.calibration_gap),
    ]
    for of in pairs:
        one, other, third = (of(found) for found in (copied, plain, naive))
        assert one.value == pytest.approx(other.value)
        assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.1)
        assert third.high - third.low < 0.7 * (other.high - other.low)
    means, once = (
        measure_scores(scores, groups, clusters=its).gap
        for (_, scores, groups), its in ((tenfold, clusters), (single, None))
    )
    assert means.value == pytest.approx(once.value)
    assert means.high - means.low == pytest.approx(once.high - once.low, rel=0.1)  # type: ignore[operator]


def test_views_share_their_clusters(rows: dict[str, Any]) -> None:
    classes = measure_classes(**binary(rows), draws=50)
    assert classes.clusters == K
    assert {view.clusters for view in classes.views.values()} == {K}
    plain = measure_classes(**binary(rows, clusters=None), draws=50)
    assert classes.acc.value == plain.acc.value
    one, other = classes.acc, plain.acc
    assert one.high - one.low > 1.1 * (other.high - other.low)  # type: ignore[operator]
    labels = {"p": rows["y_true"]}, {"p": rows["y_pred"]}
    found = measure_labels(*labels, rows["groups"], clusters=rows["clusters"], draws=50)
    assert found.views["p"].metrics["dpd"] == measure(**binary(rows), draws=50).metrics["dpd"]


@pytest.mark.parametrize("count", [300, 20_000])
def test_many_clusters_in_bounded_memory(count: int) -> None:
    rng = np.random.default_rng(0)
    n = 100_000
    cluster = rng.integers(0, count, n)
    y, group = rng.integers(0, 2, n), rng.integers(0, 8, n)
    found = measure(y, y, {str(g): group == g for g in range(8)}, clusters=cluster, draws=20)
    assert found.clusters == len(np.unique(cluster))
