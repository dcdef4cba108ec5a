"""`heads` from a model folder to a merged model, beside what transformers alone predicts."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from biased import GROUPS, write_biased, write_rows
from classifiers import write_causal, write_text
from click.testing import CliRunner
from refusals import refusal
from safetensors.torch import load_file

from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError, ConfigError, DataError, MeasurementError

ARCHITECTURES = {"bert": "classifier", "roberta": "classifier.out_proj", "qwen2": "score"}


def run(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(
    scope="module",
    params=["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2", "roberta"))],
)
def fitted(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An architecture, and a folder with `model`, `data.yml` and the heads in `heads/`."""
    folder = tmp_path_factory.mktemp(request.param)
    model, data = write_biased(folder, request.param)
    arguments = ["--data", data, "-o", folder / "heads", "--tolerance", 0.1, "--quiet"]
    run("heads", model, *arguments)
    return request.param, folder


@pytest.fixture(scope="module")
def merged(fitted: tuple[str, Path]) -> Path:
    _, folder = fitted
    run("merge", folder / "heads" / "recipe.yml", folder / "merged", "--quiet")
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "heads" / "heads.json").read_text()))


def test_the_head_is_fairer_and_nothing_else_has_moved(fitted: Any, merged: Path) -> None:
    architecture, folder = fitted
    found = results_of(folder)
    layer = ARCHITECTURES[architecture]
    assert found["layer"] == layer
    report = {name: each["evaluation"]["metrics"] for name, each in found["report"].items()}
    assert report["fair head"]["eod"]["value"] < report["target"]["eod"]["value"] - 0.1
    before = load_file(folder / "model" / "model.safetensors")
    after = load_file(merged / "merged" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = [
        name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()
    ]
    assert moved == sorted(name for name in before if name.rpartition(".")[0] == layer)
    assert all(before[name].dtype == after[name].dtype for name in before)


def test_transformers_alone_predicts_what_was_recorded(fitted: Any, merged: Path) -> None:
    """Row by row, one text at a time, and with the evaluation of `eval`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    architecture, folder = fitted
    model = AutoModelForSequenceClassification.from_pretrained(merged / "merged").eval()
    size = float(model.get_submodule(ARCHITECTURES[architecture]).weight.detach().abs().sum())
    tokenizer = AutoTokenizer.from_pretrained(merged / "merged")
    with (folder / "heads" / "report_rows.csv").open(encoding="utf-8") as file:
        recorded = {int(row["id"]): row for row in csv.DictReader(file)}
    with (folder / "rows.csv").open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    with torch.inference_mode():
        for row, line in recorded.items():
            logits = model(**tokenizer(texts[row], return_tensors="pt")).logits[0]
            gap = float(logits[1] - logits[0])
            rounding = 1e-6 * (1 + size)  # of float32, in other kernels
            assert gap == pytest.approx(float(line["fair head"]), abs=rounding)
            if abs(gap) > rounding:
                assert int(gap > 0) == int(line["prediction"])
    arguments = ["--data", folder / "data.yml", "--split", "report", "-o", folder / "eval"]
    run("eval", "--model", merged / "merged", *arguments, "--quiet")
    evaluated = json.loads((folder / "eval" / "biased.json").read_text())["metrics"]
    own = results_of(folder)["report"]["fair head"]["evaluation"]["metrics"]
    assert evaluated == own


def test_thresholds_by_group_stand_beside_and_say_that_they_need_groups(fitted: Any) -> None:
    """Fitted anew, they decide on the report rows as was recorded; they have no logit gap."""
    from mergekit_fair.data import load_spec
    from mergekit_fair.evaluation.evaluator import Evaluator
    from mergekit_fair.evaluation.group_thresholds import fit
    from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
    from mergekit_fair.fairness import MetricSettings
    from mergekit_fair.heads.last_layer import read_features
    from mergekit_fair.progress import Silent

    _, folder = fitted
    found = results_of(folder)
    needing = {name for name, each in found["report"].items() if each["needs_groups"]}
    assert needing == {"group thresholds"}
    evaluator = Evaluator(EvaluationRequest(tasks=load_spec(folder / "data.yml")))
    model = str(folder / "model")
    scorer = evaluator.open(model, "cpu")
    _, read = read_features(evaluator, scorer, ["validation", "report"], model, Silent())
    report = read["report"].rows
    settings = MetricSettings(min_group_size=found["options"]["min_group_size"])
    thresholds = fit("eod", read["validation"].rows, settings)
    with (folder / "heads" / "report_rows.csv").open(encoding="utf-8") as file:
        recorded = list(csv.DictReader(file))
    assert "group thresholds" not in recorded[0]
    decided = [int(row["prediction of group thresholds"]) for row in recorded]
    assert decided == (thresholds.scores(report) > 0).astype(int).tolist()
    right = float(
        np.mean([y == int(row["label"]) for y, row in zip(decided, recorded, strict=True)])
    )
    own = found["report"]["group thresholds"]["evaluation"]["metrics"]
    assert own["acc"]["value"] == right
    cells = re.findall("<td>(yes|no)</td>", (folder / "heads" / "report.html").read_text())
    assert cells == ["yes" if name in needing else "no" for name in found["report"]]


@pytest.mark.slow
def test_thresholds_that_help_nothing_are_left_out_with_one_warning(
    biased: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergekit_fair.heads import head_controls

    def nothing(*_: Any) -> Any:
        raise MeasurementError("no thresholds by group make the EOD smaller", where="biased")

    monkeypatch.setattr(head_controls, "fit", nothing)
    model, data = biased
    words = ["heads", model, "--data", data, "-o", tmp_path / "heads", "--tolerance", 0.1]
    said = run(*words, "--quiet").stdout
    assert said.count("group thresholds") == 1
    found = results_of(tmp_path)
    assert sum("group thresholds are left out" in text for text in found["warnings"]) == 1
    assert "group thresholds" not in found["report"]
    with (tmp_path / "heads" / "report_rows.csv").open(encoding="utf-8") as file:
        assert not any("thresholds" in column for column in next(csv.reader(file)))


def test_stock_mergekit_writes_the_same_bytes(
    fitted: Any, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = fitted
    recipe, out = folder / "heads" / "recipe.yml", folder / "stock"
    monkeypatch.setattr(sys, "argv", ["mergekit-fair"])
    run("exec", "mergekit-yaml", recipe, out)
    assert load_bytes(out) == load_bytes(merged / "merged")


def load_bytes(folder: Path) -> dict[str, tuple[Any, bytes]]:
    return {
        name: (tensor.dtype, tensor.contiguous().view(torch.uint8).numpy().tobytes())
        for name, tensor in load_file(folder / "model.safetensors").items()
    }


def test_lambda_0_is_the_target(fitted: Any) -> None:
    _, folder = fitted
    recipe = yaml.safe_load((folder / "heads" / "recipe.yml").read_text())
    recipe["parameters"]["lambda"] = 0.0
    path = folder / "zero.yml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    run("merge", path, folder / "zero", "--quiet")
    assert load_bytes(folder / "zero") == load_bytes(folder / "model")


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_biased(tmp_path_factory.mktemp("biased"), n=900)


def test_a_target_that_is_kept_leaves_report_rows_closed(biased: Any, tmp_path: Path) -> None:
    """A model of random weights favours nobody that its features know of."""
    _, data = biased
    model = write_text(tmp_path / "model", "bert")
    result = run("heads", model, "--data", data, "-o", tmp_path / "out", "--quiet", code=3)
    assert "keep the target" in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "heads.json",
        "report.html",
    ]
    found = json.loads((tmp_path / "out" / "heads.json").read_text())
    assert found["report"] == {}
    assert found["stays"]


@pytest.mark.slow
def test_validation_rows_that_repeat_training_rows_are_left_out(tmp_path: Path) -> None:
    model, data = write_biased(tmp_path, n=900)
    block = yaml.safe_load(data.read_text())
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    splits = ["train"] * 300 + ["validation"] * 300 + ["report"] * 300
    repeated = lines[1:201]  # training rows, once more as validation rows
    table = [f"{lines[0]},split"]
    table += [f"{line},{split}" for line, split in zip(lines[1:], splits, strict=True)]
    table += [f"{line},validation" for line in repeated]
    (tmp_path / "rows.csv").write_text("\n".join(table) + "\n")
    data.write_text(yaml.safe_dump({**block, "splits": {"column": "split"}}, sort_keys=False))
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["heads", str(model), "--data", str(data), "-o", str(out)])
    assert result.exit_code in (0, 3), result.output
    found = json.loads((out / "heads.json").read_text())
    assert found["left_out_rows"] == len(set(repeated))
    assert found["rows"]["validation"] == 300


@pytest.mark.slow
def test_the_same_command_again_refuses_and_overwrite_replaces(biased: Any, tmp_path: Path) -> None:
    model, data = biased
    words = ["heads", model, "--data", data, "-o", tmp_path / "out", "--tolerance", 0.1]
    run(*words, "--quiet")
    written = [tmp_path / "out" / name for name in ("heads.json", "report_rows.csv")]
    first = [path.read_bytes() for path in written]
    refusal(words, ConfigError, where=tmp_path / "out")
    run(*words, "--quiet", "--overwrite")
    assert [path.read_bytes() for path in written] == first  # the same rows, the same head
    vector = next((tmp_path / "out" / "vectors").iterdir()).name
    inside = ("mine.txt", "mine/config.json", f"{vector}/mine.txt")
    for mine in ("mine.txt", *(f"vectors/{name}" for name in inside)):
        path = tmp_path / "out" / mine
        path.parent.mkdir(exist_ok=True)
        path.write_text("kept")
        refusal([*words, "--overwrite"], ConfigError, where=tmp_path / "out", got=mine)
        path.unlink()


def test_what_is_said_is_what_was_done(biased: Any, tmp_path: Path) -> None:
    """A μ that was given is not said to keep accuracy; the control is beside the head."""
    model, data = biased
    out = tmp_path / "o u t"
    words = ["heads", model, "--data", data, "-o", out, "--mu", 2, "--quiet"]
    said = run(*words, "--choice-map", "no=0,yes=1").stdout
    rule = yaml.safe_load((out / "recipe.yml").read_text())["fairness"]["rule"]
    assert "accuracy" not in rule
    assert f"merge '{out}/recipe.yml'" in said
    assert "Control: random directions" in said
    turned = ["--choice-map", "no=1,yes=0"]  # against the model's own labels
    refusal([*words, "--overwrite", *turned], ConfigError, where="choice_map")


def test_the_targets_scores_are_its_own_to_the_bit(biased: Any, tmp_path: Path) -> None:
    """In bfloat16 logits have three digits: many rows are a rounding away from the other side."""
    from transformers import AutoModelForSequenceClassification

    from mergekit_fair.data import load_spec
    from mergekit_fair.evaluation.evaluator import Evaluator
    from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
    from mergekit_fair.heads.last_layer import read_features
    from mergekit_fair.progress import Silent

    model, data = biased
    small = tmp_path / "model"
    shutil.copytree(model, small)
    loaded = AutoModelForSequenceClassification.from_pretrained(model)
    loaded.to(torch.bfloat16).save_pretrained(small)
    evaluator = Evaluator(EvaluationRequest(tasks=load_spec(data)))
    scorer = evaluator.open(str(small), "cpu")
    layer, found = read_features(evaluator, scorer, ["validation"], small, Silent())
    (own,) = scorer.score("validation", np.arange(len(found["validation"].rows))).values()
    assert found["validation"].rows.scores == pytest.approx(own, abs=1e-5)
    exact = layer.gaps(found["validation"].features)
    assert np.abs(exact - own).max() > 1e-3  # what float64 would give is not what is predicted


@pytest.mark.slow
def test_groups_that_overlap_and_intersections(tmp_path: Path) -> None:
    """A row may carry two groups; each cell has a probe of its own."""
    model, data = write_biased(tmp_path, n=900)
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    table = ["text,label,group"]
    for row, line in enumerate(lines[1:]):
        text, label, group = line.split(",")
        table.append(f"{text},{label},{group}" + (";old" if row % 4 == 0 else ""))
    (tmp_path / "rows.csv").write_text("\n".join(table) + "\n")
    block = yaml.safe_load(data.read_text())
    block["groups"] = {"list": "group", "separator": ";"}
    data.write_text(yaml.safe_dump(block, sort_keys=False))
    out = tmp_path / "out"
    arguments = ["--data", data, "-o", out, "--tolerance", 0.2, "--mu", 2, "--quiet"]
    result = CliRunner().invoke(main, ["heads", str(model), *map(str, arguments)])
    assert result.exit_code in (0, 3), result.output
    found = json.loads((out / "heads.json").read_text())
    names = {vector["name"] for vector in found["vectors"]}
    if names:
        assert names == {f"{g}, {y}" for g in (*GROUPS, "old") for y in (0, 1)} | {"constant"}


@pytest.mark.parametrize(
    ("made", "kind", "fields"),
    [
        ("absent", CheckpointError, {"fix": "hf download"}),
        ("another dtype", CheckpointError, {"got": "bfloat16, of weights in float32"}),
        ("pickled", CheckpointError, {"got": ["pytorch_model.bin"]}),
        ("causal", CheckpointError, {"got": "Llama"}),
        ("three", CheckpointError, {"got": "3"}),
    ],
)
def test_what_has_no_head_of_two_classes_is_refused(
    biased: Any, tmp_path: Path, made: str, kind: Any, fields: Any
) -> None:
    target, data = biased
    model = tmp_path / "model"
    if made in ("another dtype", "pickled"):
        shutil.copytree(target, model)
    if made == "another dtype":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    if made == "pickled":
        torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
        (model / "model.safetensors").unlink()
    if made == "causal":
        write_causal(model)
    if made == "three":
        write_text(model, "bert", {"no": 0, "yes": 1, "maybe": 2})
    refusal(["heads", model, "--data", data, "-o", tmp_path / "out"], kind, **fields)
    assert not (tmp_path / "out").exists()


def test_a_classifier_of_texts_is_refused_for_pictures(biased: Any, tmp_path: Path) -> None:
    model, data = biased
    block = yaml.safe_load(data.read_text())
    block["image"] = {"column": block.pop("text")}
    (tmp_path / "pictures.yml").write_text(yaml.safe_dump(block))
    words = ["heads", model, "--data", tmp_path / "pictures.yml", "-o", tmp_path / "out"]
    fields = {"where": model, "got": "BertFor", "allowed": "…ForImageClassification"}
    refusal(words, CheckpointError, **fields)


def test_too_few_rows_and_unknown_files_are_refused(biased: Any, tmp_path: Path) -> None:
    model, data = biased
    out = tmp_path / "out"
    refusal(["heads", model, "--data", tmp_path / "none.yml", "-o", out], ConfigError)
    block = yaml.safe_load(data.read_text())
    block["source"] = str(write_rows(tmp_path / "few.csv", 60))
    few = tmp_path / "few.yml"
    few.write_text(yaml.safe_dump(block, sort_keys=False))
    words = ["heads", model, "--data", few, "-o", out, "--min-group-size", 1]
    refusal(words, MeasurementError, allowed="50")
    block["splits"] = {"shares": {"train": 0.5, "report": 0.5}}
    block["source"] = str(data.parent / "rows.csv")
    few.write_text(yaml.safe_dump(block, sort_keys=False))
    refusal(["heads", model, "--data", few, "-o", out], DataError)
    assert not out.exists()
