"""The sweep file: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from mergekit_fair.errors import CheckpointError, ConfigError, FairError
from mergekit_fair.sweep.runner import plan_sweep
from mergekit_fair.sweep.sweep_config import load_sweep


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"gird": {}}, "unknown key 'gird'; did you mean 'grid'?"),
        ({"grid": {}}, "grid is empty"),
        ({"grid": {"lambda": []}}, "grid.lambda: the grid is empty"),
        ({"grid": {"lambda": [0, float("nan")]}}, "grid.lambda: is not a finite number"),
        (
            {"grid": {"lambda": "0:1:0.0000001"}},
            "the grid has too many points; got '0:1:0.0000001'; allowed: up to 10,000",
        ),
        (
            {"grid": {"weight.blue": "0:1:0.001", "weight.green": "0:1:0.001"}},
            "the grid has 1,002,001 points",
        ),
        ({"grid": {"weight.red": [0, 1]}}, "got 'red'; allowed: blue, green"),
        ({"grid": {"mu": [1]}}, "unknown grid setting; got 'mu'; allowed: lambda, weight.<group>"),
        ({"select": {"maximize": "dpd"}}, "not a metric to maximise; got 'dpd'"),
        ({"select": {"subject_to": {"epd": "<= 1"}}}, "unknown metric 'epd'; did you mean"),
        ({"select": {"subject_to": {"dpd": "fft"}}}, "dpd: not a constraint; got 'fft'"),
        ({"select": {"subject_to": {"dpd": "<= ftt"}}}, "names no baseline; got 'ftt'"),
        ({"inject": {"target": "base"}}, "inject.target names no baseline; got 'base'"),
        (
            {"inject": {"target": "fft", "groups": ["red"]}},
            "inject.groups names no group of the recipe; got 'red'; allowed: blue, green",
        ),
        ({"controls": ["shuffled"]}, "controls.0: input should be 'random'"),
        (
            {"evaluate": {"tasks": ["fair_adlut_sex"]}},
            "no such task; did you mean 'fair_adult_sex'?",
        ),
        ({"evaluate": {"batch_size": 8}}, "evaluate: give tasks, or data"),
        ({"recipe": 3}, "recipe must be a path or a mapping"),
        ({"recipe": "nothing.yml"}, "nothing.yml: cannot be read"),
    ],
)
def test_bad_sweep_files(family: Path, tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", **changes)
    with pytest.raises(FairError) as caught:
        plan_sweep(load_sweep(path))
    assert text in str(caught.value)


def test_a_baseline_of_another_architecture_is_refused(family: Path, tmp_path: Path) -> None:
    encoder = str(family / "encoder")
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", baselines={"fft": encoder})
    with pytest.raises(CheckpointError, match="its tensors are not the base's"):
        plan_sweep(load_sweep(path))


def test_constraints_in_words(family: Path, tmp_path: Path) -> None:
    limits = {"dpd": "<= fft + 0.01", "eod": "< 0.2", "acc": ">= fft - 0.02", "bal_acc": ">= 0.5"}
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", select={"subject_to": limits})
    found = [str(constraint) for constraint in load_sweep(path).config.select.constraints()]
    assert found == ["dpd <= fft + 0.01", "eod < 0.2", "acc >= fft - 0.02", "bal_acc >= 0.5"]


def test_a_yaml_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yml"
    path.write_text("grid: [1\n")
    with pytest.raises(ConfigError, match=r"sweep\.yml: is not valid YAML"):
        load_sweep(path)
