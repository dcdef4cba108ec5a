"""`eval`: AUC, calibration and thresholds, in its results, samples and lm-eval's figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from refusals import refusal
from sklearn.metrics import roc_auc_score
from task_tables import write_table
from tiny import words_of

from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.eval_folder import rows_name

TASK = "fair_adult_sex"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, words_of(*arguments))
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def data(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    block = yaml.safe_load((family / "train.yml").read_text())["data"]
    path = tmp_path_factory.mktemp("data") / "data.yml"
    path.write_text(yaml.safe_dump(block))
    return path


def evaluated(family: Path, data: Path, out: Path, *options: object, task: str = TASK) -> Any:
    """The evaluation, the samples and lm-eval's figures."""
    model = ("--model", family / "run" / "fft", "--max-length", 16, "--quiet")
    run("eval", *model, "--tasks", task, "--data", data, "-o", out, *options)
    lines = (out / f"samples_{task}.jsonl").read_text().splitlines()
    figures = json.loads((out / "lm_eval.json").read_text())["results"][task]
    return json.loads((out / f"{task}.json").read_text()), list(map(json.loads, lines)), figures


def measured(path: Path, *options: object) -> Any:
    return json.loads(run("measure", path, *options, "--json").stdout)


def test_scores_are_in_the_evaluation_and_in_its_table(
    family: Path, data: Path, tmp_path: Path
) -> None:
    evaluation, samples, _ = evaluated(family, data, tmp_path, "--rows")
    labels = [sample["doc"]["label"] for sample in samples]
    gaps = np.array([sample["logit_gap"] for sample in samples])
    quality = evaluation["scores"]
    assert quality["auc"]["value"] == pytest.approx(roc_auc_score(labels, gaps))
    expected = np.mean(1 / (1 + np.exp(-gaps))) - np.mean(labels)
    assert quality["calibration"]["value"] == pytest.approx(expected)
    assert set(quality["groups"]) == set(evaluation["groups"])
    of_file = measured(tmp_path / f"samples_{TASK}.jsonl")
    assert (of_file["metrics"], of_file["scores"]) == (evaluation["metrics"], quality)
    assert "threshold" not in evaluation
    columns = ("--label", "label", "--prediction", "prediction", "--groups", "groups")
    of_rows = measured(tmp_path / rows_name(TASK), *columns, "--score", "logit_gap")
    assert of_rows["metrics"] == evaluation["metrics"]
    assert of_rows["scores"]["auc"] == quality["auc"]


@pytest.mark.parametrize("rule", ["0.4", "level: labels"])
def test_a_threshold_holds_everywhere(family: Path, data: Path, tmp_path: Path, rule: str) -> None:
    plain, samples, _ = evaluated(family, data, tmp_path / "plain", "--limit", 80)
    options = ("--limit", 80, "--threshold", rule)
    evaluation, moved, figures = evaluated(family, data, tmp_path / "moved", *options)
    gaps = np.array([sample["logit_gap"] for sample in samples])
    labels = np.array([sample["doc"]["label"] for sample in samples])
    threshold = evaluation["threshold"]
    predicted = 1 / (1 + np.exp(-gaps)) >= threshold * (1 - 1e-12)
    if rule == "0.4":
        assert threshold == 0.4
    else:
        assert predicted.sum() == labels.sum()
    assert evaluation["metrics"]["acc"]["value"] == pytest.approx((predicted == labels).mean())
    assert evaluation["metrics"]["selection_rate"]["value"] == pytest.approx(predicted.mean())
    assert [sample["dpd"][0] for sample in moved] == predicted.astype(int).tolist()
    for name in ("acc", "dpd", "eod", "bal_acc"):
        assert figures[f"{name},none"] == pytest.approx(evaluation["metrics"][name]["value"])
    assert evaluation["scores"] == plain["scores"]  # AUC knows no threshold
    path = tmp_path / "moved" / f"samples_{TASK}.jsonl"
    of_file = measured(path)
    assert of_file["metrics"] == evaluation["metrics"]
    assert of_file["threshold"] == threshold
    compared = run("compare", tmp_path / "plain", tmp_path / "moved", "--json").stdout
    (difference,) = json.loads(compared)[TASK]["models"].values()
    change = evaluation["metrics"]["acc"]["value"] - plain["metrics"]["acc"]["value"]
    assert difference["acc"]["value"] == pytest.approx(change)


def test_a_threshold_is_a_probability(family: Path, data: Path, tmp_path: Path) -> None:
    model = ("--model", family / "run" / "fft", "--tasks", TASK, "--data", data)
    for text in ("1.5", "half"):
        refusal(
            ["eval", *model, "-o", tmp_path, "--threshold", text, "--quiet"],
            ConfigError,
            where="--threshold",
        )


def test_civil_comments_have_their_own_figures(family: Path, tmp_path: Path) -> None:
    task = "fair_civil_comments_gender"
    data = write_table("fair_civil_comments", tmp_path)
    evaluation, _, figures = evaluated(family, data, tmp_path / "out", task=task)
    quality = evaluation["scores"]
    for key, name in (("subgroup_auc", "auc"), ("bpsn_auc", "bpsn_auc"), ("bnsp_auc", "bnsp_auc")):
        assert figures[f"{key},none"] == pytest.approx(quality["power_means"][name])
    assert figures["auc,none"] == pytest.approx(quality["auc"]["value"])
    assert figures["bias_auc,none"] == pytest.approx(quality["power_means"]["combined"])
