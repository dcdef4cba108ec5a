"""`select` in a sweep file: what can be said, and what each mistake is told."""

from __future__ import annotations

from typing import Any

import pytest

from mergekit_fair.fairness.metrics import METRICS
from mergekit_fair.sweep.limits import LEVEL_MATCHED, READABLE, Constraint, Select
from mergekit_fair.sweep.record import SATURATED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<= fft", Constraint("dpd", "<=", "fft", 0.0)),
        (" < fft+0.01 ", Constraint("dpd", "<", "fft", 0.01)),
        (">= fft - 0.02", Constraint("dpd", ">=", "fft", -0.02)),
        ("> 1e-3", Constraint("dpd", ">", None, 0.001)),
        (">=.5", Constraint("dpd", ">=", None, 0.5)),
        ("<= sub-group", Constraint("dpd", "<=", "sub-group", 0.0)),
        ("<= fft-2", Constraint("dpd", "<=", "fft-2", 0.0)),  # a name; a minus has spaces
        ("<= 7b.v2", Constraint("dpd", "<=", "7b.v2", 0.0)),
        ("<= 0.9 * fft", Constraint("dpd", "<=", "fft", 0.0, 0.9)),
        ("<=.9*fft+.01", Constraint("dpd", "<=", "fft", 0.01, 0.9)),
        (">= 0.95 * fft - 1e-2", Constraint("dpd", ">=", "fft", -0.01, 0.95)),
        ("<= 2 * sub-group", Constraint("dpd", "<=", "sub-group", 0.0, 2.0)),
    ],
)
def test_constraints_are_read(text: str, expected: Constraint) -> None:
    assert Constraint.parse("dpd", text) == expected
    assert Constraint.parse("dpd", str(expected).removeprefix("dpd ")) == expected  # and written


@pytest.mark.parametrize(
    "text",
    [
        *("fft", "", "== fft", "=< fft", "<= ", "<= fft * 0.9", "<= -0.1", "<= 0.9 fft", "<= 10%"),
        *("<= fft + ", "<= fft + lora", "<= 1,5", "<= nan", "<= inf", "<= 0.5 <= 0.6", "<= fft\n0"),
        *("<= 1.2.3 + x", "<= 80", "<= 1.01", 0.5, True, None, ["<= 0.5"]),
    ],
)
def test_what_is_none_is_refused(text: Any) -> None:
    if text in ("<= nan", "<= inf"):  # names of baselines, which there are not
        assert Constraint.parse("dpd", text).baseline == text[3:]
        return
    with pytest.raises(ValueError, match=r"dpd: .*allowed: ") as caught:
        Constraint.parse("dpd", text)
    assert repr(text) in str(caught.value)


def test_any_metric_of_the_table_can_be_read_and_aimed_at() -> None:
    for name in READABLE:
        Constraint.parse(f"other/{name}", "<= 0.5")
        better = METRICS[name].better
        for verb, wrong in (("maximize", "lower"), ("minimize", "higher")):
            if better == wrong:
                with pytest.raises(ValueError, match=f"{name} is better when {better}"):
                    Select.model_validate({verb: name})
            else:
                assert Select.model_validate({verb: f"other/{name}"}).objective == f"other/{name}"
    for name in LEVEL_MATCHED:
        Constraint.parse(name, "<= 0.5")
    for name in ("epd", "level_matched.tpr"):
        with pytest.raises(ValueError, match="unknown metric"):
            Constraint.parse(name, "<= 0.5")
        with pytest.raises(ValueError, match="not a metric"):
            Select(minimize=name)


def test_one_of_both_is_asked_for() -> None:
    with pytest.raises(ValueError, match="one of them"):
        Select(maximize="acc", minimize="eod")
    assert (Select().objective, Select().words()) == ("acc", {"maximize": "acc"})
    least = Select(minimize="eod", subject_to={"acc": ">= 0.5"})
    assert least.words() == {"minimize": "eod", "subject_to": {"acc": ">= 0.5"}}
    assert Select.model_validate(least.words()) == least
    assert least.metrics == ("eod", "acc")


def test_a_metric_may_have_several_limits() -> None:
    select = Select(subject_to={"selection_rate": [">= 0.1", "<= 1.5 * fft"], "dpd": "<= 0.2"})
    assert [str(each) for each in select.constraints()] == [
        *("selection_rate >= 0.1", "selection_rate <= 1.5 * fft", "dpd <= 0.2")
    ]
    for words in ([], [">= 0.5", "<= 0.4"], [">= 0.5", "< 0.5"], [">= 0.1", 0.5], [["<= 0.5"]]):
        with pytest.raises(ValueError, match="selection_rate"):
            Select.model_validate({"subject_to": {"selection_rate": words}})
    Select(subject_to={"selection_rate": [">= 0.5", "<= 0.5"]})


def test_saturation_is_ruled_out_of_every_task_that_is_read() -> None:
    assert Select().unsaturated() == (SATURATED,)
    further = {"other/dpd": "<= fft"}
    assert Select(subject_to=further).unsaturated() == (SATURATED, "other/saturated")
    assert Select(subject_to={**further, "saturated": True}).unsaturated() == ()
    said = {**further, "other/saturated": True}
    assert Select(subject_to=said).unsaturated() == (SATURATED,)
    said = {"saturated": True, "other/saturated": False}
    assert Select(subject_to=said).unsaturated() == ("other/saturated",)
    for words in ("false", "<= 0", 0.0, [False]):
        with pytest.raises(ValueError, match="saturated"):
            Select.model_validate({"subject_to": {"saturated": words}})
