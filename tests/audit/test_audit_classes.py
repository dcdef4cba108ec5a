"""`audit` of a merge of classifiers on a task of classes and on one of labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import many_answers
import pytest
import yaml
from checkpoints import rewrite
from click.testing import CliRunner, Result
from many_answers import CLASSES, LABELS
from refusals import refusal
from tiny import words_of

from mergekit_fair.checkpoints.trained_rows import TrainedRows
from mergekit_fair.cli import main
from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.errors import MeasurementError
from mergekit_fair.resources import tasks_dir

TASKS = {"speech": many_answers.classes_block, "comments": many_answers.labels_block}
HEADS = {"speech": many_answers.write_head, "comments": many_answers.write_label_head}
NAMES = {"speech": CLASSES, "comments": LABELS}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, words_of(*arguments))


@pytest.fixture(scope="module", params=TASKS)
def scene(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two models of a task, which is in a file of its own, and a recipe of them."""
    import torch

    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    spec = TASKS[task](many_answers.write_many(folder))
    content = {
        "include": str(tasks_dir() / "_fair_binary"),
        "task": task,
        "dataset_kwargs": {"question": "", "spec": spec},
    }
    (folder / "tasks").mkdir()
    (folder / "tasks" / f"{task}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for seed, name in enumerate(("base", "blue", "green")):

        def move(tensors: dict[str, Any], seed: int = seed) -> None:
            draw = torch.Generator().manual_seed(seed)
            for tensor in tensors.values():
                tensor += 0.05 * seed * torch.randn(tensor.shape, generator=draw)

        rewrite(HEADS[task](folder / name, NAMES[task]), move)
    members = [
        {"model": str(folder / name), "parameters": {"group": name, "weight": 1.0}}
        for name in ("blue", "green")
    ]
    recipe = {
        "merge_method": "subgroup_task_addition",
        "base_model": str(folder / "base"),
        "models": members,
        "parameters": {"lambda": 0.5},
        "dtype": "float32",
    }
    (folder / "recipe.yml").write_text(yaml.safe_dump(recipe))
    return folder


def audited(scene: Path, out: Path, *options: object) -> list[object]:
    task = next((scene / "tasks").iterdir()).stem
    return [
        *("audit", scene / "recipe.yml", "--tasks", task, "--include-path", scene / "tasks"),
        *("-o", out, "--device", "cpu", "--split", "validation", "--min-group-size", 5),
        *("--quiet", *options),
    ]


def test_figures_are_those_of_merge_and_eval(scene: Path, tmp_path: Path) -> None:
    task = next((scene / "tasks").iterdir()).stem
    met = (
        f"{task}/worst_dpd <= 1.0",
        f"{task}/macro_eod <= base + 1.0",
        f"{task}/{NAMES[task][0]}.selection_rate/blue <= base + 1.0",
    )
    asked = [word for text in met for word in ("--require", text)]
    found = run(*audited(scene, tmp_path / "audit", "--json", *asked))
    assert found.exit_code == 0, found.output
    assert [each["met"] for each in json.loads(found.stdout)["requirements"]] == [True] * 3
    told = json.loads(found.stdout)["tasks"][task]
    assert list(told["models"]) == ["base", "blue", "green", "merge"]
    assert run("merge", scene / "recipe.yml", tmp_path / "merged", "--quiet").exit_code == 0
    for name, model in (("merge", tmp_path / "merged"), ("blue", scene / "blue")):
        alone = run(
            *("eval", "--model", model, "--tasks", task, "--include-path", scene / "tasks"),
            *("-o", tmp_path / name, "--device", "cpu", "--min-group-size", 5, "--quiet"),
        )
        assert alone.exit_code == 0, alone.output
        evaluation = json.loads((tmp_path / name / f"{task}.json").read_text())
        figures = {"acc": evaluation["acc"]} | {
            f"{over}_{gap}": evaluation[over][gap]
            for over in ("macro", "worst")
            for gap in ("dpd", "eod")
        }
        assert told["models"][name] == figures
        for group, rates in told["groups"][name].items():
            for view in NAMES[task]:
                expected = evaluation["views"][view]["groups"][group]["selection_rate"]
                assert rates[f"{view}.selection_rate"]["value"] == expected
    for parent, differences in told["differences"].items():
        for metric in figures:
            gap = differences[metric]
            values = [told["models"][name][metric]["value"] for name in ("merge", parent)]
            assert gap["value"] == pytest.approx(values[0] - values[1], abs=1e-12)


def test_rows_that_a_parent_was_trained_on_are_said(scene: Path, tmp_path: Path) -> None:
    """A parent that knows a third of the validation rows: refused, or counted and said."""
    task = next((scene / "tasks").iterdir()).stem
    spec = load_spec(TASKS[task](scene / "many.csv"))
    rows = load_rows(spec).of("validation")
    seen = rows.take(range(0, len(rows), 3))
    TrainedRows.of(seen).write(scene / "green")
    try:
        texts = set(seen.inputs)
        count = sum(text in texts for text in rows.inputs)
        words = audited(scene, tmp_path / "audit")
        refusal(
            words, MeasurementError, f"{count} of the", where="green", fix="--allow-trained-rows"
        )
        found = run(*words, "--allow-trained-rows", "--json")
        assert found.exit_code == 0, found.output
        warnings = json.loads(found.stdout)["tasks"][task]["warnings"]
        text = f"the model was trained on {count} of these {len(rows)} rows"
        (said,) = [warning for warning in warnings if text in warning]
        assert said.startswith("green, merge: ")
    finally:
        (scene / "green" / ".train_rows.npz").unlink()
