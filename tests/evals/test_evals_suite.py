"""Every task of the suite, end to end in lm-eval, on a small file with its columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from task_tables import write_table

from mergekit_fair.data import load_spec
from mergekit_fair.resources import tasks_dir

EVALS = Path(__file__).parents[2] / "evals"
# Of BBQ's categories, which differ in their name, one.
TASKS = sorted(
    path
    for path in EVALS.glob("*/*.yaml")
    if path.name != "_group.yaml"
    and (path.parent.name != "fair_bbq" or path.stem in ("fair_bbq", "fair_bbq_age"))
)
FAMILIES = sorted(path.parent for path in EVALS.glob("*/README.md"))
BENCHMARKS = (
    "fair_bbq",
    "fair_bbq_generate",
    "fair_discrim_eval",
    "fair_stereoset",
    "fair_winobias",
    "fair_winogender_gotcha",
)
OVER_ROWS = [
    path
    for path in TASKS
    if path.parent.name not in BENCHMARKS and "wraps:" not in path.read_text()
]

tasks = pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
over_rows = pytest.mark.parametrize("path", OVER_ROWS, ids=lambda path: path.stem)


def data(path: Path, folder: Path) -> dict[str, Any]:
    return {"data": str(write_table(path.parent.name, folder))}


def truth(doc: dict[str, Any]) -> list[float]:
    return [-1.0, -2.0] if doc["label"] == 0 else [-2.0, -1.0]


def item_names(result: dict[str, Any], task: str) -> set[str]:
    return {metric["metric"] for metric in result["configs"][task]["metric_list"]}


@tasks
def test_runs_end_to_end_and_declares_every_metric(
    path: Path, evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    found = evaluate(path.stem, lambda _: [-1.0, -2.0, -3.0, -4.0], data(path, tmp_path))
    samples = found["samples"][path.stem]
    assert samples
    assert {name for sample in samples for name in sample["metrics"]} == item_names(
        found, path.stem
    )
    assert found["results"][path.stem]["unanswered,none"] == 0
    assert found["versions"][path.stem] == 1.0


@over_rows
def test_a_perfect_model(path: Path, evaluate: Callable[..., Any], tmp_path: Path) -> None:
    found = evaluate(path.stem, truth, data(path, tmp_path))["results"][path.stem]
    assert (found["acc,none"], found["bal_acc,none"], found["worst_group_acc,none"]) == (1, 1, 1)
    assert found["eod,none"] == 0
    assert 0 <= found["dpd,none"] <= 1


@over_rows
def test_a_constant_model_shows(path: Path, evaluate: Callable[..., Any], tmp_path: Path) -> None:
    for choice, scores in ((0, [-1.0, -2.0]), (1, [-2.0, -1.0])):
        metadata = data(path, tmp_path)
        found = evaluate(path.stem, lambda _, s=scores: s, metadata)["results"][path.stem]
        assert (found["dpd,none"], found["eod,none"]) == (0, 0)
        assert (found["selection_rate,none"], found["bal_acc,none"]) == (choice, 0.5)


@tasks
def test_splits_are_disjoint_deterministic_and_in_random_order(
    path: Path, load: Callable[..., Any], tmp_path: Path
) -> None:
    metadata = data(path, tmp_path)
    found = {}
    for split in ("validation", "report"):
        docs = list(load(path.stem, split=split, **metadata).eval_docs)
        assert docs == list(load(path.stem, split=split, **metadata).eval_docs)
        found[split] = [tuple(map(str, doc.values())) for doc in docs]
        keys = [doc.get("id", row) for row, doc in enumerate(docs)]
        assert path not in OVER_ROWS or keys != sorted(keys)
    assert found["validation"]
    assert not set(found["validation"]) & set(found["report"])


@over_rows
def test_train_documents_are_none_of_the_evaluated(
    path: Path, load: Callable[..., Any], tmp_path: Path
) -> None:
    task = load(path.stem, **data(path, tmp_path))
    assert not set(task.dataset["train"]["id"]) & set(task.dataset["evaluated"]["id"])
    assert set(task.dataset["train"]["split"]) == {"train"}
    assert set(task.dataset["evaluated"]["split"]) == {"validation"}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@tasks
def test_every_kind_of_file_gives_the_same_documents(
    path: Path, suffix: str, load: Callable[..., Any], tmp_path: Path
) -> None:
    file = write_table(path.parent.name, tmp_path, suffix)
    ours = list(load(path.stem, data=str(file)).eval_docs)
    expected = list(load(path.stem, **data(path, tmp_path)).eval_docs)
    assert [{k: str(v) for k, v in doc.items()} for doc in ours] == [
        {k: str(v) for k, v in doc.items()} for doc in expected
    ]


def test_what_gives_a_group_away_is_not_in_the_text() -> None:
    withheld = {
        "fair_adult": {"sex", "race", "relationship"},
        "fair_compas": {"race", "name", "first", "last", "decile_score", "score_text"},
        "fair_german": {"personal_status", "foreign_worker"},
    }
    for family, columns in withheld.items():
        for path in (EVALS / family).glob("*.yml"):
            text = load_spec(path).text
            assert text is not None
            assert not columns & {name for _, name in text.pieces()}


def test_overlapping_groups_and_thresholds(load: Callable[..., Any], tmp_path: Path) -> None:
    file = write_table("fair_civil_comments", tmp_path)
    docs = list(load("fair_civil_comments_religion", data=str(file)).eval_docs)
    assert {doc["label"] for doc in docs} == {0, 1}
    assert any(len(doc["groups"]) == 1 for doc in docs)
    assert any(doc["excluded"] == ["other_religion"] for doc in docs)


def test_one_document_a_comment_and_the_groups_that_half_of_its_annotators_name(
    load: Callable[..., Any], tmp_path: Path
) -> None:
    file = write_table("fair_dlab_hate", tmp_path)
    task = load("fair_dlab_hate_gender", data=str(file))
    texts = [doc["text"] for name in ("train", "evaluated") for doc in task.dataset[name]]
    assert len(texts) == len(set(texts))
    assert all(len(doc["groups"]) == 1 for doc in task.eval_docs)


@pytest.mark.parametrize("folder", FAMILIES, ids=lambda folder: folder.name)
def test_a_family_is_complete(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    for path in folder.glob("*.yaml"):
        name = path.stem if path.name != "_group.yaml" else folder.name
        assert f"`{name}`" in text
    for heading in ("### Paper", "### Citation", "### Groups and Tasks", "### Data", "### Splits"):
        assert heading in text
    for heading in ("### Prompt", "### Checklist", "### Changelog"):
        assert heading in text
    for word in ("Homepage:", "License:", "Verified:"):
        assert word in text
    assert f"`{folder.name}" in (EVALS / "README.md").read_text()


def test_every_folder_is_a_family() -> None:
    assert {path.parent for path in TASKS} == set(FAMILIES)


def test_groups_hold_the_tasks_of_their_folder() -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in EVALS.glob("*/_group.yaml"):
        group = load_yaml(path)
        stems = {task.stem for task in path.parent.glob("*.yaml")} - {"_group"}
        name = path.parent.name
        parts = stems - {name}  # a task of the folder's name is the whole of its parts
        assert group["group"] == (name if parts == stems else f"{name}_categories")
        assert set(group["task"]) == parts
        # Averages of gaps over attributes mean nothing.
        assert "aggregate_metric_list" not in group
    for folder in FAMILIES:
        several = len([path for path in TASKS if path.parent == folder]) > 1
        assert (folder / "_group.yaml").is_file() == several


def test_descriptions_are_complete_and_can_train() -> None:
    """A description is also what `train.yml` takes as its data."""
    for path in EVALS.glob("*/data*.yml"):
        if path.parent.name != "fair_redditbias":  # its file is named by an environment variable
            spec = load_spec(path)
            assert spec.name.startswith(path.parent.name)
            assert set(spec.splits.present) == {"train", "validation", "report"}


def test_excluded_groups_and_the_settings_of_the_paper() -> None:
    specs = {p.stem.removeprefix("data_"): load_spec(p) for p in EVALS.glob("fair_dlab_hate/*.yml")}
    assert specs["gender"].groups.exclude == specs["race"].groups.exclude == ("other",)
    assert specs["gender"].label.bound == ("gt", 0.5)
    assert len(specs["gender"].groups.columns) == 7
    assert len(specs["race"].groups.columns) == 8
    for path in EVALS.glob("fair_civil_comments/*.yml"):
        spec = load_spec(path)
        assert (spec.label.bound, spec.groups.bound) == (("gt", 0.5), ("gt", 0.5))
    for path in EVALS.glob("fair_utkface/*.yml"):
        assert load_spec(path).label.bound == ("gt", 30)


def test_tasks_dir_is_this_folder() -> None:
    assert tasks_dir() == EVALS


def test_missing_file_and_missing_column(load: Callable[..., Any], tmp_path: Path) -> None:
    from mergekit_fair.errors import DataError

    for path in TASKS:
        file = write_table(path.parent.name, tmp_path)
        lines = file.read_text().splitlines()
        (tmp_path / "short.csv").write_text("nothing\n" + "\n".join("1" for _ in lines[1:]) + "\n")
        with pytest.raises(DataError, match=r"no column '.*allowed: nothing"):
            load(path.stem, data=str(tmp_path / "short.csv"))


def test_nothing_stands_in_for_the_hub(load: Callable[..., Any]) -> None:
    from mergekit_fair.errors import DataError, FairError

    on_the_hub: tuple[str, ...] = (
        "fair_civil_comments_gender",
        "fair_dlab_hate_race",
        "fair_utkface_gender",
    )
    on_the_hub += ("fair_toxigen", "fair_winogender", "fair_crows_pairs", "fair_winobias")
    for task in on_the_hub:
        with pytest.raises(DataError) as caught:
            load(task)
        assert "cannot be loaded" in str(caught.value)
        assert """--metadata '{"data": "FILE"}'""" in str(caught.value)
    with pytest.raises(FairError, match=r"REDDITBIAS_CSV is not set.*--metadata"):
        load("fair_redditbias")


def test_no_groups_at_all_give_nan(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    from task_tables import table

    frame = table("fair_adult")
    frame["sex"] = "Male"
    frame.to_csv(tmp_path / "men.csv", index=False)
    metadata = {"data": str(tmp_path / "men.csv")}
    found = evaluate("fair_adult_sex", truth, metadata)["results"]["fair_adult_sex"]
    assert math.isnan(found["dpd,none"])
    assert math.isnan(found["eod,none"])
    assert found["acc,none"] == 1
