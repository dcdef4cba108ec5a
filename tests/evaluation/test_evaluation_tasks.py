"""Documents of a task, predictions, and what is said when data cannot be had."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mergekit_fair.errors import DataError, FairError
from mergekit_fair.evaluation.tasks import ITEM_METRICS, answer, dataset, image, process_results

SPEC: dict[str, Any] = {
    "name": "small",
    "source": "rows.csv",
    "text": "text",
    "label": {"column": "label"},
    "groups": {"list": "groups", "separator": ";", "exclude": ["other"]},
    "splits": {"shares": {"train": 0.5, "validation": 0.2, "report": 0.3}, "seed": 0},
}
GROUPS = ("a", "b", "a;b", "other", "a;other", "")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """The path of a task's YAML; rows.csv lies beside it."""
    rows = [(f"text {row}", row % 2, GROUPS[row // 2 % 6]) for row in range(240)]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "groups"), *rows])
    (tmp_path / "task.yaml").write_text("task: small\n")
    return tmp_path / "task.yaml"


def documents(task: Path, **changes: Any) -> Any:
    given = {"spec": SPEC, "question": "Is it?", "config_source": str(task)}
    return dataset(**{**given, **changes})


def complaint(task: Path, **changes: Any) -> str:
    with pytest.raises(FairError) as caught:
        documents(task, **changes)
    return str(caught.value)


def test_fields_of_a_document(task: Path) -> None:
    found = documents(task, pretrained="some/model", dtype="float32", version=1.0)
    doc = found["evaluated"][0]
    assert doc["prompt"] == f"{doc['text']}\nIs it?\nAnswer:"
    assert doc["text"] == f"text {doc['id']}"
    assert (doc["label"], doc["split"]) == (doc["id"] % 2, "validation")
    for doc in found["evaluated"]:
        carried = [name for name in GROUPS[doc["id"] // 2 % 6].split(";") if name]
        assert doc["groups"] == carried
        assert doc["excluded"] == [name for name in carried if name == "other"]
    assert [] in found["evaluated"]["groups"]


def test_a_limit_is_a_random_sample_and_the_same_every_time(task: Path) -> None:
    ids = documents(task)["evaluated"]["id"]
    assert list(ids) == list(documents(task)["evaluated"]["id"])
    assert list(ids) != sorted(ids)
    assert abs(np.mean(ids[:22]) - np.mean(ids)) < 40  # the head of the file would be 60 lower
    assert len(set(ids)) == 44


def test_splits(task: Path) -> None:
    parts = {name: set(documents(task, split=name)["evaluated"]["id"]) for name in SPLITS}
    parts["train"] = set(documents(task)["train"]["id"])
    assert [len(parts[name]) for name in ("train", "validation", "report")] == [128, 44, 68]
    assert len(set.union(*parts.values())) == 240


SPLITS = ("validation", "report")


@pytest.mark.parametrize(
    ("split", "hint"),
    [
        ("test", "allowed: validation, report."),
        ("train", "Models are fitted on train"),
        ("validate", "Did you mean 'validation'?"),
        (3, "no such split to evaluate on: 3"),
    ],
)
def test_other_splits_are_refused(task: Path, split: object, hint: str) -> None:
    text = complaint(task, split=split)
    assert "task.yaml: no such split to evaluate on" in text
    assert hint in text


def test_few_shot_examples_are_few(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergekit_fair.evaluation.tasks.FEW_SHOT", 7)
    assert len(documents(task)["train"]) == 7


def test_a_description_in_a_file_beside_the_task(task: Path) -> None:
    import yaml

    (task.parent / "data.yml").write_text(yaml.safe_dump(SPEC))
    found = documents(task, spec="data.yml")["evaluated"]
    assert list(found["id"]) == list(documents(task)["evaluated"]["id"])
    assert "nowhere.yml" in complaint(task, spec="nowhere.yml")
    assert "must be a data block or the name of a YAML file" in complaint(task, spec=3)


def test_data_replaces_the_source_or_the_description(task: Path, tmp_path: Path) -> None:
    import yaml

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (task.parent / "rows.csv").rename(elsewhere / "other.csv")
    assert "no such file" in complaint(task)
    found = documents(task, data=str(elsewhere / "other.csv"))
    assert len(found["evaluated"]) == 44
    whole = {**SPEC, "source": "other.csv", "groups": {"column": "label"}}
    (elsewhere / "mine.yml").write_text(yaml.safe_dump(whole))
    described = documents(task, data=str(elsewhere / "mine.yml"))["evaluated"]
    assert set(map(tuple, described["groups"])) == {("0",), ("1",)}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("nowhere.csv", "metadata: data: no such file; got 'nowhere.csv'"),
        ("rows.txt", "metadata: data must be a file; got 'rows.txt'; allowed: .csv, .tsv, .jsonl"),
        ({"a": 1}, "metadata: data must be a file; got {'a': 1}"),
    ],
)
def test_data_that_is_no_file(task: Path, data: object, text: str) -> None:
    assert text in complaint(task, data=data)


def test_an_error_shows_the_way_to_another_file(task: Path) -> None:
    block = {**SPEC, "source": "hub:nobody/nothing"}
    text = complaint(task, spec=block)
    assert "the Hub data set 'nobody/nothing' cannot be loaded" in text
    assert """or name a file: --metadata '{"data": "FILE"}'.""" in text
    (task.parent / "short.csv").write_text("text\nx\n")
    text = complaint(task, data=str(task.parent / "short.csv"))
    assert "no column 'label'; allowed: text" in text
    assert "--metadata" not in text


def test_warnings_are_logged_once_a_task(task: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of an official report split, which holds texts of the dealt rows again."""
    header, *lines = (task.parent / "rows.csv").read_text().splitlines()
    lines = [f"{line},{part}" for part in ("mine", "test") for line in lines]
    (task.parent / "rows.csv").write_text("\n".join([f"{header},part", *lines]) + "\n")
    splits = {"column": "part", "names": {"report": "test"}, "deal": ["mine"]}
    splits["shares"] = {"train": 0.5, "validation": 0.5}
    with caplog.at_level(logging.WARNING):
        documents(task, spec={**SPEC, "splits": splits})
    found = [record.message for record in caplog.records if "identical inputs" in record.message]
    assert len(found) == 1
    assert found[0].startswith("small: ")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((-1.0, -2.0), 0),
        ((-2.0, -1.0), 1),
        ((-1.0, -1.0), 0),
        ((-math.inf, -9.0), 1),
        ((math.nan, -1.0), None),
        ((-1.0, math.nan), None),
        ((-math.inf, -math.inf), None),
    ],
)
def test_answers(values: tuple[float, float], expected: int | None) -> None:
    assert answer([(value, False) for value in values]) == expected


def test_metrics_of_a_document() -> None:
    doc = {"label": 1, "groups": ["a", "other"], "excluded": ["other"]}
    found = process_results(doc, [(-2.0, False), (-1.0, True)])
    assert {"bal_acc", "worst_group_acc", "selection_rate", "dpd", "eod"} <= set(ITEM_METRICS)
    assert found == {"acc": 1, **dict.fromkeys(ITEM_METRICS, (1, 1, ["a"])), "unanswered": 0}


def test_an_unanswered_document_is_wrong_and_has_no_prediction() -> None:
    doc = {"label": 0, "groups": ["a"], "excluded": []}
    found = process_results(doc, [(math.nan, False), (-1.0, True)])
    assert (found["acc"], found["unanswered"], found["dpd"]) == (0, 1, (None, 0, ["a"]))


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (3, 2), 200).save(tmp_path / "grey.png")
    (picture,) = image({"image": str(tmp_path / "grey.png")})
    assert (picture.mode, picture.size) == ("RGB", (3, 2))
    (tmp_path / "none.png").write_text("no picture")
    with pytest.raises(DataError, match=r"none\.png: is not a readable picture"):
        image({"image": str(tmp_path / "none.png")})
