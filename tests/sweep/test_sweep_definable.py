"""A rule that no model can meet, because its metric has no value there, is known at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml
from refusals import raises

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness.settings import MIN_GROUP_SIZE
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.definable import require_candidates, require_definable
from mergekit_fair.sweep.forecast import plan_sweep
from mergekit_fair.sweep.limits import Select
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.sweep_config import Evaluate, load_sweep


def rows(excluded=(), **groups: tuple[int, int]) -> Predictions:
    """Groups of so many negative and positive rows."""
    cells = [
        (name, label)
        for name, sizes in groups.items()
        for label in (0, 1)
        for _ in range(sizes[label])
    ]
    return Predictions(
        task="t",
        keys=tuple(range(len(cells))),
        labels=np.array([label for _, label in cells], dtype=np.int8),
        predicted=np.zeros(len(cells), dtype=np.int8),
        groups={name: np.array([own == name for own, _ in cells]) for name in groups},
        excluded=tuple(excluded),
    )


def check(predictions: Predictions, *metrics: str, size: int = 1) -> None:
    select = Select(subject_to=dict.fromkeys(metrics, "<= 0.5"))
    evaluate = Evaluate(tasks=["t"], min_group_size=size)
    require_definable(select, {"t": predictions}, evaluate, "s.yml")


GAPS = ("dpd", "eod", "level_matched.eod", "predictive_parity", "t/equal_opportunity")


def test_two_groups_with_both_labels_define_every_gap() -> None:
    check(
        rows(a=(1, 1), b=(1, 1), c=(3, 0)), *GAPS, "worst_group_acc", "bal_acc", "fnr", "eo_ratio"
    )


@pytest.mark.parametrize(
    ("predictions", "undefined"),
    [
        (rows(a=(5, 5)), GAPS),
        (rows(a=(5, 5), b=(5, 5), excluded=["b"]), GAPS),
        (rows(a=(5, 5), b=(1, 1)), GAPS),
        (rows(a=(5, 5), b=(5, 0)), ("equal_opportunity",)),
        (rows(a=(0, 5), b=(0, 5)), ("fpr", "bal_acc")),
        (rows(a=(5, 0), b=(5, 0)), ("tpr", "fnr", "level_matched.bal_acc", "equal_opportunity")),
        (rows(a=(5, 5), excluded=["a"]), ("worst_group_acc",)),
    ],
)
def test_what_has_no_value_whatever_is_predicted(
    predictions: Predictions, undefined: tuple[str, ...]
) -> None:
    for metric in undefined:
        with raises(SweepError, metric, where="s.yml", got="a "):
            check(predictions, metric, size=4)
    check(predictions, size=4)  # accuracy is maximised


def test_rows_of_no_weight_define_nothing() -> None:
    predictions = rows(a=(5, 5), b=(5, 5))
    positive = (predictions.labels == 1) & predictions.groups["b"]
    weighted = replace(predictions, weights=np.where(positive, 0.0, 2.0))
    check(weighted, "dpd")
    with raises(SweepError, where="s.yml", got="b 0 of 5"):
        check(weighted, "equal_opportunity")


def test_the_advice_is_one_that_helps() -> None:
    few = rows(a=(60, 40), b=(50, 12), c=(20, 9))
    with raises(SweepError, where="s.yml", got="b 12 of 62 (too small)", fix="min_group_size (30)"):
        check(few, "eod", size=30)
    check(few, "dpd", size=30)
    check(few, "eod", size=12)
    merged = replace(few, groups={"a": few.groups["a"], "rest": ~few.groups["a"]})
    with raises(SweepError, got="rest 21 of 91 (too small)"):
        check(merged, "eod", size=30)
    check(merged, "eod", size=21)


def test_a_worst_group_is_one_of_enough_rows() -> None:
    evaluate = Evaluate(tasks=["t"])
    assert evaluate.min_group_size == MIN_GROUP_SIZE == 30
    few = rows(a=(60, 40), b=(50, 12))
    with raises(SweepError, where="s.yml: inject.groups", got="b 12 of 62", allowed=["a", "b"]):
        require_candidates(["a", "b"], few, evaluate, "s.yml")
    require_candidates(["a", "b"], few, evaluate.model_copy(update={"min_group_size": 12}), "s.yml")
    enough = rows(a=(60, 40), b=(50, 32))
    require_candidates(["b"], enough, evaluate, "s.yml")
    with raises(SweepError, allowed=["nobody"]):
        require_candidates(["nobody"], enough, evaluate, "s.yml")


def test_small_groups_are_named_before_any_pass(family: Path, tmp_path: Path) -> None:
    path = tiny.write_sweep(family, tmp_path / "sweep.yml")
    raw = yaml.safe_load(path.read_text())
    raw["evaluate"]["min_group_size"] = 40
    raw["select"]["subject_to"] = {}
    raw["inject"] = None
    path.write_text(yaml.safe_dump(raw))
    warnings = plan_sweep(load_sweep(path)).warnings
    for split in ("validation", "report"):
        (text,) = (text for text in warnings if f"{split} rows: too few rows to decide" in text)
        assert "'blue' (" in text
        assert "no two groups are left for EOD" in text


def test_a_sweep_stops_before_it_measures(family: Path, tmp_path: Path) -> None:
    path = tiny.write_sweep(family, tmp_path / "sweep.yml")
    raw = yaml.safe_load(path.read_text())
    raw["evaluate"]["min_group_size"] = 10_000
    path.write_text(yaml.safe_dump(raw))
    sweep = load_sweep(path)
    for start in (lambda: plan_sweep(sweep), lambda: run_sweep(sweep, tmp_path / "out", Silent())):
        with raises(SweepError, "validation", where=path, got="(too small)"):
            start()
    assert not (tmp_path / "out").exists()
