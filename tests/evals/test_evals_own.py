"""A task of one's own in one YAML, pictures inside a table, few-shot prompts, odd answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from refusals import raises
from task_tables import write_table

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.tasks import LabelAnswer

EVALS = Path(__file__).parents[2] / "evals"
OWN = """
include: {base}
task: my_comments
dataset_kwargs:
  question: "Is it so?"
  spec:
    name: my_comments
    source: comments.csv
    text: {{column: text}}
    label: {{column: label}}
    groups: {{column: group}}
    splits: {{shares: {{train: 0.5, validation: 0.2, report: 0.3}}, seed: 0}}
metadata: {{version: 2.0}}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write_table("fair_redditbias", tmp_path).rename(tmp_path / "comments.csv")
    (tmp_path / "mine.yaml").write_text(OWN.format(base=EVALS / "_fair_binary"))
    return tmp_path


def test_an_own_task(own: Path, evaluate: Callable[..., Any]) -> None:
    found = evaluate("my_comments", lambda _: [-1.0, -2.0], folder=own)
    assert found["results"]["my_comments"]["selection_rate,none"] == 0
    assert found["versions"]["my_comments"] == 2.0


def test_few_shot_examples_are_train_rows(own: Path, evaluate: Callable[..., Any]) -> None:
    found = evaluate("my_comments", lambda _: [-1.0, -2.0], folder=own, num_fewshot=2)
    for sample in found["samples"]["my_comments"]:
        context, continuation = sample["arguments"][1]
        assert context.count("Is it so?\nAnswer:") == 3
        assert context.endswith(f"{sample['doc']['text']}\nIs it so?\nAnswer:")
        assert continuation == " yes"


def test_documents_without_an_answer_are_counted(own: Path, evaluate: Callable[..., Any]) -> None:
    def choose(doc: dict[str, Any]) -> list[float]:
        if doc["id"] % 2:
            return [math.nan, -1.0]
        return [-math.inf, -math.inf] if doc["id"] % 4 else [-1.0, -2.0]

    found = evaluate("my_comments", choose, folder=own)
    samples = found["samples"]["my_comments"]
    missing = sum(sample["doc"]["id"] % 4 != 0 for sample in samples)
    assert found["results"]["my_comments"]["unanswered,none"] == missing / len(samples)
    assert {sample["dpd"][0] for sample in samples} == {0, None}


def test_an_unknown_key_is_an_error_with_the_near_name(own: Path, load: Callable[..., Any]) -> None:
    from mergekit_fair.errors import ConfigError

    text = (own / "mine.yaml").read_text().replace("splits:", "split:")
    (own / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml: spec: unknown key 'split'; did you mean"):
        load("my_comments", folder=own)


def test_pictures_inside_a_table(
    tmp_path: Path,
    evaluate: Callable[..., Any],
    load: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the Hub's image columns read: a mapping of bytes and path."""
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(tmp_path / "cache"))
    frame = pd.read_csv(write_table("fair_utkface", tmp_path))
    frame["image"] = [
        {"bytes": (tmp_path / name).read_bytes(), "path": name} for name in frame["image"]
    ]
    frame.to_parquet(tmp_path / "faces.parquet")
    metadata = {"data": str(tmp_path / "faces.parquet")}
    found = evaluate("fair_utkface_race", lambda _: [-1.0, -2.0], metadata)
    assert 2 <= len(found["samples"]["fair_utkface_race"]) <= 30  # a fifth of 60, by their bytes
    task = load("fair_utkface_race", **metadata)
    assert task.MULTIMODAL
    for doc in task.eval_docs:
        (picture,) = task.doc_to_image(doc)
        assert picture.mode == "RGB"
        assert picture.getpixel((0, 0)) == (doc["id"], 0, 255 - doc["id"])
        assert doc["prompt"] == "Is the person in this picture older than 30?\nAnswer:"


def test_excluded_groups_decide_nothing(tmp_path: Path, evaluate: Callable[..., Any]) -> None:
    """A model that says yes to everybody of Other and no to all else has no gap."""
    metadata = {"data": str(write_table("fair_adult", tmp_path))}
    found = evaluate(
        "fair_adult_race",
        lambda doc: [-2.0, -1.0] if "Other" in doc["groups"] else [-1.0, -2.0],
        metadata,
    )
    results = found["results"]["fair_adult_race"]
    assert 0 < results["selection_rate,none"] < 1
    assert (results["dpd,none"], results["eod,none"]) == (0, 0)


def test_small_groups_decide_nothing_unless_the_metadata_say_so(
    own: Path, evaluate: Callable[..., Any], load: Callable[..., Any]
) -> None:
    """As in `eval`: 30 documents, and another number of them where it is asked for."""
    model = {"choose": lambda doc: [-1.0, -2.0] if doc["label"] else [-2.0, -1.0], "folder": own}
    loose = evaluate("my_comments", **model)["results"]["my_comments"]
    strict = evaluate("my_comments", metadata={"min_group_size": 10_000}, **model)["results"][
        "my_comments"
    ]
    assert loose["dpd,none"] >= 0
    assert math.isnan(strict["dpd,none"])
    assert strict["acc,none"] == loose["acc,none"]
    for wrong in (0, "5", 2.5):
        with raises(ConfigError, where="metadata.min_group_size", got=wrong):
            load("my_comments", folder=own, min_group_size=wrong)
    with raises(ConfigError, "min_group_size", where="metadata"):
        load("my_comments", folder=own, min_groupsize=3)


def write_posts(folder: Path) -> None:
    """The tables that the tasks in `evals/README.md` name."""
    count = range(240)
    shared = {"toxicity": [(row * 7 % 10) / 10 for row in count]}
    comments = {
        **shared,
        "comment": [f"comment {row}" for row in count],
        "comment_id": list(count),
        "language": ["en" if row % 6 else "fr" for row in count],
        "male": [row % 2 for row in count],
        "female": [1 - row % 2 for row in count],
    }
    posts = {
        **shared,
        "post": [f"post {row}" for row in count],
        "class": [row * 5 % 4 for row in count],
        "threat": [row % 3 % 2 for row in count],
        "kind": [("insult", "slur", "fact", "praise", "joke")[row % 5] for row in count],
        "dialect": ["ab"[row % 2] for row in count],
    }
    pd.DataFrame(comments).to_parquet(folder / "comments.parquet")
    pd.DataFrame(posts).to_csv(folder / "posts.csv", index=False)


def test_the_tasks_of_the_readme(
    tmp_path: Path, evaluate: Callable[..., Any], load: Callable[..., Any]
) -> None:
    """Every block is a task that runs, and a model that knows the truth is right."""
    write_posts(tmp_path)
    text = (EVALS / "README.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    found = {}
    for block in blocks:
        task = yaml.safe_load(block)["task"]
        own = block.replace("/path/of/mergekit-fair tasks-dir", str(EVALS))
        (tmp_path / f"{task}.yaml").write_text(own, encoding="utf-8")
        choices = load(task, folder=tmp_path).config.doc_to_choice

        def truth(doc: dict[str, Any], choices: list[str] = choices) -> list[Any]:
            if "labels" in doc:
                return [LabelAnswer(-1.0 + 0.9 * has, bool(has)) for has in doc["label"]]
            return [-float(number != doc["label"]) for number in range(len(choices))]

        if task == "my_moderation":
            with raises(ConfigError, fix="one data set per label"):
                evaluate(task, lambda _: [-1.0] * 3, folder=tmp_path)
        found[task] = evaluate(task, truth, folder=tmp_path)["results"][task]
        assert found[task]["acc,none"] == 1, task
        gap = "eod,none" if task == "my_comments" else "worst_eod,none"
        assert found[task][gap] == 0
    assert list(found) == ["my_comments", "my_speech", "my_moderation"]
