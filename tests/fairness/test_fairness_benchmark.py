"""Scores that are formulas of means: values, jackknife, clusters, ranges, pairs and claims."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark import Benchmark, BenchmarkMetric, BenchmarkRows, mean_of
from mergekit_fair.fairness.benchmark_pairs import compare_benchmark
from mergekit_fair.fairness.benchmark_scores import MIN_CLUSTERS, measure_benchmark
from mergekit_fair.fairness.claims import judged

PRODUCT = BenchmarkMetric(
    "bias",
    "bias",
    lambda means: (1 - means["acc"]) * (2 * means["said"] - 1),
    ("acc", "said"),
    "zero",
    (-1.0, 1.0),
    by_group=True,
    range_title="range of bias",
)
ACC = mean_of("acc", "accuracy", better="higher", by_group=True, range_title="range")
BENCHMARK = Benchmark("made", (ACC, PRODUCT))
SETTINGS = MetricSettings(min_group_size=5, draws=200)


def documents(n: int = 240, seed: int = 0, clusters: int = 24) -> dict[str, Any]:
    """Answers of a model, groups and clusters; every third document says nothing of `said`."""
    rng = np.random.default_rng(seed)
    cluster = np.arange(n) % clusters
    chance = 0.5 + 0.3 * np.sin(cluster)
    columns = [
        {
            "acc": int(rng.random() < p),
            "said": None if row // 24 % 3 == 0 else int(rng.random() < 0.6),
        }
        for row, p in enumerate(chance)
    ]
    groups = ["abc"[number % 3] for number in cluster]
    return {"columns": columns, "groups": groups, "clusters": cluster.tolist()}


def rows(**changes: Any) -> BenchmarkRows:
    return BenchmarkRows.of(BENCHMARK, **{**documents(), **changes})


def by_hand(found: list[dict[str, Any]]) -> tuple[float, float]:
    acc = np.mean([each["acc"] for each in found])
    said = np.mean([each["said"] for each in found if each["said"] is not None])
    return float(acc), float((1 - acc) * (2 * said - 1))


def test_values_by_hand() -> None:
    given = documents()
    measured = measure_benchmark(rows(), SETTINGS)
    acc, bias = by_hand(given["columns"])
    assert measured.metrics["acc"].value == pytest.approx(acc)
    assert measured.metrics["bias"].value == pytest.approx(bias)
    for name in "abc":
        part = [c for c, g in zip(given["columns"], given["groups"], strict=True) if g == name]
        found = measured.groups[name].metrics
        assert [found["acc"].value, found["bias"].value] == pytest.approx(list(by_hand(part)))
        assert measured.groups[name].n == len(part)
        assert measured.groups[name].clusters == 8
    values = {name: one.metrics["bias"].value or 0.0 for name, one in measured.groups.items()}
    spread = max(values.values()) - min(values.values())
    assert measured.metrics["bias_range"].value == pytest.approx(spread)
    deciding = measured.deciding["bias_range"]
    assert deciding.highest == max(values, key=lambda name: values[name])
    assert deciding.lowest == min(values, key=lambda name: values[name])


def test_moves_are_those_of_leaving_a_cluster_out() -> None:
    given, sums = documents(), rows().sums()
    moves = sums.moves(PRODUCT)
    whole = by_hand(given["columns"])[1]
    for position, cluster in enumerate(sorted(range(24), key=str)):  # names are texts
        rest = [c for c, k in zip(given["columns"], given["clusters"], strict=True) if k != cluster]
        expected = (whole - by_hand(rest)[1]) * np.sqrt(23 / 24)
        assert moves[position] == pytest.approx(expected, abs=1e-12)


def test_clusters_of_one_document_are_none() -> None:
    plain = rows(clusters=None)
    assert rows(clusters=[f"row {row}" for row in range(240)]).clusters is None
    assert measure_benchmark(plain, SETTINGS).if_rows_were_independent == {}
    alone = measure_benchmark(plain, SETTINGS).metrics["acc"]
    of_rows = measure_benchmark(rows(), SETTINGS).if_rows_were_independent["acc"]
    assert (of_rows.low, of_rows.high) == (alone.low, alone.high)
    clustered = measure_benchmark(rows(), SETTINGS).metrics["acc"]
    assert clustered.high - clustered.low > 1.5 * (alone.high - alone.low)  # type: ignore[operator]


def test_order_changes_nothing() -> None:
    given, order = documents(), np.random.default_rng(3).permutation(240).tolist()
    shuffled = {key: [values[row] for row in order] for key, values in given.items()}
    expected = measure_benchmark(rows(), SETTINGS).to_dict()
    found = measure_benchmark(rows(**shuffled), SETTINGS).to_dict()
    assert found["deciding"] == expected["deciding"]
    for name, interval in expected["metrics"].items():
        assert found["metrics"][name] == pytest.approx(interval, abs=1e-9)
    again = BenchmarkRows.of(BENCHMARK, keys=order, **shuffled).in_order(range(240))
    assert np.array_equal(again.values, rows().values, equal_nan=True)


def test_weights_count_as_often() -> None:
    given = documents()
    weights = [1 + row % 2 for row in range(240)]
    twice = {
        key: [v for v, w in zip(values, weights, strict=True) for _ in range(w)]
        for key, values in given.items()
    }
    weighted = measure_benchmark(rows(weights=weights), SETTINGS)
    repeated = measure_benchmark(rows(**twice), SETTINGS)
    assert weighted.weighted
    assert weighted.metrics["bias"].value == pytest.approx(repeated.metrics["bias"].value)
    assert weighted.metrics["bias"].low == pytest.approx(repeated.metrics["bias"].low)


def test_who_decides_a_range() -> None:
    given = documents()
    few = [
        f"d{k % 2}" if g == "a" and k < 3 * (MIN_CLUSTERS - 1) else g
        for g, k in zip(given["groups"], given["clusters"], strict=True)
    ]
    measured = measure_benchmark(rows(groups=few), SETTINGS)
    assert measured.groups["d0"].clusters == 2
    assert set(measured.deciding["acc_range"].groups) <= {"b", "c"}
    large = replace(SETTINGS, min_group_size=100)
    undefined = measure_benchmark(rows(), large)
    assert undefined.metrics["acc_range"].value is None
    assert any("fewer than two groups have 100 documents" in w for w in undefined.warnings)
    left_out = measure_benchmark(rows(), SETTINGS.excluding(["a"]))
    assert "a" not in left_out.deciding["acc_range"].groups


def test_what_one_cluster_decides_has_no_limits() -> None:
    given = documents(n=40, clusters=2)
    columns = [
        {**c, "said": c["said"] if k == 0 else None}
        for c, k in zip(given["columns"], given["clusters"], strict=True)
    ]
    measured = measure_benchmark(rows(**{**given, "columns": columns}), SETTINGS)
    bias = measured.metrics["bias"]
    assert bias.value is not None
    assert (bias.low, bias.high) == (None, None)
    assert any("bias: one cluster alone" in text for text in measured.warnings)


def test_documents_that_say_nothing() -> None:
    columns = [{} if row < 4 else each for row, each in enumerate(documents()["columns"])]
    measured = measure_benchmark(rows(columns=columns), SETTINGS)
    assert any("4 of 240 documents have no answer" in text for text in measured.warnings)
    silent = measure_benchmark(rows(columns=[{"acc": 1}] * 240), SETTINGS)
    assert silent.metrics["bias"].value is None
    assert any("bias: no document says" in text for text in silent.warnings)


def test_differences_are_paired_and_symmetric() -> None:
    first, second = rows(), rows(columns=documents(seed=1)["columns"])
    there, back = (
        compare_benchmark(a, b, SETTINGS).metrics for a, b in ((first, second), (second, first))
    )
    for name, gap in there.items():
        other = back[name]
        assert gap.value == pytest.approx(-(other.value or 0.0))
        assert gap.low == pytest.approx(-(other.high or 0.0))
        assert gap.p_value == pytest.approx(other.p_value)
    same = compare_benchmark(first, first, SETTINGS)
    for gap in same.metrics.values():
        assert gap.value == 0
        assert gap.p_value == 1
        assert (gap.low or 0.0) <= 0 <= (gap.high or 0.0)
    apart = measure_benchmark(first, SETTINGS).metrics["acc"]
    width = (same.metrics["acc"].high or 0.0) - (same.metrics["acc"].low or 0.0)
    assert width < 0.5 * ((apart.high or 0.0) - (apart.low or 0.0))


def test_other_documents_are_refused() -> None:
    first = rows()
    for changes in (
        {"groups": ["a"] * 240},
        {"clusters": None},
        {"clusters": [k // 2 for k in documents()["clusters"]]},
        {"weights": [1.0, 2.0] * 120},
        {"keys": list(range(1, 241))},
    ):
        with raises(MeasurementError, "the same documents", where="benchmark made"):
            compare_benchmark(first, rows(**changes), SETTINGS)
    with raises(MeasurementError, got="239 in common of 240 and 240"):
        rows(keys=list(range(1, 241))).in_order(range(240))
    with raises(MeasurementError, "unknown column 'ac'"):
        BenchmarkRows.of(BENCHMARK, [{"ac": 1}], ["a"])
    with raises(MeasurementError, "infinite"):
        BenchmarkRows.of(BENCHMARK, [{"acc": float("inf")}], ["a"])


def test_claims_are_corrected_over_everything() -> None:
    better = [{**each, "acc": 1} for each in documents()["columns"]]
    first, second = rows(), rows(columns=better)
    found = compare_benchmark(first, second, SETTINGS)
    alone = judged({}, 0.95, {"one": found})["one"]
    assert alone["acc"].claimed
    assert alone["acc"].adjusted_p_value == pytest.approx(4 * found.metrics["acc"].p_value)  # type: ignore[operator]
    many = judged({}, 0.95, {str(number): found for number in range(5)})["0"]
    assert many["acc"].adjusted_p_value == pytest.approx(20 * found.metrics["acc"].p_value)  # type: ignore[operator]
    near = replace(found, near_0=frozenset(found.metrics))
    withheld = judged({}, 0.95, {"one": near})["one"]["acc"]
    assert not withheld.claimed
    assert "near 0" in str(withheld.withheld)
