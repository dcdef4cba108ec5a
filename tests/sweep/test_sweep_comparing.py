"""Who is within noise of whom: by `compare`, on the task and at the level that the rule reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mergekit_fair.evaluation.evaluate import evaluate
from mergekit_fair.evaluation.levels import Level
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings, compare
from mergekit_fair.sweep import comparing
from mergekit_fair.sweep.comparing import Noise
from mergekit_fair.sweep.differences import compared
from mergekit_fair.sweep.limits import Select
from mergekit_fair.sweep.record import MeasuredPoint, PointResult
from mergekit_fair.sweep.selection import Rule

N = 400
SETTINGS = MetricSettings()


def rows(task: str, seed: int) -> Predictions:
    """Labels and two groups, unanswered."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(2, size=N).astype(np.int8)
    inside = draw.random(N) < 0.5
    nothing = np.zeros(N, dtype=np.int8)
    return Predictions(task, tuple(range(N)), labels, nothing, {"a": inside, "b": ~inside}, ())


ROWS = {"first": rows("first", 0), "second": rows("second", 1)}


def scores(task: str, *, noise: float, seed: int, shift: float = 0.0) -> Any:
    """Right but for noise; a shift selects more of the rows."""
    draw = np.random.default_rng(seed)
    return (2 * ROWS[task].labels - 1) + noise * draw.standard_normal(N) + shift


def point(label: str, answers: dict[str, Predictions]) -> PointResult:
    level = Level("fft", 0.5)
    found = {
        task: evaluate(each, SETTINGS, model=label, split="validation", level=level)
        for task, each in answers.items()
    }
    return PointResult(
        **{"id": label, "kind": "merge", "label": label, "settings": {}, "split": "validation"},
        **{"lambda_": None, "lambda_eff": None},
        evaluation=found["first"],
        tasks={"second": found["second"]},
        measured_with=MeasuredPoint.by(SETTINGS, 0.1),
    )


@pytest.fixture(scope="module")
def known() -> tuple[dict[str, PointResult], dict[str, dict[str, Predictions]]]:
    """`near` is as good as `best` on both tasks, `far` on the first alone; `shifted` says yes more
    often, and is `best` itself at the same level."""
    made = {
        "best": ((0.8, 0.8), 0, 0.0),
        "near": ((0.8, 0.8), 1, 0.0),
        "far": ((0.8, 3.0), 2, 0.0),
        "shifted": ((0.8, 0.8), 0, 1.2),
    }
    answers = {
        label: {
            task: ROWS[task].with_scores(scores(task, noise=each, seed=seed, shift=shift))
            for task, each in zip(ROWS, noise, strict=True)
        }
        for label, (noise, seed, shift) in made.items()
    }
    return {label: point(label, each) for label, each in answers.items()}, answers


@pytest.mark.parametrize(
    ("objective", "within"),
    [
        ({"maximize": "acc"}, {"near", "far"}),
        ({"maximize": "first/acc"}, {"near", "far"}),
        ({"maximize": "second/acc"}, {"near"}),
        ({"maximize": "level_matched.acc"}, {"near", "far", "shifted"}),
        ({"maximize": "second/level_matched.acc"}, {"near", "shifted"}),
        ({"minimize": "fnr"}, {"near", "far", "shifted"}),  # `shifted` misses fewer
        ({"minimize": "selection_rate"}, {"near", "far"}),
        ({"maximize": "tpr"}, set()),  # no interval of a difference is known
    ],
)
def test_it_is_the_paired_interval_that_decides(
    known: Any, objective: dict[str, str], within: set[str]
) -> None:
    points, answers = known
    rule = Rule.of(Select.model_validate(objective), {})
    noise = Noise(rule, lambda asked: answers[asked.label])
    others = [points[label] for label in ("near", "far", "shifted")]
    assert noise(points["best"], others) == within
    assert noise(points["best"], []) == set()


def test_an_oracle_gives_the_same(known: Any) -> None:
    points, answers = known
    noise = Noise(Rule.of(Select(minimize="eod"), {}), lambda asked: answers[asked.label])
    first = ROWS["first"]
    expected = set()
    for label in ("near", "far", "shifted"):
        predicted = [answers[name]["first"].predicted for name in (label, "best")]
        gap = compare(first.labels, *predicted, first.groups).metrics["eod"]
        assert gap.high is not None
        if gap.high >= 0:
            expected.add(label)
    others = [points[label] for label in ("near", "far", "shifted")]
    assert noise(points["best"], others) == expected


def test_who_answers_alike_is_tested_once(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head at many λ often gives the very answers of another one."""
    points, answers = known
    tested = []

    def counting(*arguments: Any) -> Any:
        tested.append(arguments)
        return compared(*arguments)

    monkeypatch.setattr(comparing, "compared", counting)
    noise = Noise(Rule.of(Select(), {}), lambda asked: answers[asked.label.rstrip("+")])
    labels = ["near", "near+", "far", "shifted", "shifted+", "near++"]
    others = [
        points[name.rstrip("+")].model_copy(update={"id": name, "label": name}) for name in labels
    ]
    one_by_one = set().union(*(noise(points["best"], [other]) for other in others))
    assert len(tested) == len(labels)
    assert one_by_one == {"near", "near+", "near++", "far"}
    assert noise(points["best"], others) == one_by_one
    assert len(tested) == len(labels) + 3
