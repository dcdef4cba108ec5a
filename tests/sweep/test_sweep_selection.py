"""The rule: constraints, degenerate points, ties, nothing feasible; on arrays of any values."""

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
from mergekit_fair.fairness.metrics import METRICS
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import Choice
from mergekit_fair.sweep.selection import READABLE, Constraint, Limit, Rule, Select

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


FFT = point("fft", 0.9, 0.2, kind="baseline")


def _choose(*points: PointResult, select: Select = SELECT, **options: Any) -> Choice:
    return Rule.of(select, {"fft": FFT}).choose([FFT, *points], **options)


def test_the_best_that_satisfies_the_constraints() -> None:
    choice = _choose(point("unfair", 0.95, 0.3), point("fair", 0.85, 0.1), point("worse", 0.8, 0.0))
    assert (choice.id, choice.feasible, choice.candidates) == ("fair", True, (3, 2))
    assert choice.rule == (
        "maximise acc, subject to dpd <= fft (0.200) and eod <= fft (0.100), on validation rows; "
        "not degenerate"
    )


def test_degenerate_points_baselines_controls_and_lambda_0_never_win() -> None:
    choice = _choose(
        point("constant", 0.99, 0.0, 0.0, degenerate=True),
        point("base", 0.98, 0.0, lam=0.0),
        point("random", 0.97, 0.0, kind="control"),
        point("undefined", 0.96, None),
        point("merge", 0.5, 0.1),
    )
    assert choice.id == "merge"


def test_ties_go_to_the_smaller_lambda() -> None:
    assert _choose(point("b", 0.8, 0.1, lam=0.8), point("a", 0.8, 0.1, lam=0.2)).id == "a"
    points = (
        point("top", 0.8, 0.1, lam=0.8),
        point("low", 0.7, 0.1),
        point("a", 0.79, 0.1, lam=0.2),
    )
    choice = _choose(*points, tied=lambda top, others: {top.id, "a"} & {p.id for p in others})
    assert (choice.id, choice.best, choice.ties) == ("a", "top", ("top", "a"))
    assert "a (acc 0.790 on validation) is the smallest λ of 2 points" in choice.reason


def test_nothing_feasible_is_said_and_the_nearest_is_taken() -> None:
    choice = _choose(point("far", 0.9, 0.5), point("near", 0.7, 0.25))
    assert (choice.id, choice.feasible) == ("near", False)
    assert "no point satisfies the rule; near misses it least, by 0.050" in choice.reason


def test_a_saturated_choice_is_said_and_can_be_ruled_out() -> None:
    saturated, plain = point("a", 0.8, 0.1, saturated=True), point("b", 0.7, 0.1)
    assert "it is saturated: read its gaps" in _choose(saturated).reason
    assert "saturated" not in _choose(plain).reason
    without = Select(subject_to={"saturated": False})
    choice = _choose(saturated, plain, select=without)
    assert (choice.id, choice.candidates) == ("b", (2, 1))
    assert "subject to not saturated" in choice.rule


def test_no_candidate_is_said() -> None:
    choice = _choose(point("constant", 0.9, 0.0, degenerate=True))
    assert (choice.id, choice.feasible, choice.candidates) == (None, False, (0, 0))
    assert "no point can be chosen: all are degenerate" in choice.reason


def test_an_undefined_limit_is_an_error() -> None:
    undefined = point("fft", 0.9, None, kind="baseline")
    with raises(SweepError, where="select.subject_to.dpd"):
        Rule.of(SELECT, {"fft": undefined})


def test_rows_of_another_split_are_refused() -> None:
    with raises(SweepError, "validation"):
        _choose(point("a", 0.9, 0.1, split="report"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<= fft", Constraint("dpd", "<=", "fft", 0.0)),
        (" < fft+0.01 ", Constraint("dpd", "<", "fft", 0.01)),
        (">= fft - 0.02", Constraint("dpd", ">=", "fft", -0.02)),
        ("> 1e-3", Constraint("dpd", ">", None, 0.001)),
        ("<= sub-group", Constraint("dpd", "<=", "sub-group", 0.0)),
    ],
)
def test_constraints_are_read(text: str, expected: Constraint) -> None:
    assert Constraint.parse("dpd", text) == expected


def test_any_metric_of_the_table_can_be_read_and_the_better_when_higher_maximised() -> None:
    for name in READABLE:
        Constraint.parse(f"other/{name}", "<= 0.5")
        if METRICS[name].better == "lower":
            with pytest.raises(ValueError, match="not a metric to maximise"):
                Select(maximize=name)
        else:
            Select(maximize=name)
    for name in ("epd", "level_matched.tpr"):
        with pytest.raises(ValueError, match="unknown metric"):
            Constraint.parse(name, "<= 0.5")


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
    limits = {"level_matched.dpd": "<= 0.1", "other/eod": "<= 0.2", "saturated": False}
    rule = Rule.of(Select(subject_to=limits), {}).for_search()
    assert [limit.metric for limit in rule.limits] == ["level_matched.dpd"]
    assert rule.objectives == ("acc", "level_matched.dpd")
    assert Rule.of(SELECT, {"fft": FFT}).for_search().objectives == ("acc", "dpd", "eod")
    values = {"acc": np.array([0.75]), "dpd": np.array([0.25]), "eod": np.array([0.5])}
    assert Rule().to_minimise(values).tolist() == [[0.25, 0.25, 0.5]]
