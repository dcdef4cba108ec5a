"""Tasks of classes and of labels in a YAML file: `eval`, stock lm-eval, and transformers alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import many_answers
import pytest
import torch
import yaml
from classifiers import write_causal
from click.testing import CliRunner, Result
from many_answers import CLASSES, LABELS
from tiny import words_of

from mergekit_fair.cli import main
from mergekit_fair.evaluation.evaluate import MultiEvaluation, read_evaluation
from mergekit_fair.resources import tasks_dir

TASKS = {"speech": many_answers.classes_block, "comments": many_answers.labels_block}
NAMES = {"speech": CLASSES, "comments": LABELS}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file each, a classifier each, and a language model."""
    folder = tmp_path_factory.mktemp("many")
    table = many_answers.write_many(folder)
    for task, block in TASKS.items():
        write_task(folder / "tasks" / f"{task}.yaml", block(table))
    many_answers.write_head(folder / "models" / "speech")
    many_answers.write_label_head(folder / "models" / "comments")
    write_causal(folder / "models" / "lm")
    return folder


def write_task(path: Path, spec: dict[str, Any], **more: Any) -> Path:
    """A task of one's own, as `evals/README.md` says."""
    path.parent.mkdir(exist_ok=True)
    content = {
        "include": str(tasks_dir() / "_fair_binary"),
        "task": spec["name"],
        "dataset_kwargs": {"question": "What is it?", "spec": spec},
        "metadata": {"version": 1.0},
        **more,
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def evaluated(scene: Path, task: str, model: str, out: Path, *options: object) -> Result:
    return CliRunner().invoke(
        main,
        words_of(
            *("eval", "--model", scene / "models" / model, "--tasks", task, "-o", out, "--quiet"),
            *("--include-path", scene / "tasks", "--device", "cpu", "--min-group-size", 5),
            *options,
        ),
    )


def table_of(out: Path, task: str) -> list[dict[str, str]]:
    with (out / f"rows_{task}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_what_transformers_alone_predicts(task: str, scene: Path, tmp_path: Path) -> None:
    """Row by row: its texts by their numbers in the source, its head by its own names."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    result = evaluated(scene, task, task, tmp_path, "--rows", "--batch-size", 1)
    assert result.exit_code == 0, result.output
    model = AutoModelForSequenceClassification.from_pretrained(scene / "models" / task).eval()
    encode = AutoTokenizer.from_pretrained(scene / "models" / task)
    with (scene / "many.csv").open(newline="", encoding="utf-8") as file:
        source = list(csv.DictReader(file))
    rows = table_of(tmp_path, task)
    assert len(rows) > 80
    seen = set()
    for row in rows:
        given = source[int(row["id"])]
        inputs = encode(given["text"], return_tensors="pt", truncation=True, max_length=64)
        with torch.no_grad():
            (logits,) = model(**inputs).logits
        if task == "speech":
            assert model.config.problem_type != "multi_label_classification"
            log_probs = logits.log_softmax(-1)
            assert row["label"] == CLASSES[int(given["class"])]
            assert row["prediction"] == model.config.id2label[int(logits.argmax())]
            seen.add(row["prediction"])
        else:
            assert model.config.problem_type == "multi_label_classification"
            log_probs = torch.nn.functional.logsigmoid(logits)
            truth = (float(given["toxicity"]) >= 0.5, given["threat"] == "1")
            for name, has in zip(LABELS, truth, strict=True):
                said = torch.sigmoid(logits)[model.config.label2id[name]] > 0.5
                assert (row[f"label.{name}"], row[f"prediction.{name}"]) == (
                    str(int(has)),
                    str(int(said)),
                )
                seen.add((name, bool(said)))
        for name in NAMES[task]:
            expected = float(log_probs[model.config.label2id[name]])
            assert float(row[f"log_prob.{name}"]) == expected
        assert json.loads(row["groups"]) == [given["group"]]
    assert len(seen) >= 3  # else there is nothing to see


@pytest.mark.parametrize("task", TASKS)
def test_measure_reads_the_rows(task: str, scene: Path, tmp_path: Path) -> None:
    result = evaluated(scene, task, task, tmp_path, "--rows", "--json")
    assert result.exit_code == 0, result.output
    (evaluation,) = json.loads(result.stdout)
    if task == "speech":
        names = ("--label", "label", "--prediction", "prediction", "--classes", ",".join(CLASSES))
    else:
        names = ("--labels", ",".join(f"label.{n}:prediction.{n}" for n in LABELS))
    command = ("measure", tmp_path / f"rows_{task}.csv", *names, "--groups", "groups", "--json")
    again = CliRunner().invoke(main, words_of(*command, "--min-group-size", 5))
    assert again.exit_code == 0, again.output
    measured = json.loads(again.stdout)
    assert measured["acc"] == evaluation["acc"]
    for over in ("macro", "worst"):
        for gap, interval in evaluation[over].items():
            assert measured[over][gap] == pytest.approx(interval, abs=1e-12), gap


def stock(scene: Path, task: str, model: str, name: str) -> dict[str, Any]:
    """What lm-eval's own program computes."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=[str(scene / "tasks")],
        include_defaults=False,
        metadata={"split": "validation", "min_group_size": 5},
    )
    found = lm_eval.simple_evaluate(
        model=name,
        model_args={"pretrained": str(scene / "models" / model)},
        tasks=[task],
        task_manager=manager,
        batch_size=8,
        device="cpu",
        bootstrap_iters=0,
    )
    assert found is not None
    return dict(found)


@pytest.mark.parametrize(
    ("task", "model", "name"),
    [
        ("speech", "lm", "hf"),
        ("speech", "speech", "fair-classifier"),
        ("comments", "comments", "fair-classifier"),
    ],
)
def test_stock_lm_eval_gives_the_same_numbers(
    task: str, model: str, name: str, scene: Path, tmp_path: Path
) -> None:
    """To the last digit: results, versions, and the answer to every document.

    The log-probabilities of a language model, whose prompt is read once, but for rounding.
    """
    expected = stock(scene, task, model, name)
    result = evaluated(scene, task, model, tmp_path, "--batch-size", 8)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "lm_eval.json").read_text())
    assert written["results"] == json.loads(json.dumps(expected["results"]))
    for key in ("n-samples", "versions", "n-shot", "higher_is_better"):
        assert written[key] == json.loads(json.dumps(expected[key]))
    lines = (tmp_path / f"samples_{task}.jsonl").read_text().splitlines()
    for ours, theirs in zip(map(json.loads, lines), expected["samples"][task], strict=True):
        for key in ("doc_hash", "prompt_hash", "target_hash", "macro_dpd", "acc"):
            assert ours[key] == json.loads(json.dumps(theirs[key])), key
        values = [float(answer[0]) for answer in ours["filtered_resps"]]
        stocks = [float(answer[0]) for answer in theirs["filtered_resps"]]
        assert values == (pytest.approx(stocks, abs=1e-4) if model == "lm" else stocks)
    evaluation = read_evaluation(tmp_path / f"{task}.json")
    assert isinstance(evaluation, MultiEvaluation)
    for metric, interval in evaluation.metrics.items():
        assert interval.value == expected["results"][task][f"{metric},none"], metric
