"""`eval` and `compare` as a user calls them, against plain transformers, fairlearn and lm-eval."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from refusals import refusal
from tiny import words_of

from mergekit_fair.cli import main
from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.errors import ConfigError
from mergekit_fair.fairness import measure


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, words_of(*arguments))


@pytest.fixture(scope="module")
def data(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's data description as a file of its own."""
    block = yaml.safe_load((family / "train.yml").read_text())["data"]
    path = tmp_path_factory.mktemp("data") / "data.yml"
    path.write_text(yaml.safe_dump(block))
    return path


@pytest.fixture(scope="module")
def evaluated(family: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders fft and lora with evaluations on validation rows."""
    folder = tmp_path_factory.mktemp("evaluated")
    for name in ("fft", "lora"):
        found = run(
            *("eval", "--model", family / "run" / name, "--tasks", "fair_adult_sex"),
            *("--data", data, "--max-length", 16, "-o", folder / name, "--quiet"),
        )
        assert found.exit_code == 0, found.output
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_numbers_are_those_of_a_plain_loop_and_of_fairlearn(
    family: Path, data: Path, evaluated: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = load_rows(load_spec(data)).of("validation")
    folder = family / "run" / "fft"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = {}
    with torch.inference_mode():
        for row, text in zip(rows.ids.tolist(), rows.inputs, strict=True):
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
            expected[row] = model(**inputs).logits[0].float().log_softmax(-1).tolist()
    lines = (evaluated / "fft" / "samples_fair_adult_sex.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert {sample["doc"]["id"] for sample in samples} == set(expected)
    for sample in samples:
        found = [float(answer[0]) for answer in sample["filtered_resps"]]
        np.testing.assert_allclose(found, expected[sample["doc"]["id"]], atol=1e-5)
    predicted = np.array([int(np.argmax(expected[row])) for row in rows.ids.tolist()])
    names = np.array(rows.group_names)[rows.membership.argmax(axis=1)]
    metrics = read(evaluated / "fft" / "fair_adult_sex.json")["metrics"]
    assert metrics["acc"]["value"] == pytest.approx((predicted == rows.labels).mean())
    for name, oracle in (
        ("dpd", demographic_parity_difference),
        ("eod", equalized_odds_difference),
    ):
        value = oracle(rows.labels, predicted, sensitive_features=names)
        assert metrics[name]["value"] == pytest.approx(value, abs=1e-12)


def test_the_same_numbers_as_lm_eval_itself(evaluated: Path) -> None:
    results = read(evaluated / "fft" / "lm_eval.json")["results"]["fair_adult_sex"]
    metrics = read(evaluated / "fft" / "fair_adult_sex.json")["metrics"]
    for name in ("acc", "bal_acc", "worst_group_acc", "selection_rate", "dpd", "eod"):
        assert results[f"{name},none"] == pytest.approx(metrics[name]["value"], abs=1e-12)


def test_the_same_numbers_as_the_sweep(swept: Path, family: Path, data: Path) -> None:
    lines = (swept / "out" / "points.jsonl").read_text().splitlines()
    of_fft = next(
        line
        for line in map(json.loads, lines)
        if line["label"] == "fft" and line["split"] == "validation"
    )
    level = read_level(swept, of_fft)
    found = run(
        *("eval", "--model", family / "run" / "fft", "--tasks", "fair_adult_sex", "--data", data),
        *("--max-length", 16, "-o", swept / "eval", "--json", "--level", level, "--quiet"),
    )
    assert found.exit_code == 0, found.output
    (evaluation,) = json.loads(found.stdout)
    assert evaluation["metrics"] == of_fft["evaluation"]["metrics"]
    assert evaluation["groups"] == of_fft["evaluation"]["groups"]


def read_level(swept: Path, line: dict[str, Any]) -> Path:
    """The sweep's evaluation of fft as a file."""
    path = swept / "level.json"
    path.write_text(json.dumps(line["evaluation"]))
    return path


def test_the_table(family: Path, data: Path, tmp_path: Path) -> None:
    found = run(
        *("eval", "--model", family / "run" / "lora", "--tasks", "fair_adult_sex", "--data", data),
        *("--max-length", 16, "-o", tmp_path / "out", "--limit", 40, "--quiet"),
    )
    assert found.exit_code == 0, found.output
    assert "validation split, a random 40:" in found.stdout
    assert "at selection rate" in found.stdout
    lines = found.stdout.splitlines()
    assert any(line.startswith("dpd ") and "[" in line for line in lines)
    assert any(line.startswith("blue ") for line in lines)
    (sentence,) = (line for line in lines if line.startswith("DPD is the selection rate of "))
    assert "minus that of" in sentence
    assert sentence.endswith(("and differs from 0.", "and is not distinguishable from 0."))
    rows = [
        json.loads(line)["doc"]["id"]
        for line in (tmp_path / "out" / "samples_fair_adult_sex.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 40
    assert rows != sorted(rows)  # a random sample, not the head of the file


def test_report_rows_are_other_rows_at_the_threshold_of_validation(
    family: Path, data: Path, evaluated: Path, tmp_path: Path
) -> None:
    level = evaluated / "fft" / "fair_adult_sex.json"
    found = run(
        *("eval", "--model", family / "run" / "fft", "--tasks", "fair_adult_sex", "--data", data),
        *("--split", "report", "--level", level, "--max-length", 16, "-o", tmp_path, "--quiet"),
    )
    assert found.exit_code == 0, found.output
    report, validation = read(tmp_path / "fair_adult_sex.json"), read(level)
    assert (report["split"], validation["split"]) == ("report", "validation")
    threshold = validation["level_matched"]["threshold"]
    assert report["level_matched"]["threshold"] == threshold
    ids = [
        {json.loads(line)["doc"]["id"] for line in path.read_text().splitlines()}
        for path in (
            tmp_path / "samples_fair_adult_sex.jsonl",
            evaluated / "fft" / "samples_fair_adult_sex.jsonl",
        )
    ]
    assert not ids[0] & ids[1]
    other = run("compare", evaluated / "fft", tmp_path)
    assert other.exit_code == 2
    assert "not the same rows: another split, limit or version of the data" in other.stderr


def test_a_split_that_chose_the_model_is_marked(swept: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(swept / "out", out)
    merged = run("merge", out / "selected" / "recipe.yml", tmp_path / "model", "--quiet")
    assert merged.exit_code == 0, merged.output
    block = yaml.safe_load(data.read_text())
    # The sweep calls its task by the data set's name.
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tiny.yaml").write_text(
        f"include: {Path(run('tasks-dir').stdout.strip()) / '_fair_binary'}\n"
        + yaml.safe_dump(
            {"task": "fair_tiny", "dataset_kwargs": {"spec": block, "question": "Good?"}}
        )
    )
    for split, marked in (("validation", True), ("report", False)):
        found = run(
            *("eval", "--model", tmp_path / "model", "--tasks", "fair_tiny", "--split", split),
            *("--include-path", tmp_path / "tasks", "--max-length", 16),
            *("-o", tmp_path / split, "--quiet"),
        )
        assert found.exit_code == 0, found.output
        evaluation = read(tmp_path / split / "fair_tiny.json")
        assert bool(evaluation["used_by_selection"]) is marked
        warned = "warning: the validation split has chosen this model" in found.stdout
        assert warned is marked


def test_compare_is_paired_and_corrected(evaluated: Path) -> None:
    found = run("compare", evaluated / "fft", evaluated / "lora", "--json")
    assert found.exit_code == 0, found.output
    compared = json.loads(found.stdout)["fair_adult_sex"]
    a, b = (read(evaluated / name / "fair_adult_sex.json")["metrics"] for name in ("fft", "lora"))
    for name in ("acc", "dpd", "eod", "bal_acc", "worst_group_acc", "selection_rate"):
        difference = compared["models"]["lora"][name]
        expected = b[name]["value"] - a[name]["value"]
        assert difference["value"] == pytest.approx(expected, abs=1e-12)
        assert difference["low"] <= difference["value"] <= difference["high"]
    table = run("compare", evaluated / "fft", evaluated / "lora")
    assert "fair_adult_sex: minus fft, on the same" in table.stdout


def test_compare_reads_lm_eval_s_own_folders(evaluated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "some__model"
    folder.mkdir(parents=True)
    shutil.copy(
        evaluated / "fft" / "samples_fair_adult_sex.jsonl",
        folder / "samples_fair_adult_sex_2026-01-31T12-00-00.000001.jsonl",
    )
    found = run("compare", evaluated / "fft", tmp_path / "out", "--json")
    assert found.exit_code == 0, found.output
    (metrics,) = json.loads(found.stdout)["fair_adult_sex"]["models"].values()
    assert all(entry["value"] == 0 for entry in metrics.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--tasks", "fair_adult_sx"], "tasks: no such task; did you mean 'fair_adult_sex'?"),
        (["--model", "nowhere"], "nowhere: no model here"),
        (["--split", "test"], "'test' is not one of 'validation', 'report'"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--batch-size", "many"], "'many' is neither a positive number nor auto"),
        (["--model-args", "dtype"], "'dtype' is not key=value"),
        (["--model-args", "tempo=3"], "tempo"),
        (["--choice-map", "no=0,yes=7"], "choice_map"),
        (["--device", "cuda:7"], "device: this device cannot be used"),
        (["--max-length", "4000"], "max_length"),
    ],
)
def test_bad_input_is_one_message(
    family: Path, data: Path, tmp_path: Path, changes: list[str], message: str
) -> None:
    given: dict[str, object] = {
        "--model": family / "run" / "fft",
        "--tasks": "fair_adult_sex",
        "--data": data,
        "-o": tmp_path / "out",
        changes[0]: changes[1],
    }
    found = run("eval", *(part for pair in given.items() for part in pair), "--quiet")
    assert found.exit_code == 2, found.output
    assert message in found.stderr
    assert "Traceback" not in found.output
    assert not list(tmp_path.rglob("*.json*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no samples (samples_TASK.jsonl)"),
        ("{half", "line 1 is not JSON"),
        ('{"doc": {}, "doc_id": 0, "metrics": ["acc"]}', "is no fairness task"),
    ],
)
def test_compare_refuses_what_it_cannot_read(
    evaluated: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "samples_fair_adult_sex.jsonl").write_text(content)
    found = run("compare", evaluated / "fft", tmp_path)
    assert found.exit_code == 2
    assert message in found.stderr


def evaluating(family: Path, out: Path, *more: object, model: str = "fft") -> list[object]:
    where = ("--model", family / "run" / model, "-o", out, "--max-length", 16, "--quiet")
    return ["eval", *where, *more]


def test_a_description_is_a_task_of_its_own(
    family: Path, data: Path, evaluated: Path, tmp_path: Path
) -> None:
    """With the figures of a task over the same description."""
    found = run(*evaluating(family, tmp_path / "out", "--data", data, "--json"))
    assert found.exit_code == 0, found.output
    (evaluation,) = json.loads(found.stdout)
    expected = read(evaluated / "fft" / "fair_adult_sex.json")
    assert (evaluation["task"], expected["task"]) == ("tiny", "fair_adult_sex")
    assert evaluation["metrics"] == expected["metrics"]
    assert evaluation["groups"] == expected["groups"]
    assert (tmp_path / "out" / "samples_tiny.jsonl").is_file()


def test_what_a_description_alone_cannot_be(family: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refusal(evaluating(family, out), ConfigError, where="--tasks", allowed="--data FILE.yml")
    table = ("--data", family / "rows.csv")
    refusal(evaluating(family, out, *table), ConfigError, where="--tasks", got="rows.csv")
    both = ("--tasks", "fair_adult_sex", "--data", data, "--question", "Is it?")
    refusal(evaluating(family, out, *both), ConfigError, where="--tasks", got="Is it?")
    block = yaml.safe_load(data.read_text())
    for name in ("../elsewhere", "a/b", "..", "a:b"):
        (tmp_path / "data.yml").write_text(yaml.safe_dump({**block, "name": name}))
        words = evaluating(family, out, "--data", tmp_path / "data.yml")
        refusal(words, ConfigError, where="name of the data set", got=name)
    assert not out.exists()


def test_the_rows_as_a_table(family: Path, data: Path, tmp_path: Path) -> None:
    """Predictions and scores of every row, by which the figures can be measured again."""
    found = run(*evaluating(family, tmp_path / "out", "--data", data, "--rows", "--json"))
    assert found.exit_code == 0, found.output
    (evaluation,) = json.loads(found.stdout)
    rows = load_rows(load_spec(data)).of("validation")
    table = pd.read_csv(tmp_path / "out" / "rows_tiny.csv").set_index("id")
    assert sorted(table.index) == sorted(rows.ids.tolist())
    table = table.loc[rows.ids.tolist()]
    assert table["label"].tolist() == rows.labels.tolist()
    assert set(table["split"]) == {"validation"}
    assert ((table["logit_gap"] > 0).astype(int) == table["prediction"]).all()
    groups = [json.loads(cell) for cell in table["groups"]]
    measured = measure(rows.labels, table["prediction"].to_numpy(), groups).to_dict()
    for name in ("acc", "dpd", "eod"):
        assert measured["metrics"][name] == evaluation["metrics"][name]
    columns = ("--label", "label", "--prediction", "prediction", "--groups", "groups")
    again = run("measure", tmp_path / "out" / "rows_tiny.csv", *columns, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["metrics"] == evaluation["metrics"]


def test_an_evaluation_is_never_replaced_without_a_word(
    family: Path, data: Path, tmp_path: Path
) -> None:
    out, block = tmp_path / "out", ("--data", data)
    assert run(*evaluating(family, out, *block, "--rows")).exit_code == 0
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for changed in ((), ("--limit", 10), ("--split", "report"), ("--tasks", "fair_adult_sex")):
        words = evaluating(family, out, *block, *changed, model="lora")
        refusal(words, ConfigError, where=out, fix="--overwrite")
    # To read it in another way no model has to be run, and so it says.
    error = refusal(words, ConfigError, fix="mergekit-fair measure")
    command = str(error.fix).split("`")[1].split()[1:]
    again = json.loads(run(*command, "--confidence", 0.9, "--json").stdout)
    said = json.loads((out / "tiny.json").read_text())
    assert again["metrics"]["dpd"]["value"] == said["metrics"]["dpd"]["value"]
    assert again["metrics"]["dpd"] != said["metrics"]["dpd"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # Replaced: nothing of the old one stays beside the new one, nor goes what is none of its.
    tasks = ("--tasks", "fair_adult_sex", "--limit", 10, "--overwrite")
    assert run(*evaluating(family, out, *block, *tasks, model="lora")).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "fair_adult_sex.json",
        "lm_eval.json",
        "notes.txt",
        "samples_fair_adult_sex.jsonl",
    ]


def test_models_that_eval_cannot_open(family: Path, data: Path, tmp_path: Path) -> None:
    """Whatever transformers makes of them, one message names the folder."""
    for number, change in enumerate(
        (
            {"quantization_config": {"quant_method": "gguf"}},
            {"quantization_config": {}},
            {"quantization_config": "x"},
            {"id2label": 5},
            {"vocab_size": 7},
            {"pad_token_id": 9999},
            {"tokenizer.json": "{"},
            {"tokenizer_config.json": "[1]"},
            {"model.safetensors": ""},
            {"model.safetensors": None},
        )
    ):
        model = tmp_path / f"m{number}"
        shutil.copytree(family / "run" / "fft", model)
        ((key, value),) = change.items()
        if value is None:
            (model / key).unlink()
        elif "." in key:
            (model / key).write_text(str(value))
        else:
            config = json.loads((model / "config.json").read_text())
            (model / "config.json").write_text(json.dumps({**config, key: value}))
        words = ["eval", "--model", model, "--data", data, "--limit", 2, "--quiet"]
        found = run(*words, "-o", tmp_path / "out")
        assert found.exit_code == 2, (change, found.output)
        assert isinstance(found.exception, SystemExit)
        last = found.stderr.splitlines()[-1]
        assert last.startswith(f"Error: {model}"), (change, last)
        assert not list((tmp_path / "out").glob("*.json*"))


def test_a_file_in_the_place_of_the_folder(family: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    refusal(evaluating(family, tmp_path / "out", "--data", data), ConfigError, where="out")
    assert (tmp_path / "out").read_text() == "mine"
