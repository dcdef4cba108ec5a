"""The JSON of one evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.data import Rows, load_rows
from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.evaluate import Evaluation, evaluate, read_evaluation
from mergekit_fair.evaluation.levels import Level
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.eligible_groups import worst_group
from mergekit_fair.training.train_config import load_train_config


@pytest.fixture(scope="module")
def rows(family: Path) -> Rows:
    return load_rows(load_train_config(family / "train.yml").data).of("validation")


def of_gaps(gaps: np.ndarray, rows: Rows) -> Predictions:
    blank = Predictions(
        task=rows.name,
        keys=tuple(rows.ids.tolist()),
        labels=rows.labels,
        predicted=np.zeros(len(rows), dtype=np.int8),
        groups={name: rows.membership[:, i] for i, name in enumerate(rows.group_names)},
        excluded=tuple(sorted(rows.excluded)),
    )
    return blank.with_scores(gaps)


def test_level_matched_figures_use_one_threshold_and_no_group(rows: Rows) -> None:
    rng = np.random.default_rng(0)
    found = (rng.normal(size=len(rows)) + rows.labels - 3).astype(np.float32)
    evaluation = evaluate(
        of_gaps(found, rows),
        MetricSettings(),
        model="m",
        split="validation",
        level=Level("fft", 0.5),
    )
    assert evaluation.metrics["selection_rate"].value < 0.1
    assert evaluation.saturated is True  # further than 0.1 from the reference's 0.5
    matched = evaluation.level_matched
    assert abs(matched.selection_rate.value - 0.5) <= 0.5 / len(rows) + 1e-9
    assert ((found >= matched.threshold).mean()) == matched.selection_rate.value
    # On another split the validation threshold is used as it is.
    other = evaluate(
        of_gaps(found - 1, rows), MetricSettings(), model="m", split="report",
        level=Level("fft", 0.5), threshold=matched.threshold,
    )  # fmt: skip
    assert other.level_matched.threshold == matched.threshold
    assert other.level_matched.selection_rate.value < 0.5


def test_the_json_has_the_interface_s_keys(rows: Rows) -> None:
    found = np.where(rows.labels, 1, -1).astype(np.float32)
    evaluation = evaluate(
        of_gaps(found, rows),
        MetricSettings(),
        model="m",
        split="validation",
        level=Level("fft", 0.5),
    ).to_dict()
    assert list(evaluation)[:4] == ["schema_version", "model", "task", "split"]
    assert set(evaluation) >= {
        *("model", "task", "split", "n", "reference", "degenerate", "metrics", "level_matched"),
        *("saturated", "one_vs_rest", "groups", "warnings", "versions"),
    }
    assert set(evaluation["metrics"]) >= {
        *("acc", "dpd", "eod", "bal_acc", "worst_group_acc", "selection_rate")
    }
    assert evaluation["metrics"]["acc"]["value"] == 1.0
    assert evaluation["metrics"]["eod"]["value"] == 0.0
    assert set(evaluation["groups"]) == {"blue", "green"}


def test_worst_group_is_the_largest_mean_of_dpd_and_eod() -> None:
    gaps = {"a": (0.1, 0.5), "b": (0.4, 0.1), "other": (0.9, 0.9), "c": (None, None)}
    evaluation = {
        "one_vs_rest": {"groups": {k: {"dpd": d, "eod": e} for k, (d, e) in gaps.items()}},
        "groups": {name: {"n": 100, "n_pos": 50} for name in gaps},
        "n": 400,
        "n_pos": 200,
    }
    name, harms = worst_group(evaluation, candidates=gaps, excluded={"other"})
    assert name == "a"
    assert harms == {"a": pytest.approx(0.3), "b": pytest.approx(0.25)}
    evaluation["groups"]["a"]["n_pos"] = 5
    assert worst_group(evaluation, candidates=gaps, excluded={"other"}, min_group_size=6)[0] == "b"
    with pytest.raises(MeasurementError, match="no candidate group has a defined DPD and EOD"):
        worst_group(evaluation, candidates={"c"})


def written(rows: Rows, path: Path, **changes: Any) -> Evaluation:
    gaps = np.where(rows.labels, 1.5, -0.5)
    evaluation = evaluate(
        of_gaps(gaps, rows), MetricSettings(), model="m", split="report", level=Level("fft", 0.4)
    )
    path.write_text(json.dumps({**evaluation.to_dict(), **changes}))
    return evaluation


def test_what_is_written_is_what_is_read(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    expected = written(rows, path)
    assert read_evaluation(path) == expected
    assert read_evaluation(path).level_matched.acc == expected.level_matched.acc


def test_a_file_of_0_1_is_read_and_others_are_refused(rows: Rows, tmp_path: Path) -> None:
    """0.1 wrote the same keys and no schema_version."""
    path = tmp_path / "t.json"
    expected = written(rows, path)
    content = json.loads(path.read_text())
    del content["schema_version"]
    path.write_text(json.dumps(content))
    assert read_evaluation(path) == expected
    for change in ({"schema_version": 3}, {"n": "many"}, {"metrics": None}, {"new": 1}):
        written(rows, path, **change)
        with raises(MeasurementError, next(iter(change)), where=path, fix="measure again"):
            read_evaluation(path)
    for text in ("{half", "[" * 100_000, "[]"):
        path.write_text(text)
        with raises(MeasurementError, where=path):
            read_evaluation(path)
    with raises(MeasurementError, where=tmp_path / "nowhere"):
        read_evaluation(tmp_path / "nowhere")
