"""The reference baseline with another threshold for everybody: a control, never a choice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from refusals import raises

from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness.intervals import Interval
from mergekit_fair.progress import Silent
from mergekit_fair.report.outputs import summary_text, write_outputs
from mergekit_fair.report.sweep_csv import results_csv
from mergekit_fair.schema import sealed
from mergekit_fair.sweep.checked_folder import checked_results
from mergekit_fair.sweep.cutoffs import FACTORS, Cutoffs
from mergekit_fair.sweep.global_threshold import GlobalThreshold
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import ReadStore
from mergekit_fair.sweep.sweep_config import load_sweep


def _sweep(family: Path, folder: Path, **changes: Any) -> Path:
    few = {"grid": {"lambda": [0.5]}, "baselines": {"fft": str(family / "run" / "fft")}}
    changes = {**few, "controls": ["threshold"], "inject": None, **changes}
    return tiny.write_sweep(family, folder / "sweep.yml", **changes)


@pytest.fixture(scope="module")
def cut(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep whose rule chooses a merge; read only."""
    folder = tmp_path_factory.mktemp("cut")
    sweep = load_sweep(_sweep(family, folder, select=tiny.FEWEST))
    write_outputs(run_sweep(sweep, folder / "out", Silent()), folder / "out", Silent())
    return folder


@pytest.fixture(scope="module")
def results(cut: Path) -> SweepResults:
    return SweepResults.load(cut / "out")


def _cutoffs(points: list[PointResult]) -> list[PointResult]:
    return [point for point in points if point.kind == "cutoff"]


def _value(point: PointResult, name: str) -> float:
    value = point.value(name)
    assert value is not None
    return value


def test_levels_lie_around_the_baselines_own(results: SweepResults) -> None:
    points = _cutoffs(results.points)
    fft = next(point for point in results.points if point.label == "fft")
    own, n = _value(fft, "selection_rate"), 120
    thresholds = [float(point.settings["threshold"]) for point in points]
    assert thresholds == sorted(thresholds, reverse=True)
    rates = [_value(point, "selection_rate") for point in points]
    assert rates == sorted(rates)
    odds = [factor * own / (1 - own) for factor in FACTORS]
    for wanted in (x / (1 + x) for x in odds):
        # As near as the rows allow, where no two have one score.
        assert min(abs(rate - wanted) for rate in rates) < 1 / n
    assert min(rates) < own < max(rates)
    assert {point.settings["source"] for point in points} == {"fft"}
    assert all(point.label.startswith("fft at score ≥ ") for point in points)
    assert len({point.label for point in results.points}) == len(results.points)


def test_predictions_are_the_baselines_scores_at_that_threshold(
    cut: Path, results: SweepResults
) -> None:
    store = ReadStore(cut / "out")
    fft = next(point for point in results.points if point.label == "fft")
    for point in [*_cutoffs(results.points), *_cutoffs(results.report)]:
        scores = store.scores(fft.id, point.split)
        own = store.scores(point.id, point.split)
        expected = scores.astype(float) >= float(point.settings["threshold"])
        assert np.array_equal(own > 0, expected)
        assert _value(point, "selection_rate") == pytest.approx(expected.mean())
        matched, its = (p.evaluation.level_matched for p in (point, fft) if p.evaluation)
        if point.split == "validation":  # one ranking: at one level it is one model
            assert matched is not None
            assert matched.dpd == its.dpd


def test_report_rows_are_opened_at_the_chosen_points_level_alone(results: SweepResults) -> None:
    (on_report,) = _cutoffs(results.report)
    chosen = next(point for point in results.points if point.id == results.selected.id)
    same = next(point for point in results.points if point.id == on_report.id)
    others = [point for point in _cutoffs(results.points) if point.id != same.id]
    far = [abs(_value(p, "selection_rate") - _value(chosen, "selection_rate")) for p in others]
    near = abs(_value(same, "selection_rate") - _value(chosen, "selection_rate"))
    assert near < 1 / 120
    assert all(near <= each for each in far)
    assert set(results.comparison) == {"fft", on_report.label}
    gap = results.comparison[on_report.label]["eod"].value
    reported = results.chosen
    assert reported is not None
    assert gap == pytest.approx(_value(reported, "eod") - _value(on_report, "eod"))


def test_tables_and_pictures_say_what_it_is(cut: Path, results: SweepResults) -> None:
    label = _cutoffs(results.report)[0].label
    text, page = summary_text(results, 400), (cut / "out" / "report.html").read_text()
    assert label in text
    assert label in page
    for shown in (text, page):
        assert "Group labels are needed to predict by none of these models." in shown
    first, *others = results.points
    needing = first.model_copy(update={"kind": "thresholds"})
    shown = summary_text(results.model_copy(update={"points": [needing, *others]}), 400)
    assert f"Group labels are needed to predict by {first.label} alone." in shown
    lines = [line for line in results_csv(results).splitlines() if ",cutoff," in line]
    assert len(lines) == len(_cutoffs(results.points)) + 1
    assert "another threshold for all" in (cut / "out" / "pareto.svg").read_text()


def test_it_is_checked_again_and_costs_no_pass(
    cut: Path, results: SweepResults, tmp_path: Path
) -> None:
    """Of a folder in which models alone are measured, by a sweep that can run none."""
    shutil.copytree(cut / "out", tmp_path / "out")
    lines = (tmp_path / "out" / "points.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] != "cutoff"]
    measured = [*_cutoffs(results.points), *_cutoffs(results.report)]
    assert len(lines) - len(kept) == len(measured) > 2
    (tmp_path / "out" / "points.jsonl").write_text("".join(kept))

    def no_model(*_: Any) -> Any:
        raise AssertionError("a model is run")

    run_sweep(load_sweep(cut / "sweep.yml"), tmp_path / "out", Silent(), no_model)
    assert (tmp_path / "out" / "results.json").read_bytes() == (
        cut / "out" / "results.json"
    ).read_bytes()
    assert checked_results(tmp_path / "out")[1] is None


def test_a_threshold_that_is_not_the_one_of_its_scores(cut: Path, tmp_path: Path) -> None:
    """Written consistently into both files, so that only the scores tell."""
    folder = tmp_path / "out"
    shutil.copytree(cut / "out", folder)
    content = json.loads((folder / "results.json").read_text())
    del content["digest"]
    target = next(point for point in content["points"] if point["kind"] == "cutoff")

    def moved(point: dict[str, Any]) -> dict[str, Any]:
        if point["id"] == target["id"]:
            settings = point["settings"]
            settings["threshold"] += 0.001
        return point

    lines = [json.loads(line) for line in (folder / "points.jsonl").read_text().splitlines()]
    lines = [sealed(moved({k: v for k, v in line.items() if k != "digest"})) for line in lines]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "points.jsonl").write_text(text)
    for split in ("points", "report"):
        content[split] = [moved(point) for point in content[split]]
    text = json.dumps(sealed(content), indent=2, ensure_ascii=False) + "\n"
    (folder / "results.json").write_text(text)
    with raises(SweepError, target["label"], where=folder / "results.json"):
        checked_results(folder)


def test_where_nothing_is_chosen_report_rows_stay_closed(family: Path, tmp_path: Path) -> None:
    rule = {"maximize": "acc", "subject_to": {"acc": ">= 0.999"}}
    path = _sweep(family, tmp_path, select=rule)
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["sweep", str(path), "-o", str(out), "--quiet"])
    assert result.exit_code == 3, result.output
    results = SweepResults.load(out)
    # Levels at which the same rows are selected are one point.
    assert 2 < len(_cutoffs(results.points)) <= len(FACTORS)
    assert not results.report


def test_what_needs_a_baseline_with_scores(family: Path, tmp_path: Path) -> None:
    path = _sweep(family, tmp_path, baselines={}, select={"maximize": "acc"})
    with raises(ConfigError, "threshold", where=path):
        load_sweep(path)


@pytest.mark.parametrize("scores", [np.array([-np.inf, np.inf]), np.full(2, -1.0), np.ones(2)])
def test_a_baseline_without_scores_or_of_one_class_has_none(
    cut: Path, scores: np.ndarray, results: SweepResults
) -> None:
    """Said in a warning; the sweep goes on."""
    labels = np.array([0, 1], dtype=np.int8)
    rows = Predictions("task", (0, 1), labels, labels, {}, ()).with_scores(scores)
    fft = next(point for point in results.points if point.label == "fft")
    assert fft.evaluation is not None
    rate = Interval(value=float(rows.predicted.mean()))
    metrics = {**fft.evaluation.metrics, "selection_rate": rate}
    evaluation = fft.evaluation.model_copy(update={"metrics": metrics})
    runner: Any = SimpleNamespace(binary=lambda _: rows)
    config = load_sweep(cut / "sweep.yml").config
    baselines = {"fft": fft.model_copy(update={"evaluation": evaluation})}
    found = Cutoffs.of(config, runner, baselines, None)
    assert not found.grid.decisions
    assert not found.level.decisions
    (warning,) = found.warnings
    assert warning.startswith("controls: threshold: fft ")


@pytest.mark.parametrize("t", [-1.5, -1e-300, 0.0, 5e-324, 0.25, 3e38])
def test_a_score_that_is_the_threshold_is_selected(t: float) -> None:
    scores = np.array([np.nextafter(t, -np.inf), t, np.nextafter(t, np.inf), np.nan])
    labels = np.array([0, 1, 0, 1], dtype=np.int8)
    rows = Predictions("task", (0, 1, 2, 3), labels, labels, {}, (), scores)
    moved = rows.with_scores(GlobalThreshold(t).scores(rows))
    assert moved.predicted.tolist() == replace(rows).predict_at(t).predicted.tolist()
    assert moved.predicted.tolist()[:3] == [0, 1, 1]
