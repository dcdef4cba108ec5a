"""Margins, and the JSON of one evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mergekit_fair.data import Rows, load_rows
from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.classifier import load_classifier
from mergekit_fair.evaluation.evaluate import Level, evaluate
from mergekit_fair.evaluation.forward import length_sorted_batches, margins, predictions
from mergekit_fair.evaluation.model_inputs import open_inputs
from mergekit_fair.evaluation.predictions import Answers
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.eligible_groups import worst_group
from mergekit_fair.training.train_config import load_train_config


@pytest.fixture(scope="module")
def rows(family: Path) -> Rows:
    return load_rows(load_train_config(family / "train.yml").data).of("validation")


def test_batches_hold_every_row_once_longest_first() -> None:
    batches = length_sorted_batches((3, 9, 3, 5, 9), 2)
    assert batches == [[1, 4], [3, 0], [2]]


def test_margins_equal_a_plain_transformers_loop(family: Path, rows: Rows) -> None:
    folder = family / "run" / "fft"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        one_by_one = [
            model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=16)).logits[0]
            for text in rows.inputs
        ]
    expected = np.array([float(logits[1] - logits[0]) for logits in one_by_one])
    loaded = load_classifier(folder, "text")
    found = margins(loaded, open_inputs(rows, folder, 16), batch_size=7)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    again = margins(loaded, open_inputs(rows, folder, 16), batch_size=7)
    assert np.array_equal(found, again)


def test_nan_scores_are_an_error_with_their_number(family: Path, rows: Rows) -> None:
    model = load_classifier(family / "run" / "fft", "text")
    with torch.no_grad():
        model.classifier.bias[1] = float("nan")
    with pytest.raises(MeasurementError, match=f"NaN or infinite for {len(rows)} of {len(rows)}"):
        margins(model, open_inputs(rows, family / "run" / "fft", 16))


def test_a_tie_is_class_0_as_argmax_has_it() -> None:
    assert predictions(np.array([-0.1, 0.0, 0.1], dtype=np.float32)).tolist() == [0, 0, 1]
    assert int(torch.tensor([0.5, 0.5]).argmax()) == 0


def test_level_matched_figures_use_one_threshold_and_no_group(rows: Rows) -> None:
    rng = np.random.default_rng(0)
    found = (rng.normal(size=len(rows)) + rows.labels - 3).astype(np.float32)
    evaluation = evaluate(
        Answers.of_margins(found, rows),
        MetricSettings(),
        model="m",
        split="validation",
        level=Level("fft", 0.5),
    )
    assert evaluation["metrics"]["selection_rate"]["value"] < 0.1
    assert evaluation["saturated"] is True  # further than 0.1 from the reference's 0.5
    matched = evaluation["level_matched"]
    assert abs(matched["selection_rate"]["value"] - 0.5) <= 0.5 / len(rows) + 1e-9
    assert ((found >= matched["threshold"]).mean()) == matched["selection_rate"]["value"]
    # On another split the validation threshold is used as it is.
    other = evaluate(
        Answers.of_margins(found - 1, rows), MetricSettings(), model="m", split="report",
        level=Level("fft", 0.5), threshold=matched["threshold"],
    )  # fmt: skip
    assert other["level_matched"]["threshold"] == matched["threshold"]
    assert other["level_matched"]["selection_rate"]["value"] < 0.5


def test_the_json_has_the_interface_s_keys(rows: Rows) -> None:
    found = np.where(rows.labels, 1, -1).astype(np.float32)
    evaluation = evaluate(
        Answers.of_margins(found, rows),
        MetricSettings(),
        model="m",
        split="validation",
        level=Level("fft", 0.5),
    )
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
        "groups": {name: {"n": 100} for name in gaps},
    }
    name, harms = worst_group(evaluation, candidates=gaps, excluded={"other"})
    assert name == "a"
    assert harms == {"a": pytest.approx(0.3), "b": pytest.approx(0.25)}
    evaluation["groups"]["a"]["n"] = 5
    assert worst_group(evaluation, candidates=gaps, excluded={"other"}, min_group_size=6)[0] == "b"
    with pytest.raises(MeasurementError, match="no candidate group has a defined DPD or EOD"):
        worst_group(evaluation, candidates={"c"})
