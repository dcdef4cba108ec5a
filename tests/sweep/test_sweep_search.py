"""The search over λ_g on real, tiny models: every method, resumed, and its gradient checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from mergekit_fair.errors import ConfigError, FairError
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.config import load_sweep
from mergekit_fair.sweep.exams import open_exam
from mergekit_fair.sweep.plan import Planner
from mergekit_fair.sweep.run import run_sweep
from mergekit_fair.sweep.worker import Job, Slope, Worker

BUDGETS = {"random": 4, "grid": 4, "optuna": 8, "surrogate": 8, "gradient": 13}


def searching(family: Path, path: Path, method: str, **changes: Any) -> Path:
    return tiny.write_sweep(
        family,
        path,
        **{
            "grid": {},
            "controls": [],
            "inject": None,
            "search": {"method": method, "budget": BUDGETS[method], "batch": 2},
            "select": {"maximize": "acc", "subject_to": {"dpd": "<= 0.5", "eod": "<= 0.6"}},
            **changes,
        },
    )


@pytest.mark.parametrize("method", BUDGETS)
def test_a_search_stays_in_its_budget_and_resumes_to_the_same_bytes(
    family: Path, tmp_path: Path, method: str
) -> None:
    """points.jsonl is cut at several places: what is asked depends on the history alone."""
    if method == "optuna":
        pytest.importorskip("optuna")
    path = searching(family, tmp_path / "sweep.yml", method)
    out = tmp_path / "out"
    results = run_sweep(load_sweep(path), out, Silent())
    found = [line for line in results["points"] if line["kind"] == "search"]
    assert len({line["id"] for line in found}) == len(found) > 2
    gradients = (out / "points.jsonl").read_text().count('"gradient"')
    assert len(found) + 3 * gradients <= BUDGETS[method]
    assert (gradients > 0) == (method == "gradient")
    for line in found:
        assert set(line["settings"]) == {"lambda", "weight.blue", "weight.green"}
        assert line["settings"]["lambda"] == 1
        assert all(0 <= line["settings"][f"weight.{name}"] <= 1 for name in tiny.GROUPS)
        total = line["settings"]["weight.blue"] + line["settings"]["weight.green"]
        assert line["lambda_eff"] == pytest.approx(total)
    before = (out / "results.json").read_bytes()
    lines = (out / "points.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (3, len(lines) - 4) if method in ("surrogate", "gradient") else (4,):
        (out / "points.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
        (out / "results.json").unlink()
        run_sweep(load_sweep(path), out, Silent())
        assert (out / "results.json").read_bytes() == before
    assert (out / "optuna.log").is_file() == (method == "optuna")


def test_the_gradient_is_that_of_finite_differences(family: Path, tmp_path: Path) -> None:
    """Σ_i c_i ∂m_i/∂λ_g by one backward pass, and by two forward passes a group."""
    sweep = load_sweep(searching(family, tmp_path / "sweep.yml", "gradient"))
    exam = open_exam(sweep.config.evaluate)
    planner = Planner(sweep, exam.fingerprint())
    worker = Worker(exam, planner.models()[0], "cpu", {}, seed=0, progress=Silent())
    names = list(sweep.ranges)
    here = {"weight.blue": 0.4, "weight.green": 0.2}
    rows = exam.sheets("validation")["tiny"]
    weights = np.random.default_rng(0).normal(size=len(rows))
    found = worker.slope(Slope(planner.searched(here), "validation", tuple(names), weights))
    step = 1e-2
    for name, slope in zip(names, found, strict=True):
        ends = [planner.searched({**here, name: here[name] + sign * step}) for sign in (1, -1)]
        up, down = (worker.run(Job(end, "validation")).scores["tiny"] for end in ends)
        expected = float(weights @ (up.astype(float) - down.astype(float))) / (2 * step)
        assert slope == pytest.approx(expected, rel=1e-2, abs=1e-3)
    assert worker.slope(Slope(planner.searched(here), "validation", tuple(names), weights)) == found
    # The gradients leave no trace in the model.
    job = Job(planner.searched(here), "validation")
    fresh = Worker(exam, planner.models()[0], "cpu", {}, seed=0, progress=Silent())
    assert np.array_equal(worker.run(job).scores["tiny"], fresh.run(job).scores["tiny"])


def test_the_gradient_of_a_task_is_that_of_the_same_rows(family: Path, tmp_path: Path) -> None:
    import yaml

    data = tmp_path / "data.yml"
    data.write_text(yaml.safe_dump(tiny.data_block(family / "rows.csv")))
    tasks = {"tasks": ["fair_adult_sex"], "data": str(data), "max_length": 16, "device": "cpu"}
    plain = load_sweep(searching(family, tmp_path / "rows.yml", "gradient"))
    asked = load_sweep(searching(family, tmp_path / "tasks.yml", "gradient", evaluate=tasks))
    found = []
    for sweep in (plain, asked):
        exam = open_exam(sweep.config.evaluate)
        planner = Planner(sweep, "")
        worker = Worker(exam, planner.models()[0], "cpu", {}, seed=0, progress=Silent())
        sheet = exam.sheets("validation")[exam.tasks[0]]
        weights = np.where(sheet.labels == 1, 1.0, -0.5) * (1 + sheet.groups["blue"])
        point = planner.searched({"weight.blue": 0.4, "weight.green": 0.2})
        found.append(worker.slope(Slope(point, "validation", tuple(sweep.ranges), weights)))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"search": {"method": "annealing"}}, "search.method"),
        ({"search": {"budget": 0}}, "search.budget"),
        ({"search": {"over": {"weight.red": [0, 1]}}}, "got 'red'; allowed: blue, green"),
        ({"search": {"over": {"weight.blue": [1, 0]}}}, "got [1, 0]; allowed: [low, high]"),
        ({"search": {"over": {"weight.blue": [0, float("nan")]}}}, "search.over"),
        (
            {
                "search": {"method": "surrogate"},
                "select": {"subject_to": {"level_matched.dpd": "<= 0.1"}},
            },
            "surrogate models gaps between groups at the model's own threshold; got "
            "'level_matched.dpd'. Use method: optuna",
        ),
        ({"search": None}, "grid is empty"),
    ],
)
def test_bad_searches(family: Path, tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = searching(family, tmp_path / "sweep.yml", "random", **changes)
    with pytest.raises(FairError) as caught:
        run_sweep(load_sweep(path), tmp_path / "out", Silent())
    assert text in str(caught.value)


def test_a_search_over_lambda_alone_names_its_points(family: Path, tmp_path: Path) -> None:
    search = {"method": "grid", "budget": 3, "over": {"lambda": [0, 1]}}
    path = searching(family, tmp_path / "sweep.yml", "grid", search=search)
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    labels = {line["label"] for line in results["points"] if line["kind"] == "search"}
    assert labels == {"λ=0", "λ=0.5", "λ=1"}


def test_optuna_that_is_not_installed_is_said(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    path = searching(family, tmp_path / "sweep.yml", "optuna")
    with pytest.raises(ConfigError, match=r"pip install 'mergekit-fair\[search\]'"):
        run_sweep(load_sweep(path), tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()  # said before anything is measured


def test_equal_levels_are_searched_by_optuna(family: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    rule = {"maximize": "acc", "subject_to": {"level_matched.dpd": "<= 0.9"}}
    path = searching(family, tmp_path / "sweep.yml", "optuna", select=rule)
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    assert results["selected"]["feasible"]
    text = (tmp_path / "out" / "optuna.log").read_text()
    assert "level_matched.dpd" in text
    json.dumps(results, allow_nan=False)
