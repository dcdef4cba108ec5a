"""The rule: constraints, degenerate points, ties, nothing feasible."""

from __future__ import annotations

from typing import Any

import pytest

from mergekit_fair.errors import SweepError
from mergekit_fair.sweep.rule import Select
from mergekit_fair.sweep.select import choose

RULE = Select(maximize="acc", subject_to={"dpd": "<= fft", "eod": "<= fft"})


def line(
    label: str, acc: float, dpd: float | None, eod: float = 0.1, **more: Any
) -> dict[str, Any]:
    metrics = {"acc": acc, "dpd": dpd, "eod": eod}
    return {
        "id": label,
        "label": label,
        "kind": more.get("kind", "merge"),
        "split": more.get("split", "validation"),
        "lambda": more.get("lam", 0.5),
        "lambda_eff": more.get("lam", 0.5),
        "adds_nothing": more.get("lam", 0.5) == 0,
        "evaluation": {
            "metrics": {key: {"value": value} for key, value in metrics.items()},
            "degenerate": more.get("degenerate", False),
            "saturated": more.get("saturated", False),
        },
    }


FFT = line("fft", 0.9, 0.2, kind="baseline")


def _choose(*lines: dict[str, Any]) -> Any:
    return choose([FFT, *lines], {"fft": FFT}, RULE)


def test_the_best_that_satisfies_the_constraints() -> None:
    choice = _choose(line("unfair", 0.95, 0.3), line("fair", 0.85, 0.1), line("worse", 0.8, 0.0))
    assert (choice.id, choice.feasible, choice.candidates) == ("fair", True, (3, 2))
    assert choice.rule == (
        "maximise acc, subject to dpd <= fft (0.200) and eod <= fft (0.100), on validation rows; "
        "not degenerate"
    )


def test_degenerate_points_baselines_controls_and_lambda_0_never_win() -> None:
    choice = _choose(
        line("constant", 0.99, 0.0, 0.0, degenerate=True),
        line("base", 0.98, 0.0, lam=0.0),
        line("random", 0.97, 0.0, kind="control"),
        line("undefined", 0.96, None),
        line("merge", 0.5, 0.1),
    )
    assert choice.id == "merge"


def test_ties_go_to_the_smaller_lambda() -> None:
    assert _choose(line("b", 0.8, 0.1, lam=0.8), line("a", 0.8, 0.1, lam=0.2)).id == "a"


def test_nothing_feasible_is_said_and_the_nearest_is_taken() -> None:
    choice = _choose(line("far", 0.9, 0.5), line("near", 0.7, 0.25))
    assert (choice.id, choice.feasible) == ("near", False)
    assert "no point satisfies the rule; near misses it least, by 0.050" in choice.reason


def test_a_saturated_choice_is_said() -> None:
    assert "it is saturated: read its gaps" in _choose(line("a", 0.8, 0.1, saturated=True)).reason
    assert "saturated" not in _choose(line("a", 0.8, 0.1)).reason


def test_no_candidate_is_said() -> None:
    choice = _choose(line("constant", 0.9, 0.0, degenerate=True))
    assert (choice.id, choice.feasible, choice.candidates) == (None, False, (0, 0))
    assert "no point can be chosen: all are degenerate" in choice.reason


def test_an_undefined_limit_is_an_error() -> None:
    undefined = line("fft", 0.9, None, kind="baseline")
    with pytest.raises(SweepError, match="dpd of baseline fft is undefined"):
        choose([line("a", 0.5, 0.1)], {"fft": undefined}, RULE)


def test_report_rows_are_refused() -> None:
    with pytest.raises(SweepError, match="may read the validation split only"):
        _choose(line("a", 0.9, 0.1, split="report"))
