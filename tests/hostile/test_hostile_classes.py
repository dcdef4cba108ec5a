"""Tasks and heads whose classes do not fit: refused, or found by name, and never mixed up."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import many_answers
import numpy as np
import pytest
import yaml
from checkpoints import rewrite
from many_answers import CLASSES, LABELS
from refusals import raises

from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.errors import CheckpointError, ConfigError, DataError
from mergekit_fair.evaluation.eval_run import EvaluationRun, run_tasks
from mergekit_fair.evaluation.evaluate import MultiEvaluation, evaluate
from mergekit_fair.evaluation.lm.choices import Choices
from mergekit_fair.evaluation.multi_predictions import MultiPredictions, read_samples_of
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.fairness import MetricSettings, measure_classes
from mergekit_fair.resources import tasks_dir

NUMBERS = {"column": "class", "classes": [0, 1, 2]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, and a head of its classes."""
    path = tmp_path_factory.mktemp("many")
    many_answers.write_many(path)
    many_answers.write_head(path / "classes")
    return path


Run = Callable[..., EvaluationRun]


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Run:
    """`run(label, model, **of the task's file)`: a task in a file of its own."""

    def of(
        label: Any = None, model: Path = folder / "classes", choice_map: Any = None, **more: Any
    ) -> EvaluationRun:
        changes = {} if label is None else {"label": label}
        spec = many_answers.classes_block(folder / "many.csv", **changes)
        content = {
            "include": str(tasks_dir() / "_fair_binary"),
            "task": "speech",
            "dataset_kwargs": {"question": "", "spec": spec},
            **more,
        }
        (tmp_path / "speech.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        request = EvaluationRequest(
            ("speech",),
            include_path=str(tmp_path),
            model_args={"choice_map": choice_map} if choice_map else {},
            min_group_size=1,
            limit=12,
        )
        return run_tasks(request, str(model), "validation", "cpu")

    return of


def said(finished: EvaluationRun) -> list[str]:
    """The class that is predicted of every document, by its id."""
    samples = finished.samples["speech"]
    by_id = {each["doc"]["id"]: each["doc"]["classes"][each["macro_dpd"][0]] for each in samples}
    return [by_id[number] for number in sorted(by_id)]


@pytest.mark.parametrize(
    ("label", "got", "match"),
    [
        ({"column": "class", "classes": {"hate": 0, "offensive": 1, "other": 3}}, None, "'2'"),
        ({"column": "klass", "classes": {"hate": 0, "offensive": 1, "neither": 2}}, None, "klass"),
        (
            {"column": "class", "classes": {"hate": 0, "offensive": 1, "neither": 2, "spam": 3}},
            "'2' (98), '1' (74), '0' (68)",
            "spam",
        ),
    ],
    ids=["a value of no class", "no such column", "a class without rows"],
)
def test_labels_that_the_table_does_not_have(
    label: Any, got: str | None, match: str, run: Run
) -> None:
    with raises(DataError, match) as caught:
        run(label)
    if got:
        assert caught.value.got == got


@pytest.mark.parametrize(
    ("classes", "match"),
    [
        (["hate", "hate", "neither"], "names a class twice"),
        ({"Hate": 0, "hate": 1, "neither": 2}, "differ in case"),
        ({"hate": [0, 1], "offensive": 1, "neither": 2}, "cannot be of two classes"),
        ({"hate": [0, 1, 2]}, "classes"),
        ({True: 1, False: 0}, "quote it"),
        ({"hate ": 0, "offensive": 1, "neither": 2}, "blanks"),
        ({"hate": "*", "offensive": "*", "neither": 2}, "cannot be of two classes"),
    ],
)
def test_descriptions_that_name_classes_badly(classes: Any, match: str, run: Run) -> None:
    with raises(ConfigError, match):
        run({"column": "class", "classes": classes})


def test_a_class_twice_in_the_file_of_a_task(run: Run, tmp_path: Path) -> None:
    """YAML would keep the last: rows of 0 were `neither` without a word."""
    run({"column": "class", "classes": {"hate": 0, "offensive": 1, "neither": "*"}})
    file = tmp_path / "speech.yaml"
    file.write_text(file.read_text().replace("offensive: 1", "hate: 1"))
    request = EvaluationRequest(("speech",), include_path=str(tmp_path))
    with raises(ConfigError, "'hate' stands twice", where=file):
        run_tasks(request, "", "validation", "cpu")


def test_classes_that_are_called_like_numbers(run: Run, tmp_path: Path) -> None:
    """A head that calls its class 0 "2" is asked for "2"; no number is taken for a place."""
    turned = many_answers.write_head(tmp_path / "turned", ("2", "0", "1"))
    names = dict(zip(("hate", "offensive", "neither"), ("2", "0", "1"), strict=True))
    assert said(run(NUMBERS, turned)) == [names[name] for name in said(run())]
    assert {"0", "1", "2"} == set(said(run(NUMBERS, turned)))
    by_place = {"0": 0, "1": 1, "2": 2}
    with raises(ConfigError, where="choice_map", got={"2": 0, "0": 1, "1": 2}):
        run(NUMBERS, turned, choice_map=by_place)
    nameless = many_answers.write_head(tmp_path / "nameless", ("LABEL_0", "LABEL_1", "LABEL_2"))
    with raises(ConfigError, got=["0", "1", "2"], fix="choice_map"):
        run(NUMBERS, nameless)
    places = {name: str(place) for place, name in enumerate(CLASSES)}
    found = said(run(NUMBERS, nameless, choice_map=by_place))
    assert found == [places[name] for name in said(run())]


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_heads_in_another_order_are_read_by_name(
    order: tuple[int, ...], run: Run, folder: Path, tmp_path: Path
) -> None:
    """Rows of the head and names turned alike give the same; names alone other predictions."""
    turned = many_answers.write_head(tmp_path / "turned", tuple(CLASSES[at] for at in order))
    renamed = said(run(model=turned))
    places = dict(zip(CLASSES, (CLASSES[at] for at in order), strict=True))
    assert renamed == [places[name] for name in said(run())]
    from safetensors.torch import load_file

    given = load_file(folder / "classes" / "model.safetensors")

    def turn(tensors: dict[str, Any]) -> None:
        for name in ("classifier.weight", "classifier.bias"):
            tensors[name] = given[name][list(order)].contiguous()

    rewrite(turned, turn)
    assert said(run(model=turned)) == said(run())


@pytest.mark.parametrize(
    "choices",
    [
        ["neither", "offensive", "hate"],
        [" Offensive", "hate", "neither"],
        ["hate", "offensive"],
        [*CLASSES, "spam"],
        "{{classes | reverse | list}}",
        {"a": "neither", "b": "hate", "c": "offensive"},
    ],
)
def test_choices_in_another_order_are_refused(choices: Any, run: Run) -> None:
    """A label is the number of a choice."""
    with raises(ConfigError, where="task speech: doc_to_choice", allowed=list(CLASSES)):
        run(doc_to_choice=choices)


@pytest.mark.parametrize("choices", [list(CLASSES), "{{classes}}", ["no", "yes"], None])
def test_choices_that_are_the_classes(choices: Any, run: Run) -> None:
    assert said(run(doc_to_choice=choices)) == said(run())


def test_heads_with_another_number_of_classes(run: Run, tmp_path: Path) -> None:
    few = many_answers.write_head(tmp_path / "few", CLASSES[:2])
    with raises(ConfigError, got=list(CLASSES), allowed=["hate", "offensive"]):
        run(model=few)
    more = many_answers.write_head(tmp_path / "more", ("spam", *CLASSES))
    finished = run(model=more)
    assert "'spam' is no choice of the task" in " ".join(finished.remarks)
    assert set(said(finished)) <= set(CLASSES)


def test_of_labels_others_change_nothing() -> None:
    names = dict(zip((*LABELS, "insult"), range(3), strict=True))
    assert Choices(names, 3, is_multi_label=True).left_out(LABELS) is None
    assert Choices(names, 3).left_out(LABELS)


def test_two_classes_of_one_name(run: Run, tmp_path: Path) -> None:
    """It was the last one's."""
    head = many_answers.write_head(tmp_path / "head")
    content = json.loads((head / "config.json").read_text())
    content["id2label"] = {"0": "hate", "1": "hate", "2": "neither"}
    del content["label2id"]
    (head / "config.json").write_text(json.dumps(content))
    named = {"column": "class", "classes": {"hate": [0, 1], "neither": 2}}
    with raises(CheckpointError, where=f"{head}: config.json: id2label"):
        run(named, head)


def test_the_advice_is_by_names_in_another_case(run: Run, tmp_path: Path) -> None:
    head = many_answers.write_head(tmp_path / "head", ("Neither", "HATE", "offensive"))
    with raises(ConfigError, fix="choice_map=hate:1;offensive:2;neither:0"):
        run(model=head)


def test_a_split_without_rows_of_a_class(folder: Path, tmp_path: Path) -> None:
    """Its EOD is undefined and said to be; the others decide, as `measure_classes` says."""
    with (folder / "many.csv").open() as file:
        rows = list(csv.DictReader(file))
    spec = load_spec(many_answers.classes_block(folder / "many.csv"))
    inside = set(load_rows(spec).of("validation").ids.tolist())
    kept = [row for at, row in enumerate(rows) if at not in inside or row["class"] != "0"]
    with (tmp_path / "cut.csv").open("w") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(kept)
    cut = load_spec(many_answers.classes_block(tmp_path / "cut.csv"))
    request = EvaluationRequest(cut, min_group_size=1)
    finished = run_tasks(request, str(folder / "classes"), "validation", "cpu")
    predictions = read_samples_of("speech", finished.samples["speech"])
    assert isinstance(predictions, MultiPredictions)
    assert not predictions.labels[:, 0].any()
    settings = MetricSettings(min_group_size=1, draws=50)
    found = evaluate(predictions, settings, model="m", split="validation")
    assert isinstance(found, MultiEvaluation)
    assert found.views["hate"].metrics["eod"].value is None
    assert any("'hate'" in text and "eod" in text for text in found.warnings)
    eods = [found.views[name].metrics["eod"].value for name in CLASSES[1:]]
    assert found.worst["eod"].value == max(eods)
    assert found.macro["eod"].value == pytest.approx(np.mean(eods))
    measured = measure_classes(
        np.array(CLASSES)[predictions.labels.argmax(axis=1)],
        np.array(CLASSES)[predictions.predicted.argmax(axis=1)],
        predictions.groups,
        classes=CLASSES,
        min_group_size=1,
        draws=50,
    )
    assert measured.metrics == found.metrics
    results = finished.results["results"]["speech"]
    assert {name: results[f"{name},none"] for name in found.metrics} == {
        name: interval.value for name, interval in found.metrics.items()
    }
