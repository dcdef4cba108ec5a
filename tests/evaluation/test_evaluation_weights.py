"""One weight's walk: samples → predictions → evaluations, comparisons and sweeps; or a refusal."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from refusals import raises

from mergekit_fair.errors import ConfigError, MeasurementError
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.compare_runs import _paired
from mergekit_fair.evaluation.evaluate import evaluate
from mergekit_fair.evaluation.levels import Level
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark_scores import measure_benchmark
from mergekit_fair.sweep.differences import differences
from mergekit_fair.sweep.preparation import _require_no_weights

SETTINGS = MetricSettings(draws=20)


def predictions(seed: int = 0, n: int = 80) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).astype(np.int8)
    gaps = rng.normal(size=n) + labels - 0.5
    masks = {name: rng.random(n) < 0.5 for name in "ab"}
    rows = Predictions("task", tuple(range(n)), labels, labels, masks, ())
    return replace(rows.with_scores(gaps), weights=rng.integers(1, 5, n).astype(float))


def repeated(rows: Predictions) -> Predictions:
    assert rows.weights is not None
    assert rows.logit_gaps is not None
    at = np.repeat(np.arange(len(rows)), rows.weights.astype(int))
    return Predictions(
        rows.task, tuple(range(len(at))), rows.labels[at], rows.predicted[at],
        {name: mask[at] for name, mask in rows.groups.items()}, (), rows.logit_gaps[at],
    )  # fmt: skip


def samples(weights: list[Any]) -> list[dict[str, Any]]:
    return [
        {"doc_id": i, "doc": {"groups": ["a"], **({} if w is None else {"weight": w})},
         "dpd": (i % 2, 1, ["a"]), "filtered_resps": []}
        for i, w in enumerate(weights)
    ]  # fmt: skip


def test_samples_carry_weights() -> None:
    found = Predictions.of_samples("t", samples([1.0, 2.0, 0.5]))
    assert found.weights is not None
    assert found.weights.tolist() == [1.0, 2.0, 0.5]
    assert Predictions.of_samples("t", samples([None, None])).weights is None
    with raises(MeasurementError, "1 of 3 samples have no `weight`", where="t"):
        Predictions.of_samples("t", samples([1.0, None, 1.0]))
    with raises(MeasurementError, "row 1", where="weights"):
        Predictions.of_samples("t", samples([1.0, -1.0]))


def test_an_evaluation_of_weights_is_that_of_repeated_rows() -> None:
    rows = predictions()
    level = Level("labels", rows.base_rate)
    assert rows.base_rate == repeated(rows).base_rate
    found, expected = (
        evaluate(r, SETTINGS, model="m", split="s", level=level) for r in (rows, repeated(rows))
    )
    assert found.weighted
    assert found.to_dict()["weighted"] is True
    assert "weighted" not in expected.to_dict()
    assert found.level_matched is not None
    assert expected.level_matched is not None
    assert found.level_matched.threshold == expected.level_matched.threshold
    for name, interval in expected.metrics.items():
        assert found.metrics[name].value == interval.value, name
    for name in ("acc", "dpd", "eod", "bal_acc", "selection_rate"):
        one, other = (getattr(each.level_matched, name) for each in (found, expected))
        assert one.value == other.value, name
    assert type(found).from_dict(found.to_dict()) == found


def test_preferences_are_weighed() -> None:
    kinds = [(1, "age"), (0, "age"), (1, "race"), (0, "race")]
    said = [
        {"doc_id": row, "preference_gap": item, "doc": {"weight": w}}
        for row, (item, w) in enumerate(zip(kinds, (3.0, 1.0, 1.0, 1.0), strict=True))
    ]
    rows = benchmark_rows("t", said)
    assert rows is not None
    found = measure_benchmark(rows, SETTINGS)
    rates = {kind: one.metrics["pct_stereotype"].value for kind, one in found.groups.items()}
    assert rates == {"age": 0.75, "race": 0.5}
    assert found.weighted


def test_compared_runs_have_the_same_weights() -> None:
    first, second = predictions(0), predictions(1)
    second = replace(first, predicted=second.predicted, logit_gaps=None)
    found = _paired({"a": first, "b": second}, "a", SETTINGS)
    same = {"a": repeated(first), "b": _repeated_like(first, second)}
    plain = _paired(same, "a", SETTINGS)
    assert (found.is_weighted, plain.is_weighted) == (True, False)
    for name, entry in plain.evidence["b"].own.items():
        assert found.evidence["b"].own[name].value == entry.value
    assert first.weights is not None
    for weights in (None, first.weights + 1):
        with raises(MeasurementError, "other labels, groups, weights or clusters"):
            _paired({"a": first, "b": replace(second, weights=weights)}, "a", SETTINGS)


def _repeated_like(first: Predictions, second: Predictions) -> Predictions:
    assert first.weights is not None
    at = np.repeat(np.arange(len(first)), first.weights.astype(int))
    return replace(repeated(first), predicted=second.predicted[at], logit_gaps=None)


def test_what_a_sweep_says_of_its_choice_is_weighed() -> None:
    chosen = predictions(2)
    other = replace(chosen, predicted=predictions(3).predicted, logit_gaps=None)
    found = differences(chosen, {"fft": other}, SETTINGS).judged["fft"]
    expected = differences(repeated(chosen), {"fft": _repeated_like(chosen, other)}, SETTINGS)
    for name, entry in expected.judged["fft"].items():
        assert found[name].value == entry.value


def test_what_counts_rows_refuses_weights() -> None:
    rows = predictions()
    select = SimpleNamespace(split="validation")
    config = SimpleNamespace(search=SimpleNamespace(method="surrogate"), select=select)
    sweep: Any = SimpleNamespace(where="sweep.yml", config=config)

    def evaluator(weights: Any) -> Any:
        labels = {"task": replace(rows, weights=weights)}
        return SimpleNamespace(tasks=("task",), labels=lambda split: labels)  # noqa: ARG005

    with raises(ConfigError, "takes no weights", where="sweep.yml: search.method: surrogate"):
        _require_no_weights(sweep, evaluator(rows.weights))
    _require_no_weights(sweep, evaluator(None))
    _require_no_weights(sweep, evaluator(np.full(len(rows), 2.0)))
    sweep.config = SimpleNamespace(search=SimpleNamespace(method="optuna"), select=select)
    _require_no_weights(sweep, evaluator(rows.weights))
