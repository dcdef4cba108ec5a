"""The lm-eval aggregations, and the entry points that name them."""

from __future__ import annotations

import math
from importlib.metadata import entry_points

from mergekit_fair.harness.aggregations import dpd, eod

ITEMS = [(1, 1, ["a"]), (0, 1, ["a"]), (0, 0, ["a"]), (1, 1, ["b"]), (1, 0, ["b", "c"])]


def test_values_by_hand() -> None:
    # Selection rates: a 1/3, b 2/2, c 1/1. TPR: a 1/2, b 1. FPR: a 0, b 1, c 1.
    assert math.isclose(dpd(ITEMS), 2 / 3)
    assert eod(ITEMS) == 1.0
    assert math.isnan(dpd([(1, 1, ["a"])]))


def test_lm_eval_takes_them_from_the_entry_points() -> None:
    from lm_eval.api.registry import aggregation_registry, get_aggregation

    points = {point.name: point for point in entry_points(group="lm_eval.aggregations")}
    for name, function in (("fair_dpd", dpd), ("fair_eod", eod)):
        assert points[name].load() is function
        aggregation_registry.register(name)(points[name].load())
        registered = get_aggregation(name)
        assert registered is not None
        assert registered(ITEMS) == function(ITEMS)
