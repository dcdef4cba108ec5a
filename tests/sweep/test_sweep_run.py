"""A sweep on a tiny family: what is written equals what is recorded; kills change nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from gaps import evaluated, logit_gaps
from refusals import raises
from transformers import AutoModelForSequenceClassification

from mergekit_fair.data import load_rows
from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.progress import Silent
from mergekit_fair.report.figures import draw_sweep
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.sweep_config import load_sweep


def _results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "out" / "results.json").read_text()))


def _point(results: dict[str, Any], label: str) -> dict[str, Any]:
    return next(line for line in results["points"] if line["label"] == label)


def test_points_and_splits(swept: Path) -> None:
    results = _results(swept)
    labels = [line["label"] for line in results["points"]]
    worst, chosen = results["worst_group"]["name"], results["selected"]["label"]
    control = f"random {chosen}"
    assert labels[:9] == [
        *("fft", "lora", "λ=0", "λ=0.5", "λ=1", "random λ=0.5", "random λ=1"),
        *(f"fft + 0 {worst}", f"fft + 0.2 {worst}"),
    ]
    assert set(labels[9:]) <= {control}
    assert control in labels  # the chosen point's own, whether it is of the grid or not
    assert {line["split"] for line in results["points"]} == {"validation"}
    assert [line["label"] for line in results["report"]] == ["fft", "lora", chosen, control]
    assert set(results["comparison"]) == {"fft", "lora", "random vectors"}
    assert not results["report_opened_for_another_selection"]
    assert _point(results, "λ=0.5")["lambda_eff"] == 1.0


def test_lambda_0_is_the_base_and_injection_at_0_is_fft_bit_for_bit(
    swept: Path, family: Path
) -> None:
    results = _results(swept)
    store = Store(swept / "out")
    rows = load_rows(load_sweep(swept / "sweep.yml").config.evaluate.data)
    worst = results["worst_group"]["name"]
    for label, model in (("λ=0", "base"), (f"fft + 0 {worst}", "fft")):
        folder = family / "run" / model
        loaded = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        expected = logit_gaps(loaded, evaluated(rows, "validation"), folder, 16)
        found = store.scores(_point(results, label)["id"], "validation")
        assert np.array_equal(found, expected)
    store.close()


def test_the_selected_model_predicts_what_was_recorded_row_by_row(
    swept: Path, family: Path, tmp_path: Path
) -> None:
    from mergekit.options import MergeOptions

    from mergekit_fair.merging.to_disk import merge_to_folder

    results = _results(swept)
    recipe = Recipe.load(swept / "out" / "selected" / "recipe.yml")
    merge_to_folder(recipe, tmp_path / "model", MergeOptions(quiet=True))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    rows = load_rows(load_sweep(swept / "sweep.yml").config.evaluate.data)
    store = Store(swept / "out")
    for split in ("validation", "report"):
        expected = store.scores(results["selected"]["id"], split)
        found = logit_gaps(model, evaluated(rows, split), tmp_path / "model", 16)
        assert np.array_equal(found, expected)
    store.close()
    assert recipe.raw["fairness"]["rule"] == results["selected"]["rule"]
    assert set(load_tensors(tmp_path / "model")) == set(load_tensors(family / "run" / "base"))


def test_fairlearn_gives_the_same_dpd_and_eod_for_a_recorded_point(swept: Path) -> None:
    from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

    rows = load_rows(load_sweep(swept / "sweep.yml").config.evaluate.data)
    rows = evaluated(rows, "validation")
    group = np.array(rows.group_names)[rows.membership.argmax(axis=1)]
    store = Store(swept / "out")
    for line in _results(swept)["points"]:
        found = (store.scores(line["id"], "validation") > 0).astype(int)
        metrics = line["evaluation"]["metrics"]
        arguments = {"y_true": rows.labels, "y_pred": found, "sensitive_features": group}
        assert metrics["dpd"]["value"] == pytest.approx(
            demographic_parity_difference(**arguments), abs=1e-12
        )
        assert metrics["eod"]["value"] == pytest.approx(
            equalized_odds_difference(**arguments), abs=1e-12
        )
        assert metrics["acc"]["value"] == pytest.approx((found == rows.labels).mean(), abs=1e-12)
    store.close()


def test_a_second_call_measures_nothing(swept: Path) -> None:
    before = (swept / "out" / "points.jsonl").read_bytes()
    results = (swept / "out" / "results.json").read_bytes()
    run_sweep(load_sweep(swept / "sweep.yml"), swept / "out", Silent())
    assert (swept / "out" / "points.jsonl").read_bytes() == before
    assert (swept / "out" / "results.json").read_bytes() == results


@pytest.mark.slow
def test_kills_at_random_moments_change_no_result(swept: Path, tmp_path: Path) -> None:
    """kill -9 three times, then cut a line in half: the results are the same bytes."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mergekit_fair", "sweep", str(swept / "sweep.yml")]
    delay = random.Random(0)
    kills = 0
    for lines in (1, 4, 7):
        process = subprocess.Popen(
            [*command, "-o", str(out), "--quiet", "--no-write"], stdout=subprocess.DEVNULL
        )
        path = out / "points.jsonl"
        deadline = time.monotonic() + 240
        while not path.is_file() or path.read_bytes().count(b"\n") < lines:
            assert time.monotonic() < deadline
            if process.poll() is not None:
                break
            time.sleep(0.002)
        time.sleep(delay.uniform(0, 0.05))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills, "every run ended before it could be killed"
    if not (out / "results.json").is_file():
        content = path.read_bytes()
        path.write_bytes(content + content[:200].replace(b"\n", b""))
    run_sweep(load_sweep(swept / "sweep.yml"), out, Silent())
    assert (out / "results.json").read_bytes() == (swept / "out" / "results.json").read_bytes()


def test_another_choice_after_the_report_split_was_opened_is_marked(
    family: Path, swept: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(swept / "out", tmp_path / "out")
    first = _results(swept)["selected"]["label"]
    others = {"lambda": [0.1] if first != "λ=0.1" else [0.2]}
    changed = tiny.write_sweep(family, tmp_path / "sweep.yml", grid=others, inject=None)
    results = run_sweep(load_sweep(changed), tmp_path / "out", Silent()).to_dict()
    assert results["selected"]["label"] != first
    assert results["report_opened_for_another_selection"] is True


def test_when_nothing_can_be_chosen_the_table_is_still_written(
    family: Path, tmp_path: Path
) -> None:
    """λ = 0 is the base and no merge: no candidate, no recipe, no report row."""
    path = tiny.write_sweep(
        family, tmp_path / "sweep.yml", grid={"lambda": [0]}, inject=None, controls=[]
    )
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    assert (results.selected.id, results.selected.kept) == (None, "fft")
    assert "no merge can be judged" in results.selected.reason
    assert results.report == []
    assert not (tmp_path / "out" / "selected").exists()
    assert draw_sweep(results, tmp_path)[0].name == "curves.png"


def test_a_broken_baseline_stops_the_sweep_by_name(family: Path, tmp_path: Path) -> None:
    """NaN weights: no level, no limit and no comparison may be made of them."""
    import shutil

    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(family / "run" / "lora", tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["classifier.bias"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    baselines = {"fft": str(family / "run" / "fft"), "lora": str(broken)}
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", baselines=baselines)
    with pytest.raises(SweepError, match=r"lora on validation: cannot be measured: .* NaN or inf"):
        run_sweep(load_sweep(path), tmp_path / "out", Silent())


def test_two_baselines_of_one_folder_are_both_measured_under_their_names(
    family: Path, tmp_path: Path
) -> None:
    fft = str(family / "run" / "fft")
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        baselines={"fft": fft, "again": fft},
        grid={"lambda": [0.5]},
        controls=[],
        inject={"target": "again", "groups": "worst", "lambda": [0.2]},
    )
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    first, second, *_ = results.points
    assert (first.label, second.label) == ("fft", "again")
    assert first.evaluations["tiny"].metrics == second.evaluations["tiny"].metrics
    assert [point.label for point in results.report][:2] == ["fft", "again"]
    assert list(results.comparison) == ["fft", "again"]


def test_two_writers_and_a_damaged_line_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match="another process is working in this folder"):
        Store(tmp_path)
    head = {"id": "a", "kind": "merge", "label": "a", "settings": {}, "split": "validation"}
    content = {**head, "lambda": 0.5, "lambda_eff": None, "error": "NaN"}
    result = PointResult.model_validate(content)
    store.append(result, np.zeros(3, dtype=np.float32), {})
    store.close()
    (tmp_path / "points.jsonl").write_text('{"id": 1,\n{"id": "b", "split": "validation"}\n')
    with pytest.raises(SweepError, match=r"points\.jsonl:1: is not a JSON line"):
        Store(tmp_path)


def test_a_bfloat16_merge_is_measured_as_it_is_written(
    swept: Path, family: Path, tmp_path: Path
) -> None:
    """Baselines in float32 and merges in bfloat16 share one model in memory."""
    from mergekit.options import MergeOptions

    from mergekit_fair.merging.to_disk import merge_to_folder

    raw = Recipe.load(family / "run" / "addition.yml").raw | {"out_dtype": "bfloat16"}
    grid = {"lambda": [0.1, 0.2]}
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        recipe=raw,
        grid=grid,
        controls=[],
        inject=None,
        select=tiny.FEWEST,
    )
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent()).to_dict()
    recipe = Recipe.load(tmp_path / "out" / "selected" / "recipe.yml")
    merge_to_folder(recipe, tmp_path / "model", MergeOptions(quiet=True))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert model.dtype == torch.bfloat16
    rows = evaluated(load_rows(load_sweep(path).config.evaluate.data), "report")
    store, before = Store(tmp_path / "out"), Store(swept / "out")
    expected = store.scores(results["selected"]["id"], "report")
    assert np.array_equal(logit_gaps(model, rows, tmp_path / "model", 16), expected)
    old = _point(_results(swept), "fft")["id"]
    new = next(line["id"] for line in results["points"] if line["label"] == "fft")
    # FFT is measured again after the merges, on the report rows, in its own dtype.
    assert np.array_equal(store.scores(new, "report"), before.scores(old, "report"))
    store.close()
    before.close()


def test_weights_come_from_the_checkpoints_each_time(swept: Path, family: Path) -> None:
    """λ back and forth: no drift."""
    from mergekit_fair.sweep.worker import PointJob, PointWorker

    sweep = load_sweep(swept / "sweep.yml")
    rows = load_rows(sweep.config.evaluate.data)
    points = Planner(sweep, rows.fingerprint()).merges()
    worker = PointWorker(
        Evaluator(sweep.config.evaluate.request()),
        str(family / "run" / "base"),
        "cpu",
        sweep.recipe.groups(),
        seed=0,
        progress=Silent(),
    )

    def scores(point: Any) -> Any:
        return worker.run(PointJob(point, "validation")).scores["tiny"]

    first = scores(points[1])
    for point in (points[2], points[3], points[0]):
        scores(point)
    assert np.array_equal(scores(points[1]), first)


def test_only_scores_that_are_not_finite_make_a_failed_point(
    swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other error is about the input, and ends the sweep."""
    from mergekit_fair.errors import MeasurementError, ScoreError
    from mergekit_fair.sweep.point_runner import LocalExecutor
    from mergekit_fair.sweep.worker import PointJob

    sweep = load_sweep(swept / "sweep.yml")
    evaluator = Evaluator(sweep.config.evaluate.request())
    planner = Planner(sweep, evaluator.fingerprint())
    executor = LocalExecutor(sweep, evaluator, planner.models()[0], Silent())
    job = PointJob(planner.baselines()[0], "validation")
    scorer = type(executor.worker._scorer)
    for error in (ScoreError("are NaN"), MeasurementError("is of another task")):

        def failing(*arguments: Any, error: Exception = error) -> Any:
            del arguments
            raise error

        monkeypatch.setattr(scorer, "score", failing)
        if isinstance(error, ScoreError):
            assert executor.worker.run(job).error == str(error)
        else:
            with raises(MeasurementError):
                executor.worker.run(job)
