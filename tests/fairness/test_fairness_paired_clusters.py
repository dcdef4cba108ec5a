"""Two models on the same clusters: whole ones are resampled; p-values know how few there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mergekit_fair.fairness import compare, compare_many
from mergekit_fair.fairness.clusters import students

N, K = 400, 60


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, K, N)
    y = rng.integers(0, 2, N)
    luck = rng.normal(size=K)[cluster] + rng.normal(size=N)
    return {
        "y_true": y,
        "y_pred_a": (luck + y > 0.4).astype(int),
        "y_pred_b": (0.7 * luck + 0.7 * rng.normal(size=N) + y > 0.6).astype(int),
        "groups": rng.choice(["a", "b", "c"], N),
        "clusters": cluster,
    }


def test_a_cluster_for_every_row_is_none(rows: dict[str, Any]) -> None:
    plain = compare(**{**rows, "clusters": None}, draws=200).to_dict()
    assert compare(**{**rows, "clusters": np.arange(N)}, draws=200).to_dict() == plain


def test_b_minus_a_is_the_opposite_of_a_minus_b(rows: dict[str, Any]) -> None:
    turned = {**rows, "y_pred_a": rows["y_pred_b"], "y_pred_b": rows["y_pred_a"]}
    found, other = (compare(**each, draws=200).to_dict() for each in (rows, turned))
    for name, one in found.items():
        two = other[name]
        assert one["value"] == 0.0 - two["value"]  # type: ignore[operator]
        assert (one["low"], one["high"]) == (-two["high"], -two["low"])  # type: ignore[operator]
        assert one["p_value"] == two["p_value"]


def test_changing_places_within_clusters_is_the_same_question() -> None:
    """As many rows of either kind over all, in other clusters: still exact opposites."""
    y = np.array([1, 1, 0, 0, 1, 1, 0, 0] * 10)
    a = np.array([1, 0, 0, 0, 0, 1, 0, 0] * 10)
    b = np.array([0, 1, 0, 0, 1, 0, 0, 0] * 10)
    cluster = np.repeat(np.arange(20), 4)
    cluster[:3] = 19
    groups = ["x", "y"] * 40
    one = compare(y, a, b, groups, clusters=cluster, draws=200).to_dict()
    two = compare(y, b, a, groups, clusters=cluster, draws=200).to_dict()
    for name in one:
        if one[name]["low"] is not None:
            assert one[name]["low"] == -two[name]["high"], name  # type: ignore[operator]


def test_copies_tell_nothing_new(rows: dict[str, Any]) -> None:
    single = {**rows, "clusters": None}
    tenfold = {key: np.repeat(rows[key], 10) for key in rows if key != "clusters"}
    copied = compare(**tenfold, clusters=np.repeat(np.arange(N), 10), draws=1000)
    plain, naive = compare(**single, draws=1000), compare(**tenfold, draws=1000)
    for name in ("acc", "dpd", "eod", "selection_rate"):
        widths = [
            each.metrics[name].high - each.metrics[name].low  # type: ignore[operator]
            for each in (copied, plain, naive)
        ]
        assert widths[0] == pytest.approx(widths[1], rel=0.2), name
        assert widths[2] < 0.75 * widths[1], name
    found, least = copied.metrics["acc"].p_value, naive.metrics["acc"].p_value
    assert found is not None
    assert least is not None
    assert found >= least


def test_p_values_of_few_clusters_are_students() -> None:
    assert students(0.05, 11) == pytest.approx(0.0784, abs=1e-4)
    assert students(1.0, 5) == 1.0


@pytest.mark.slow
def test_luck_of_clusters_is_no_win() -> None:
    """Neither model is better; in a cluster one of them happens to be."""
    wins = {"clusters": 0, "rows": 0}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(50), 12)
        group, y = cluster % 2, rng.integers(0, 2, 600)
        better = rng.random(50)[cluster] < 0.5
        a, b = (
            np.where(rng.random(600) < np.where(its, 0.9, 0.6), y, 1 - y)
            for its in (better, ~better)
        )
        for name, clusters in (("clusters", cluster), ("rows", None)):
            p_value = compare(y, a, b, group, clusters=clusters, draws=400).metrics["acc"].p_value
            assert p_value is not None
            wins[name] += p_value <= 0.05
    assert wins["clusters"] <= 6
    assert wins["rows"] >= 8


def test_many_models_have_the_same_clusters(rows: dict[str, Any]) -> None:
    predictions = {"a": rows["y_pred_a"], "b": rows["y_pred_b"]}
    found = compare_many(
        rows["y_true"], predictions, rows["groups"], baseline="a", clusters=rows["clusters"],
        draws=200,
    )  # fmt: skip
    assert found.differences["b"] == compare(**rows, draws=200)
