"""Which class a choice is: the forms of choice_map, and every way to get it wrong."""

from __future__ import annotations

from typing import Any

import pytest
from refusals import raises

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.lm.choices import Choices

LABELS = {"NO": 0, "YES": 1}


@pytest.mark.parametrize(
    "choice_map",
    [
        {"no": 0, "yes": 1},
        "no:0;yes:1",
        " no : 0 ; yes : 1 ;",
        {"no": "0", "yes": "YES"},
        "no:NO;yes:YES",
    ],
)
def test_forms_of_the_map(choice_map: Any) -> None:
    assert Choices(LABELS, 2, choice_map).of([" no", "yes "]) == {" no": 0, "yes ": 1}


def test_labels_match_exactly_or_not_at_all() -> None:
    choices = Choices(LABELS, 2)
    assert choices.of([" NO", " YES"]) == {" NO": 0, " YES": 1}
    with pytest.raises(ConfigError) as caught:
        choices.of([" no", " yes"])
    assert str(caught.value) == (
        "the task's choices are not the model's labels; got ['no', 'yes']; allowed: NO, YES. "
        'Say which class each choice is: --model_args "pretrained=…,choice_map=no:0;yes:1", if '
        "'no' is class 0 (or the class's label in place of its number)."
    )


def test_numbers_and_colons_are_choices_too() -> None:
    assert Choices({"0": 0, "1": 1}, 2).of(["0", " 1"]) == {"0": 0, " 1": 1}
    assert Choices({"a": 0, "b": 1}, 2, {0: 1, 1: 0}).of(["0", "1"]) == {"0": 1, "1": 0}
    assert Choices(LABELS, 2, "a:b:0;c:1").of(["a:b"]) == {"a:b": 0}
    with pytest.raises(ConfigError, match=r"""'\{"pretrained": "…", "choice_map": \{"a, b": 0"""):
        Choices(LABELS, 2).of(["a, b", "c"])


@pytest.mark.parametrize("labels", [{"no": 1, "yes": 0}, {"No ": 1, "Yes": 0}, {"YES": 0, "b": 1}])
def test_a_map_does_not_contradict_labels(labels: dict[str, int]) -> None:
    with raises(ConfigError, where="choice_map", got=labels, fix="config.json"):
        Choices(labels, 2, "no:0;yes:1")
    assert Choices(labels, 2, "no:1;yes:0").of(["no", "yes"]) == {"no": 1, "yes": 0}


def test_with_a_map_labels_are_no_choices() -> None:
    with pytest.raises(ConfigError, match="does not say which class 'YES' is") as caught:
        Choices(LABELS, 2, "no:0;yes:1").of(["no", "YES"])
    assert "The task's choices are ['no', 'YES']; name each of them." in str(caught.value)


@pytest.mark.parametrize(
    ("choice_map", "problem"),
    [
        ("no;yes", "choice_map: is no list of choices and classes; got 'no;yes'; allowed: such as"),
        ("no:", "is no list of choices and classes"),
        ("", "names no choice"),
        ({}, "names no choice"),
        ("no:0;no:1", "names a choice twice"),
        ({"no": 0, " no": 1}, "names a choice twice"),
        ("no:0;yes:0", r"names a class twice; got \{'no': 0, 'yes': 0\}"),
        (
            "no:0;yes:2",
            "choice_map: yes: is no class of the model; got '2'; allowed: 0, 1, NO, YES",
        ),
        ({"no": -1}, "is no class of the model; got -1"),
        ({"no": True}, "is no class of the model; got True"),
        ({"no": 0.0}, "is no class of the model"),
        ("yes:yes", "is no class of the model; got 'yes'"),
        ({False: 0, True: 1}, r"must be text \(YAML reads no without quotes as false\); got False"),
        (["no", "yes"], "is neither a mapping nor text"),
        (7, "is neither a mapping nor text"),
    ],
)
def test_maps_that_are_none(choice_map: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Choices(LABELS, 2, choice_map)


def test_a_label_that_is_the_number_of_another_class() -> None:
    with pytest.raises(ConfigError, match="'1' is the label of class 0 and the number of another"):
        Choices({"1": 0, "2": 1}, 2, "no:1;yes:2")
    assert Choices({"1": 0, "2": 1}, 2, {"no": 1, "yes": 0}).of(["no"]) == {"no": 1}
