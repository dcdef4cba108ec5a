"""The sweep file: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from refusals import raises

from mergekit_fair.errors import CheckpointError, ConfigError, RecipeError
from mergekit_fair.sweep.forecast import plan_sweep
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.sweep_config import load_sweep


@pytest.mark.parametrize(
    ("changes", "shows", "fields"),
    [
        ({"gird": {}}, ["gird", "did you mean 'grid'"], {}),
        ({"grid": {}}, [], {"allowed": "lambda"}),
        ({"grid": {"lambda": []}}, [], {"where": "grid.lambda"}),
        ({"grid": {"lambda": [0, float("nan")]}}, [], {"where": "grid.lambda"}),
        ({"grid": {"lambda": "0:1:0.0000001"}}, [], {"got": "0:1:0.0000001", "allowed": "10,000"}),
        (
            {"grid": {"weight.blue": "0:1:0.001", "weight.green": "0:1:0.001"}},
            ["1,002,001"],
            {"allowed": "10,000"},
        ),
        ({"select": {"maximize": "dpd"}}, ["select: dpd", "minimize: dpd"], {}),
        ({"select": {"maximize": "acc", "minimize": "dpd"}}, ["select: ", "one of them"], {}),
        (
            {"select": {"subject_to": {"acc": ">= fft-0.01"}}},
            ["'fft-0.01'", "a minus has spaces"],
            {},
        ),
        ({"select": {"subject_to": {"acc": ">= 80"}}}, ["'>= 80'", "from 0 to 1"], {}),
        ({"select": {"subject_to": {"epd": "<= 1"}}}, ["epd", "did you mean"], {}),
        ({"select": {"subject_to": {"dpd": "fft"}}}, ["dpd", "'fft'"], {}),
        ({"select": {"subject_to": {"dpd": "<= ftt"}}}, ["select.subject_to.dpd", "ftt"], {}),
        ({"inject": {"target": "base"}}, ["inject.target", "base"], {}),
        ({"inject": {"target": "fft", "groups": ["red"]}}, [], {"got": "red"}),
        ({"controls": ["shuffled"]}, ["controls.0", "random"], {}),
        ({"evaluate": {"batch_size": 8}}, ["evaluate", "tasks", "data"], {}),
        ({"recipe": 3}, [], {"got": 3}),
        ({"recipe": "nothing.yml"}, [], {"where": "nothing.yml"}),
    ],
)
def test_bad_sweep_files(
    family: Path, tmp_path: Path, changes: dict[str, Any], shows: list[str], fields: dict[str, Any]
) -> None:
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", **changes)
    with raises(ConfigError, *shows, **fields):
        plan_sweep(load_sweep(path))


@pytest.mark.parametrize(
    ("changes", "shows", "fields"),
    [
        ({"grid": {"mu": [1]}}, ["no parameter 'mu'"], {"got": "mu", "allowed": "lambda"}),
        ({"grid": {"densty": [1]}}, ["did you mean 'density'"], {"where": "grid.densty"}),
        ({"grid": {"density": [0.5, 1.5]}}, [], {"where": "grid.density", "got": "1.5"}),
        ({"grid": {"head": [1]}}, ["takes no numbers"], {"got": "head", "allowed": "density"}),
        ({"grid": {"seed": [0.5]}}, [], {"where": "grid.seed", "got": "0.5"}),
        ({"grid": {"weight[0]": [1]}}, ["has brackets"], {"got": "weight[0]"}),
        (
            {"grid": {"weight": [1], "weight.blue": [1]}},
            ["the same number as weight"],
            {"got": "weight.blue"},
        ),
        (
            {"search": {"over": {"weight.bleu": [0, 1]}}},
            ["did you mean 'blue'"],
            {"where": "search.over"},
        ),
        ({"search": {"over": {"density": [0, 2]}}}, [], {"where": "search.over", "got": "2"}),
    ],
)
def test_names_and_values_are_checked_before_anything_is_opened(
    family: Path, tmp_path: Path, changes: dict[str, Any], shows: list[str], fields: dict[str, Any]
) -> None:
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", **changes)
    with raises(RecipeError, *shows, **fields):
        load_sweep(path)


@pytest.mark.parametrize(
    ("over", "around", "got"),
    [
        ({"seed": [0, 9]}, None, "seed"),
        ({"lambda": [0, 1]}, "fft", "lambda"),
        ({"weight": [0, 1]}, "fft", "weight"),
    ],
)
def test_ranges_that_cannot_be_searched(
    family: Path, tmp_path: Path, over: dict[str, Any], around: str | None, got: str
) -> None:
    search = {"over": over, "around": around}
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", search=search)
    with raises(ConfigError, where="search.over", got=got):
        load_sweep(path)


def test_a_group_without_a_model_is_refused(family: Path, tmp_path: Path) -> None:
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", grid={"weight.red": [0, 1]})
    with raises(RecipeError, got="red"):
        load_sweep(path)


@pytest.mark.slow  # lm-eval reads its 14,000 task files
def test_an_unknown_task_is_refused_with_the_near_name(family: Path, tmp_path: Path) -> None:
    evaluate = {"tasks": ["fair_adlut_sex"]}
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", evaluate=evaluate)
    with raises(ConfigError, "fair_adult_sex"):
        plan_sweep(load_sweep(path))


def test_a_baseline_of_another_architecture_is_refused(family: Path, tmp_path: Path) -> None:
    encoder = str(family / "encoder")
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", baselines={"fft": encoder})
    with raises(CheckpointError):
        plan_sweep(load_sweep(path))


def test_labels_are_unique(family: Path, tmp_path: Path) -> None:
    """Numbers that round alike, and points of several kinds, used to share one."""
    grid = {"lambda": [0.1234567, 0.12345671, 0.5]}
    run = family / "run"
    baselines = {"fft": str(run / "fft"), "λ=0.5": str(run / "lora")}
    search = {"method": "random", "budget": 4, "over": {"lambda": [0, 1]}}
    path = tiny.write_sweep(
        family, tmp_path / "sweep.yml", grid=grid, baselines=baselines, search=search
    )
    planner = Planner(load_sweep(path), "")
    points = [*planner.baselines(), *planner.merges(), planner.searched({"lambda": 0.1234567})]
    points.append(planner.searched({"lambda": 0.3}))
    labels = [point.label for point in points]
    assert len(set(labels)) == len(labels) == len({point.id for point in points})
    assert {"merge λ=0.5", "search λ=0.1234567", "λ=0.3"} <= set(labels)


def test_constraints_in_words(family: Path, tmp_path: Path) -> None:
    limits = {"dpd": "<= fft + 0.01", "eod": "< 0.2", "acc": ">= fft - 0.02", "bal_acc": ">= 0.5"}
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", select={"subject_to": limits})
    found = [str(constraint) for constraint in load_sweep(path).config.select.constraints()]
    assert found == ["dpd <= fft + 0.01", "eod < 0.2", "acc >= fft - 0.02", "bal_acc >= 0.5"]


def test_a_yaml_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yml"
    path.write_text("grid: [1\n")
    with raises(ConfigError, where="sweep.yml"):
        load_sweep(path)
