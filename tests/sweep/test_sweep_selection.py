"""The rule: constraints, degenerate points, ties, the baseline kept; on arrays of any values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from evaluations import evaluation
from hypothesis import given
from hypothesis import strategies as st
from refusals import raises

from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.evaluation.levels import Level
from mergekit_fair.fairness.intervals import Interval
from mergekit_fair.sweep.limits import Limit, Select
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import BudgetRecord, Choice
from mergekit_fair.sweep.selection import Nearness, Rule

SELECT = Select(maximize="acc", subject_to={"dpd": "<= fft", "eod": "<= fft"})


def point(label: str, acc: float, dpd: float | None, eod: float = 0.1, **more: Any) -> PointResult:
    lambda_ = more.get("lam", 0.5)
    return PointResult.model_validate(
        {
            "id": label,
            "label": label,
            "kind": more.get("kind", "merge"),
            "split": more.get("split", "validation"),
            "settings": {},
            "lambda": lambda_,
            "lambda_eff": lambda_,
            "adds_nothing": lambda_ == 0,
            "evaluation": evaluation(
                {"acc": acc, "dpd": dpd, "eod": eod},
                degenerate=more.get("degenerate", False),
                saturated=more.get("saturated", False),
            ),
        }
    )


FFT = point("fft", 0.75, 0.2, kind="baseline")


def _choose(*points: PointResult, select: Select = SELECT, **options: Any) -> Choice:
    return Rule.of(select, {"fft": FFT}).choose([FFT, *points], **options)


def _within(*labels: str) -> Any:
    """These are within noise of whatever is better."""
    return lambda _, others: {point.id for point in others} & set(labels)


def test_the_best_that_satisfies_the_constraints() -> None:
    choice = _choose(point("unfair", 0.95, 0.3), point("fair", 0.85, 0.1), point("worse", 0.8, 0.0))
    assert (choice.id, choice.feasible, choice.candidates) == ("fair", True, (3, 2))
    assert (choice.kept, choice.headline) == (None, "chosen: fair")
    assert choice.rule == (
        "maximise acc, subject to dpd <= fft (0.200) and eod <= fft (0.100), on validation rows; "
        "not degenerate, not saturated"
    )
    assert choice.select == SELECT.words()


def test_degenerate_points_baselines_controls_and_lambda_0_never_win() -> None:
    choice = _choose(
        point("constant", 0.99, 0.0, 0.0, degenerate=True),
        point("base", 0.98, 0.0, lam=0.0),
        point("random", 0.97, 0.0, kind="control"),
        point("undefined", 0.96, None),
        point("lora", 0.95, 0.0, kind="baseline"),
        point("merge", 0.8, 0.1),
    )
    assert choice.id == "merge"


def test_where_nothing_satisfies_the_rule_the_reference_is_kept() -> None:
    choice = _choose(point("far", 0.9, 0.5), point("near", 0.7, 0.25))
    assert (choice.id, choice.label, choice.feasible) == (None, None, False)
    assert (choice.kept, choice.headline, choice.best_merge) == ("fft", "keep fft", "near")
    assert choice.reason == (
        "no merge satisfies the rule; near misses it least: 0.250 where dpd <= fft (0.200) is asked"
    )
    strict = Select(subject_to={"dpd": "<= 0.1"})
    assert ", nor does fft; " in _choose(point("far", 0.9, 0.5), select=strict).reason


def test_a_reference_that_has_no_gap_because_it_is_degenerate_is_said_to_be_so() -> None:
    constant = point("fft", 0.6, 0.0, 0.0, kind="baseline", degenerate=True)
    merge = point("merge", 0.9, 0.1)
    choice = Rule.of(SELECT, {"fft": constant}).choose([constant, merge])
    assert ", nor does fft, which is degenerate; " in choice.reason


def test_the_reference_is_kept_where_the_merges_are_worse_beyond_noise() -> None:
    """Within noise of it a merge may win; what lies within noise by its width alone may not."""
    worse, worst = point("worse", 0.7, 0.1, lam=0.2), point("worst", 0.6, 0.1, lam=0.1)
    choice = _choose(worse, worst)
    assert (choice.kept, choice.best_merge) == ("fft", "worse")
    assert choice.reason == (
        "fft (acc 0.750) satisfies the rule, and the best merge that does, worse (acc 0.700), is "
        "worse beyond noise"
    )
    assert _choose(worse, worst, tied=_within("worst")).kept == "fft"
    alone = _choose(worse, worst, tied=_within("worse"))
    assert (alone.id, alone.best, alone.ties) == ("worse", "fft", ())
    assert alone.reason == (
        "worse (acc 0.700) is within noise of fft (acc 0.750), the highest acc on validation rows "
        "of all candidates that satisfy the rule, of 2 merges that do; no other is within noise of "
        "it"
    )
    both = _choose(worse, worst, tied=_within("worse", "worst"))
    assert (both.id, both.ties) == ("worst", ("worse", "worst"))


def test_a_reference_that_misses_the_rule_rules_nobody_out() -> None:
    strict = Select(subject_to={"dpd": "<= 0.15"})
    assert _choose(point("fair", 0.6, 0.1), select=strict).id == "fair"


def test_a_tie_with_the_best_is_not_worse_than_the_reference() -> None:
    """`b` is within noise of the top, and worse than FFT beyond noise."""
    points = point("top", 0.8, 0.1, lam=0.8), point("b", 0.7, 0.1, lam=0.1)

    def tied(better: PointResult, others: Any) -> set[str]:
        return {p.id for p in others} if better.id == "top" else set()

    choice = _choose(*points, tied=tied)
    assert (choice.id, choice.ties) == ("top", ())


def test_ties_go_to_the_nearest() -> None:
    points = (
        point("top", 0.8, 0.1, lam=0.8),
        point("low", 0.77, 0.1),
        point("a", 0.79, 0.1, lam=0.2),
    )
    choice = _choose(*points, tied=_within("a"))
    assert (choice.id, choice.best, choice.ties) == ("a", "top", ("top", "a"))
    assert (choice.distances, choice.nearest) == (
        {"top": 0.8, "a": 0.2},
        "has the smallest Σ|λ|",
    )
    assert choice.reason == (
        "a (acc 0.790) has the smallest Σ|λ| of the 2 that are within noise of top (acc 0.800), "
        "the highest acc on validation rows of all candidates that satisfy the rule, and not worse "
        "than fft, of 3 merges that do"
    )
    asked = []

    def measure(tied: Any) -> Nearness:
        asked.append([point.id for point in tied])
        return Nearness({"top": 1.0, "a": 2.0}, "is the nearest to fft in weights")

    choice = _choose(*points, tied=_within("a"), measure=measure)
    assert (choice.id, choice.best) == ("top", None)
    assert "and is the nearest to fft in weights of the 2 that are within noise" in choice.reason
    assert asked == [["top", "a"]]
    _choose(*points, measure=measure)  # nothing is tied, nothing is measured
    assert len(asked) == 1


def test_equal_values_are_tied() -> None:
    assert _choose(point("b", 0.8, 0.1, lam=0.8), point("a", 0.8, 0.1, lam=0.2)).id == "a"
    equal = point("a", 0.75, 0.1)
    assert _choose(equal).id == "a"  # as good as FFT


def test_saturated_points_win_where_the_rule_lets_them() -> None:
    saturated, plain = point("a", 0.9, 0.1, saturated=True), point("b", 0.8, 0.1)
    for select in (SELECT, Select(subject_to={"saturated": False})):
        choice = _choose(saturated, plain, select=select)
        assert (choice.id, choice.candidates) == ("b", (2, 1))
        assert choice.rule.endswith("not degenerate, not saturated")
        alone = _choose(saturated, select=select)
        assert alone.kept == "fft"
        assert alone.reason.endswith("a misses it least: saturated")
    choice = _choose(saturated, plain, select=Select(subject_to={"saturated": True}))
    assert (choice.id, choice.rule[-14:]) == ("a", "not degenerate")
    assert "it is saturated: read its gaps" in choice.reason


def test_the_least_of_a_metric_may_be_asked_for() -> None:
    select = Select(minimize="eod", subject_to={"acc": ">= 0.9 * fft", "dpd": "<= 0.5 * fft + 0.1"})
    points = (
        point("low", 0.6, 0.0, 0.0),
        point("unfair", 0.9, 0.21, 0.0),
        point("best", 0.7, 0.2, 0.02),
        point("tied", 0.8, 0.1, 0.05, lam=0.1),
        point("worse", 0.9, 0.1, 0.09),
    )
    choice = _choose(*points, select=select)
    assert (choice.id, choice.candidates) == ("best", (5, 3))
    assert choice.rule.startswith(
        "minimise eod, subject to acc >= 0.9 * fft (0.675) and dpd <= 0.5 * fft + 0.1 (0.200), on"
    )
    assert "best (eod 0.020) has the lowest eod" in choice.reason
    assert _choose(*points, select=select, tied=_within("tied")).id == "tied"
    kept = _choose(point("worse", 0.9, 0.1, 0.2), select=select)
    assert (kept.kept, kept.best_merge) == ("fft", "worse")


def test_without_an_interval_the_sentence_says_so() -> None:
    select = Select(maximize="dp_ratio")
    a, b, fft = (point(name, 0.8, 0.1) for name in ("a", "b", "fft"))
    for each, value in ((a, 0.7), (b, 0.6), (fft, 0.65)):
        assert each.evaluation is not None
        each.evaluation.metrics["dp_ratio"] = Interval(value=value)
    fft = fft.model_copy(update={"kind": "baseline"})
    rule = Rule.of(select, {"fft": fft})
    unknown = "no interval of a difference in dp_ratio is known"
    assert rule.choose([fft, a, b]).reason.endswith(unknown)
    assert f"is worse ({unknown})" in rule.choose([fft, b]).reason


def test_what_has_no_interval_has_a_value_all_the_same() -> None:
    select = Select(minimize="unanswered")
    some, none = point("some", 0.9, 0.1), point("none", 0.8, 0.1)
    assert some.evaluation is not None
    some = some.model_copy(
        update={"evaluation": some.evaluation.model_copy(update={"unanswered": 2})}
    )
    assert some.value("unanswered") == 0.25
    assert _choose(some, none, select=select).id == "none"


def test_nobody_to_choose_or_to_keep_is_said() -> None:
    constant = point("constant", 0.9, 0.0, degenerate=True)
    choice = _choose(constant)
    assert (choice.id, choice.kept, choice.candidates) == (None, "fft", (0, 0))
    assert choice.reason.startswith("no merge can be judged: all are degenerate")
    choice = Rule.of(Select(), {}).choose([constant])
    assert (choice.kept, choice.headline) == (None, "nothing is chosen")


def test_a_budget_of_time_keeps_nothing() -> None:
    """What was left out might be better."""
    budget = BudgetRecord(minutes=1, left_out=["λ=0.7"], unfinished=["search: 3 further points"])
    choice = _choose(point("far", 0.9, 0.5), budget=budget)
    assert (choice.id, choice.kept) == (None, None)
    assert choice.reason.startswith("of what is measured, no merge satisfies the rule")
    assert choice.reason.endswith("left out: 1 point (λ=0.7); search: 3 further points")
    assert _choose(point("fair", 0.85, 0.1), budget=budget).id == "fair"


@pytest.mark.parametrize("names", [["lora", "fft"], ["other", "lora"]])
def test_the_reference_is_fft_or_else_the_first(names: list[str]) -> None:
    baselines = {name: point(name, 0.9, 0.2, kind="baseline") for name in names}
    choice = Rule.of(Select(), baselines).choose([*baselines.values(), point("a", 0.8, 0.1)])
    assert choice.kept == ("fft" if "fft" in names else names[0])


def test_an_undefined_limit_is_an_error() -> None:
    undefined = point("fft", 0.9, None, kind="baseline")
    with raises(SweepError, where="select.subject_to.dpd"):
        Rule.of(SELECT, {"fft": undefined})


def test_rows_of_another_split_are_refused() -> None:
    with raises(SweepError, "validation"):
        _choose(point("a", 0.9, 0.1, split="report"))


def test_limits_are_checked() -> None:
    with raises(ConfigError, where="dpd", got="=="):
        Limit("dpd", "==", 0.1)  # type: ignore[arg-type]
    with raises(ConfigError, where="dpd"):
        Limit("dpd", "<=", math.nan)


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])] * 2), min_size=1))
def test_arrays_of_points_are_judged_as_each_point_alone(pairs: list[tuple[float, float]]) -> None:
    """The same for predictions as for what is measured; a strict limit is missed by equality."""
    rule = Rule("acc", (Limit("dpd", "<", 0.25), Limit("acc", ">=", 0.5)))
    values = {name: np.array(column) for name, column in zip(("acc", "dpd"), zip(*pairs))}  # noqa: B905
    missed = rule.violation(values)
    for row, (acc, dpd) in enumerate(pairs):
        expected = max(dpd - 0.25, 0.0) or (1e-12 if dpd == 0.25 else 0.0)
        expected += max(0.5 - acc, 0.0)
        assert missed[row] == pytest.approx(expected, abs=1e-15)
        measured = point("x", acc, dpd)
        assert rule.rank(measured) == (missed[row], -acc)


def test_a_search_aims_at_the_same_rule() -> None:
    limits = {"level_matched.dpd": "<= 0.1", "other/eod": "<= 0.2"}
    rule = Rule.of(Select(subject_to=limits), {}).for_search()
    assert [limit.metric for limit in rule.limits] == ["level_matched.dpd"]
    assert rule.objectives == ("acc", "level_matched.dpd")
    assert Rule.of(SELECT, {"fft": FFT}).for_search().objectives == ("acc", "dpd", "eod")
    values = {"acc": np.array([0.75]), "dpd": np.array([0.25]), "eod": np.array([0.5])}
    assert Rule().to_minimise(values).tolist() == [[0.25, 0.25, 0.5]]
    least = Rule.of(Select(minimize="eod", subject_to={"acc": [">= 0.5", "<= 0.9"]}), {})
    assert least.for_search().objectives == ("eod", "dpd")
    assert least.to_minimise(values).tolist() == [[0.5, 0.25]]
    rates = Rule(objective="selection_rate", is_minimised=True, gaps=())
    assert rates.to_minimise({"selection_rate": np.array([0.25])}).tolist() == [[0.25]]


def test_a_search_stays_near_the_level_unless_saturated_points_may_win() -> None:
    level = Level("fft", 0.5, 0.125)
    aim = Rule.of(SELECT, {"fft": FFT}).for_search(level)
    limits = [(x.operator, x.value) for x in aim.limits if x.metric == "selection_rate"]
    assert limits == [(">=", 0.375), ("<=", 0.625)]
    free = Rule.of(Select(subject_to={"saturated": True}), {}).for_search(level)
    assert free.limits == ()
