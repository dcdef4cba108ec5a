"""Attempts to look fair: each ends in an error or a flag, never in a silent 0.

The cache of another model, and models that lm-eval's `hf` would give a random head, are in
`tests/evaluation/test_evaluation_lm_cache.py`, `_guard.py` and `_command.py`.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from mergekit_fair.cli import main

Rows = list[dict[str, str]]


@pytest.fixture
def evaluated(family: Path, tmp_path: Path) -> Callable[..., tuple[Result, dict[str, Any] | None]]:
    """`evaluated(bias=…, rows=…, data=…)`: `eval` of the family's fft, changed, on changed rows."""

    def run(
        *options: str,
        bias: tuple[float, float] | None = None,
        rows: Callable[[Rows], Rows] | None = None,
        **changes: Any,
    ) -> tuple[Result, dict[str, Any] | None]:
        model = tmp_path / "model"
        shutil.copytree(family / "run" / "fft", model)
        if bias is not None:
            tensors = load_file(model / "model.safetensors")
            tensors["classifier.bias"] += tensors["classifier.bias"].new_tensor(bias)
            save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        block = yaml.safe_load((family / "train.yml").read_text())["data"]
        if rows is not None:
            with Path(block["source"]).open(newline="") as stream:
                found = rows(list(csv.DictReader(stream)))
            with (tmp_path / "rows.csv").open("w", newline="") as stream:
                writer = csv.DictWriter(stream, list(found[0]))
                writer.writeheader()
                writer.writerows(found)
            block["source"] = str(tmp_path / "rows.csv")
        (tmp_path / "data.yml").write_text(yaml.safe_dump({**block, **changes}))
        command = ["eval", "--model", str(model), "--tasks", "fair_adult_sex", "--quiet"]
        command += [
            "--data",
            str(tmp_path / "data.yml"),
            "--max-length",
            "16",
            "--min-group-size",
            "1",
        ]
        result = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "out"), *options])
        assert "Traceback" not in result.output
        path = tmp_path / "out" / "fair_adult_sex.json"
        return result, json.loads(path.read_text()) if path.is_file() else None

    return run


def test_a_constant_model(evaluated: Any) -> None:
    result, evaluation = evaluated(bias=(100.0, 0.0))
    assert result.exit_code == 0, result.output
    assert evaluation["metrics"]["dpd"]["value"] == evaluation["metrics"]["eod"]["value"] == 0
    assert evaluation["degenerate"] is True
    assert evaluation["metrics"]["bal_acc"]["value"] == 0.5
    assert "[degenerate, saturated]" in result.stdout.splitlines()[0]
    assert "warning: predictions are (nearly) constant" in result.stdout


def test_a_model_without_numbers(evaluated: Any) -> None:
    result, evaluation = evaluated(bias=(float("nan"), 0.0))
    assert result.exit_code == 0, result.output
    assert evaluation["unanswered"] == evaluation["n"]
    assert evaluation["metrics"]["acc"]["value"] == 0
    for name in ("dpd", "eod", "selection_rate", "bal_acc"):
        assert evaluation["metrics"][name]["value"] is None
    assert evaluation["degenerate"] is True
    assert all(g["unanswered"] == g["n"] for g in evaluation["groups"].values())
    assert "rows have no usable prediction" in result.stdout
    assert "and the ratios are undefined" in result.stdout


def test_one_group_only(evaluated: Any) -> None:
    result, evaluation = evaluated(groups={"column": "group", "only": ["blue"]})
    assert result.exit_code == 0, result.output
    assert evaluation["metrics"]["dpd"]["value"] is None
    assert "two are needed: DPD, EOD, equal opportunity, " in result.stdout
    assert "and the ratios are undefined" in result.stdout


def test_a_group_without_positives(evaluated: Any) -> None:
    def negative(rows: Rows) -> Rows:
        return [{**row, "label": "0"} if row["group"] == "green" else row for row in rows]

    result, evaluation = evaluated(rows=negative)
    assert result.exit_code == 0, result.output
    assert evaluation["groups"]["green"]["tpr"] is None
    assert evaluation["metrics"]["equal_opportunity"]["value"] is None
    assert "'green' (0 positive rows: too few for TPR)" in result.stdout
    assert evaluation["metrics"]["eod"]["value"] is None
    assert "EOD is undefined: TPR cannot be compared between two usable groups" in result.stdout


def test_several_groups_a_row(evaluated: Any) -> None:
    def listed(rows: Rows) -> Rows:
        return [
            {**row, "group": f"{row['group']};all" if i % 3 else ""} for i, row in enumerate(rows)
        ]

    result, evaluation = evaluated(rows=listed, groups={"list": "group", "separator": ";"})
    assert result.exit_code == 0, result.output
    sizes = {name: group["n"] for name, group in evaluation["groups"].items()}
    assert sizes["all"] == sizes["blue"] + sizes["green"] < evaluation["n"]


def test_rows_that_stand_twice(evaluated: Any) -> None:
    """They share a split, since they are dealt by their inputs; that they are copies is said."""
    result, _ = evaluated(rows=lambda rows: [*rows, *rows])
    assert result.exit_code == 0, result.output
    assert "identical inputs in two splits" not in result.stdout
    assert "rows equal an earlier row in every column" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda label: "yes" if label == "1" else "no", "values are neither 0 nor 1: 'yes'"),
        (lambda label: "0.9" if label == "1" else "0.1", "values are neither 0 nor 1: '0.9'"),
        (lambda label: "" if label == "1" else "0", "are neither 0 nor 1: ''"),
    ],
    ids=["strings", "probabilities", "missing"],
)
def test_labels_that_are_none(evaluated: Any, change: Callable[[str], str], message: str) -> None:
    def changed(rows: Rows) -> Rows:
        return [{**row, "label": change(row["label"])} for row in rows]

    result, evaluation = evaluated(rows=changed)
    assert result.exit_code == 2
    assert message in result.stderr
    assert evaluation is None


def test_a_classifier_given_to_a_language_model(evaluated: Any) -> None:
    result, evaluation = evaluated("--lm", "hf")
    assert result.exit_code == 2
    assert "fair-classifier" in result.stderr
    assert evaluation is None
