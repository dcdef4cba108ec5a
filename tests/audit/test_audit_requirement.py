"""Requirements: their form, their names, and when figures meet them."""

from __future__ import annotations

import pytest
from refusals import raises

from mergekit_fair.audit.requirement import Requirement
from mergekit_fair.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t/acc >= 0.5", ("t", "acc", None, ">=", None, 0.5)),
        ("t/acc >= -.5", ("t", "acc", None, ">=", None, -0.5)),
        ("t/dpd <= base", ("t", "dpd", None, "<=", "base", 0.0)),
        ("t/dpd<=base + 0.02", ("t", "dpd", None, "<=", "base", 0.02)),
        ("t/dpd < model-7b-v0.1 - 1e-3", ("t", "dpd", None, "<", "model-7b-v0.1", -0.001)),
        (
            "t/stereotyped/old people > young/x",
            ("t", "stereotyped", "old people", ">", "young/x", 0),
        ),
        ("t/a/b/c <= 1", ("t", "a", "b/c", "<=", None, 1.0)),
        ("t/a/people's <= 1", ("t", "a", "people's", "<=", None, 1.0)),
        ("t/acc >= '0.5'", ("t", "acc", None, ">=", "0.5", 0.0)),
        ('t/acc >= "a + 0.02" - 1', ("t", "acc", None, ">=", "a + 0.02", -1.0)),
        ("'t/1' / \"n/a.tpr\" / 'age < 30' < 1", ("t/1", "n/a.tpr", "age < 30", "<", None, 1.0)),
        ("abs('t'/'b')<=abs('abs(x)') + 1", ("t", "b", None, "<=", "abs(x)", 1.0)),
    ],
)
def test_forms(text: str, expected: tuple[object, ...]) -> None:
    found = Requirement.parse(text)
    got = (found.task, found.metric, found.group, found.operator, found.model, found.margin)
    assert got == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "acc >= 0.5", "t/acc", "t/acc = 0.5", "t/ >= 0.5", "t/acc >=", "t/acc >= ''"),
        *("t/'acc >= 0.5", "t/acc >= 'base", "/acc >= 1"),
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with raises(ConfigError, "is no requirement", where="--require", got=text):
        Requirement.parse(text)


def test_numbers_have_an_end() -> None:
    with raises(ConfigError, "number without end", got="t/acc <= 1e400"):
        Requirement.parse("t/acc <= 1e400")


def test_sizes_of_signed_figures() -> None:
    signed, sized = (
        Requirement.parse(text) for text in ("t/b <= base", "abs(t/b) <= abs(base) + 0.01")
    )
    assert signed.is_met(-0.3, 0.1)
    assert not sized.is_met(-0.3, 0.1)
    assert sized.is_met(-0.105, -0.1)
    assert sized.bound(-0.1) == pytest.approx(0.11)


def test_what_is_undefined_meets_nothing() -> None:
    found = Requirement.parse("t/b <= base + 1")
    assert not found.is_met(None, 0.0)
    assert not found.is_met(0.0, None)
    assert not Requirement.parse("t/b >= 0").is_met(None, None)


def test_models_that_are_called_like_something_else() -> None:
    """Never taken for the number that it also is, nor for the other model."""
    models = {"base", "0.5", "a", "a + 0.02", "abs(a)"}
    for right, fix in (("0.5", "+0.5 for the number"), ("a + 0.02", '"a + 0.02"'), ("abs(a)", "")):
        text = f"t/acc >= {right}"
        with raises(ConfigError, where=f"--require {text}", got=right, fix=fix):
            Requirement.parse(text).require_known({"t": {"acc"}}, {}, {}, models)
        quoted = Requirement.parse(f"t/acc >= '{right}'")
        quoted.require_known({"t": {"acc"}}, {}, {}, models)
        assert (quoted.model, quoted.margin, quoted.of_models_size) == (right, 0, False)
    number = Requirement.parse("t/acc >= +0.5")
    number.require_known({"t": {"acc"}}, {}, {}, models)
    assert (number.model, number.margin) == (None, 0.5)


def test_names_are_checked_with_the_near_one() -> None:
    metrics, groups = {"fair_bbq": {"acc", "bias_ambig"}}, {"fair_bbq": {"women"}}
    by_group = {"fair_bbq": {"bias_ambig"}}
    for text, problem in (
        ("fair_bbg/acc >= 0", "unknown task 'fair_bbg'; did you mean 'fair_bbq'?"),
        ("fair_bbq/bias_ambg >= 0", "unknown metric 'bias_ambg'; did you mean 'bias_ambig'?"),
        ("fair_bbq/bias_ambig/woman >= 0", "unknown group 'woman'; did you mean 'women'?"),
        ("fair_bbq/acc/women >= 0", "unknown metric by group 'acc'"),
        ("fair_bbq/acc >= base +", "unknown model 'base +'; did you mean 'base'?"),
        ("fair_bbq/acc >= bas", "unknown model 'bas'; did you mean 'base'?"),
    ):
        with raises(ConfigError, problem, where=f"--require {text}"):
            Requirement.parse(text).require_known(metrics, by_group, groups, {"base"})
    Requirement.parse("fair_bbq/bias_ambig/women >= base").require_known(
        metrics, by_group, groups, {"base"}
    )
