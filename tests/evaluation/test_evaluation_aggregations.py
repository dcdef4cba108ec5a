"""The lm-eval aggregations, and the entry points that name them."""

from __future__ import annotations

import math
from importlib.metadata import entry_points

import pytest

from mergekit_fair.evaluation import aggregations
from mergekit_fair.evaluation.aggregations import (
    aggregation,
    gap_of_preferences,
    preference_rate,
    resized,
    score_aggregation,
)
from mergekit_fair.fairness import MetricSettings, measure, measure_scores
from mergekit_fair.fairness.settings import MIN_GROUP_SIZE

bal_acc, worst_group_acc, selection_rate, dpd, eod = (
    aggregation(name, least=1)
    for name in ("bal_acc", "worst_group_acc", "selection_rate", "dpd", "eod")
)

ITEMS = [(1, 1, ["a"]), (0, 1, ["a"]), (0, 0, ["a"]), (1, 1, ["b"]), (1, 0, ["b", "c"])]
ALL = (bal_acc, worst_group_acc, selection_rate, dpd, eod)


def test_values_by_hand() -> None:
    # Selection rates: a 1/3, b 2/2, c 1/1. TPR: a 1/2, b 1. FPR: a 0, b 1, c 1.
    assert math.isclose(dpd(ITEMS), 2 / 3)
    assert eod(ITEMS) == 1.0
    assert math.isnan(dpd([(1, 1, ["a"])]))
    # TPR 2/3, FPR 1/2; right: a 2/3, b 1/2, c 0.
    assert math.isclose(bal_acc(ITEMS), (2 / 3 + 1 / 2) / 2)
    assert worst_group_acc(ITEMS) == 0
    assert selection_rate(ITEMS) == 3 / 5


def test_a_constant_model_is_fair_and_shows() -> None:
    items = [(1, label, group) for label in (0, 1) for group in (["a"], ["b"])]
    assert (dpd(items), eod(items), selection_rate(items), bal_acc(items)) == (0, 0, 1, 0.5)


def test_one_group_and_no_group_are_undefined() -> None:
    one = [(1, 1, ["a"]), (0, 0, ["a"]), (1, 0, [])]
    assert math.isnan(dpd(one))
    assert math.isnan(eod(one))
    assert math.isnan(worst_group_acc([(1, 1, []), (0, 0, [])]))


def test_without_a_tpr_to_compare_there_is_no_eod() -> None:
    items = [(1, 1, ["a"]), (0, 0, ["a"]), (1, 0, ["b"]), (0, 0, ["b"])]
    assert math.isnan(eod(items))  # FPR: a 0, b 1/2; TPR of b is undefined
    assert eod([*items, (0, 1, ["b"])]) == 1.0


@pytest.mark.parametrize("function", ALL)
def test_an_unanswered_document_never_ends_a_run(function) -> None:
    value = function([(None, 1, ["a"]), (None, 0, ["b"])])
    assert math.isnan(value) or value == 0
    assert isinstance(function([*ITEMS, (None, 1, ["b"])]), float)


def test_preferences() -> None:
    assert preference_rate([1, None, 0, 1]) == 2 / 3
    assert math.isnan(preference_rate([None]))
    items = [(1, "age"), (0, "age"), (1, "gender")]
    assert gap_of_preferences(least=1)(items) == 0.5
    assert math.isnan(gap_of_preferences(least=1)(items[:2]))
    assert math.isnan(gap_of_preferences(least=1)([*items, (None, "gender")]))


def test_they_are_those_of_eval_at_its_default_size() -> None:
    """c has 20 documents: it decides nothing, neither here nor there."""
    names = ["a"] * 90 + ["b"] * 80 + ["c"] * 20
    labels = [row % 2 for row in range(190)]
    predicted = [int(row % 5 < 3 if row < 170 else row % 4 != 1) for row in range(190)]
    items = [(p, y, [name]) for p, y, name in zip(predicted, labels, names, strict=True)]
    size = MIN_GROUP_SIZE
    found = measure(labels, predicted, names, min_group_size=size, draws=10).metrics
    loose = measure(labels, predicted, names, draws=10).metrics
    for name in ("dpd", "eod", "worst_group_acc"):
        assert getattr(aggregations, name)(items) == found[name].value != loose[name].value
        assert aggregation(name, least=1)(items) == loose[name].value
    kinds = list(zip(predicted, names, strict=True))
    rates = measure_scores(predicted, names, min_group_size=size, draws=10)
    assert aggregations.preference_gap(kinds) == pytest.approx(rates.gap.value, abs=1e-12)


def test_another_size_of_groups() -> None:
    assert MetricSettings().min_group_size == 1
    for name, of in (("dpd", aggregation), ("bpsn_auc", score_aggregation)):
        assert resized(getattr(aggregations, name), 1) is of(name, 1)
    assert resized(aggregations.preference_gap, 1) is gap_of_preferences(1)
    assert resized(preference_rate, 1) is preference_rate


def test_lm_eval_takes_them_from_the_entry_points() -> None:
    from lm_eval.api.registry import aggregation_registry, get_aggregation

    points = {point.name: point for point in entry_points(group="lm_eval.aggregations")}
    items = [(p, y, names) for p, y, names in ITEMS for _ in range(40)]
    for name, function in (("fair_dpd", aggregations.dpd), ("fair_eod", aggregations.eod)):
        assert points[name].load() is function
        if name not in dict(aggregation_registry.items()):
            aggregation_registry.register(name)(points[name].load())
        registered = get_aggregation(name)
        assert registered is not None
        assert registered(items) == function(items) > 0
