"""Options of lm-eval that could change figures of ours without a word: right, or refused."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from refusals import raises
from task_tables import write_table

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.fair_task import METADATA, require_metadata
from mergekit_fair.resources import tasks_dir

TASK = "fair_redditbias"


def by_text(doc: dict[str, Any]) -> list[float]:
    """Right for some comments: another split has other figures."""
    number = int(str(doc["text"]).split()[-1])
    return [-1.0, -2.0] if number % 7 < 3 else [-2.0, -1.0]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the requests that lm-eval keeps."""
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path / "kept"))
    return tmp_path / "kept"


def figures(found: dict[str, Any], task: str = TASK) -> dict[str, float]:
    return {
        name: value
        for name, value in found["results"][task].items()
        if isinstance(value, float) and not math.isnan(value)
    }


@pytest.mark.slow
def test_kept_requests_are_those_of_the_same_documents(
    evaluate: Callable[..., Any], tmp_path: Path, kept: Path
) -> None:
    """lm-eval keeps requests under the task's name; the labels would be of other documents."""
    file = write_table("fair_redditbias", tmp_path)
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "rows.csv"
    other.write_text(file.read_text().replace("comment ", "another comment "))
    cases = [
        ({"data": str(file)}, {}),
        ({"data": str(file), "split": "report"}, {}),
        ({"data": str(other)}, {}),
        ({"data": str(file)}, {"samples": {TASK: [1, 3, 4]}}),
        ({"data": str(file)}, {"limit": 5}),
        ({"data": str(file)}, {"num_fewshot": 2}),
        ({"data": str(file)}, {"num_fewshot": 2, "fewshot_random_seed": 7}),
    ]
    for metadata, options in cases:
        expected = evaluate(TASK, by_text, metadata, **options)
        for _ in range(2):  # the second time they are read
            found = evaluate(TASK, by_text, metadata, cache_requests=True, **options)
            assert figures(found) == figures(expected)
            prompts = [sample["arguments"] for sample in found["samples"][TASK]]
            assert prompts == [sample["arguments"] for sample in expected["samples"][TASK]]
    # a limit takes the first of the kept requests; all else has some of its own
    assert len(list(kept.iterdir())) == len(cases) - 1


def test_kept_pictures_are_those_of_the_files(
    load: Callable[..., Any], tmp_path: Path, kept: Path
) -> None:
    from PIL import Image

    file = write_table("fair_utkface", tmp_path)
    seen = []
    for colour in (None, "white"):
        task = load("fair_utkface_gender", data=str(file))
        path = Path(task.eval_docs[0]["image"])
        if colour:
            Image.new("RGB", (4, 4), colour).save(path)
        task.build_all_requests(cache_requests=True)
        seen.append(task.instances[0].args[2]["visual"][0].getpixel((0, 0)))
    assert seen[0] != seen[1] == (255, 255, 255)
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize(
    "task",
    [
        *(TASK, "fair_toxigen", "fair_winogender", "fair_crows_pairs"),
        *("fair_bbq_generate", "fair_winobias"),
    ],
)
def test_predictions_alone(task: str, evaluate: Callable[..., Any], tmp_path: Path) -> None:
    metadata = {"data": str(write_table(task, tmp_path))}
    found = evaluate(task, lambda _: [-1.0, -2.0], metadata, predict_only=True)
    assert found["samples"][task]
    assert not figures(found, task)


def test_samples_by_number(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    metadata = {"data": str(write_table("fair_redditbias", tmp_path))}
    whole = evaluate(TASK, by_text, metadata)["samples"][TASK]
    some = evaluate(TASK, by_text, metadata, samples={TASK: [4, 0, 3]})["samples"][TASK]
    assert [s["doc"] for s in some] == [whole[number]["doc"] for number in (4, 0, 3)]
    assert [s["dpd"] for s in some] == [whole[number]["dpd"] for number in (4, 0, 3)]
    assert [s["doc_id"] for s in some] == [4, 0, 3]
    for wrong in ([], [1, 1], [-1], [len(whole)], ["1"], [True]):
        with raises(ConfigError, where=TASK, got=wrong):
            evaluate(TASK, by_text, metadata, samples={TASK: wrong})


def test_few_shot_examples_are_train_rows_and_follow_their_seed(
    evaluate: Callable[..., Any], load: Callable[..., Any], tmp_path: Path
) -> None:
    metadata = {"data": str(write_table("fair_redditbias", tmp_path))}
    train = set(load(TASK, **metadata).dataset["train"]["text"])
    prompts = {}
    for seed in (1, 2):
        found = evaluate(TASK, by_text, metadata, num_fewshot=3, fewshot_random_seed=seed)
        prompts[seed] = [s["arguments"][0][0] for s in found["samples"][TASK]]
        for sample, prompt in zip(found["samples"][TASK], prompts[seed], strict=True):
            *examples, own = prompt.split("\n\n")
            assert own.startswith(sample["doc"]["text"])
            assert len(examples) == 3
            assert {example.split("\n")[0] for example in examples} <= train
        assert figures(found) == figures(evaluate(TASK, by_text, metadata))
    assert prompts[1] != prompts[2]


def test_few_shot_examples_out_of_evaluated_rows_are_refused(
    load: Callable[..., Any], tmp_path: Path
) -> None:
    header, rows = "text,label,group,split\n", ""
    rows += "".join(f"comment {row},{row % 2},black,validation\n" for row in range(8))
    rows += "last,1,black,report\n"
    (tmp_path / "without.csv").write_text(header + rows)
    (tmp_path / "few.csv").write_text(f"{header}{rows}one,1,black,train\ntwo,0,black,train\n")
    block = yaml.safe_load((tasks_dir() / "fair_redditbias" / "data.yml").read_text())
    splits = {"column": "split", "names": {n: [n] for n in ("validation", "report")}}
    whole = {**block, "source": "without.csv", "splits": splits}
    (tmp_path / "without.yml").write_text(yaml.safe_dump(whole))
    for task, file, got in (
        (TASK, tmp_path / "without.yml", 0),
        (TASK, tmp_path / "few.csv", 2),
        ("fair_winogender", write_table("fair_winogender", tmp_path), 0),
        ("fair_crows_pairs", write_table("fair_crows_pairs", tmp_path), 0),
    ):
        built = load(task, data=str(file))
        built.build_all_requests()
        built.set_config("num_fewshot", 2)
        with raises(ConfigError, where=task, got=got):
            built.build_all_requests()


@pytest.mark.parametrize(
    ("key", "near"),
    [
        *(("Split", "split"), ("splits", "split"), ("spilt", "split"), ("dat", "data")),
        *(("dataset", "data"), ("data_path", "data"), ("DATA", "data"), ("data_file", "data")),
    ],
)
def test_a_misspelt_key_of_the_metadata(
    key: str, near: str, load: Callable[..., Any], tmp_path: Path
) -> None:
    metadata = {"data": str(write_table("fair_redditbias", tmp_path)), key: "report"}
    with raises(ConfigError, repr(key), repr(near), where=TASK, allowed=METADATA):
        load(TASK, **metadata)


@pytest.mark.parametrize("task", [TASK, "fair_toxigen"])
def test_metadata_that_the_task_gives_itself(
    task: str, load: Callable[..., Any], tmp_path: Path
) -> None:
    metadata: dict[str, Any] = {"data": str(write_table(task, tmp_path))}
    if task == TASK:
        with raises(ConfigError, where="question"):
            load(task, **metadata, question="Is it?")
    for wrong in (["a.csv"], 3, "rows.txt"):
        with pytest.raises(Exception, match="data must be a file"):
            load(task, **{**metadata, "data": wrong})


def test_arguments_of_models_are_no_mistakes() -> None:
    """lm-eval hands model arguments to the tasks with the metadata."""
    from lm_eval.models.api_models import TemplateAPI
    from lm_eval.models.huggingface import HFLM

    for kind in (HFLM, TemplateAPI):
        arguments = dict.fromkeys(inspect.signature(kind.__init__).parameters, 1)
        require_metadata({"task": "t", "metadata": arguments})


@pytest.mark.parametrize("named", ["file", "pattern", "folder", "option"])
def test_a_task_by_its_file_reads_beside_it(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval's command line hands over what a file says, without the file."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    folder = tmp_path / "own"
    folder.mkdir()
    write_table("fair_redditbias", folder).rename(folder / "rows.csv")
    block = yaml.safe_load((tasks_dir() / "fair_redditbias" / "data.yml").read_text())
    (folder / "data.yml").write_text(yaml.safe_dump({**block, "source": "rows.csv"}))
    task = {
        "include": str(tasks_dir() / "_fair_binary"),
        "task": "own",
        "dataset_kwargs": {"spec": "data.yml", "question": "Is it?"},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(task))
    (folder / "broken.yaml").write_text("include: nowhere\n")
    words = {
        "file": ["--tasks", str(folder / "own.yaml")],
        "pattern": ["--tasks", f"{tmp_path}/*/own.yaml"],
        "folder": ["--tasks", str(folder)],
        "option": [f"--tasks={folder / 'own.yaml'}"],
    }[named]
    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", *words])
    monkeypatch.chdir(tmp_path)
    handed_over = load_yaml(folder / "own.yaml", resolve_func=True)
    manager = TaskManager(include_defaults=False)
    built = manager.load([handed_over])["tasks"]["own"]
    assert built.config.metadata["config_source"] == str(folder / "own.yaml")
    assert len(built.eval_docs) > 5
    monkeypatch.setattr(sys, "argv", ["lm_eval"])
    with raises(ConfigError, "data.yml", fix="--include_path"):
        manager.load([handed_over])


def test_a_task_of_the_suite_by_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the command line says: a configuration file of lm-eval may name it."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", "--config", "run.yaml"])
    monkeypatch.chdir(tmp_path)
    metadata = {"data": str(write_table("fair_adult", tmp_path))}
    for name in ("fair_adult_sex", "fair_toxigen"):
        path = tasks_dir() / name.removesuffix("_sex") / f"{name}.yaml"
        if name == "fair_toxigen":
            metadata = {"data": str(write_table("fair_toxigen", tmp_path))}
        manager = TaskManager(include_defaults=False, metadata=metadata)
        task = manager.load([load_yaml(path, resolve_func=True)])["tasks"][name]
        assert Path(task.config.metadata["config_source"]) == path


def test_an_undefined_value_is_nan_in_lm_evals_own_results(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    """No number; its table and its JSON say nan."""
    from lm_eval.utils import handle_non_serializable, make_table

    rows = [f"comment {row},1,{('black', 'female')[row % 2]},validation" for row in range(8)]
    rows += ["last,1,black,report", "first,0,black,train"]
    file = tmp_path / "rows.csv"
    file.write_text("text,label,group,split\n" + "\n".join(rows) + "\n")
    found = evaluate(TASK, lambda _: [-1.0, -2.0], {"data": str(file)}, bootstrap_iters=10)
    assert math.isnan(found["results"][TASK]["bal_acc,none"])
    assert found["results"][TASK]["bal_acc_stderr,none"] == "N/A"
    (line,) = (line for line in make_table(found).splitlines() if "|bal_acc" in line)
    assert "NaN" in line
    written = json.dumps(found["results"], default=handle_non_serializable)
    assert math.isnan(json.loads(written)[TASK]["bal_acc,none"])


def test_weighted_rows_in_lm_evals_own_table(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    """A row of weight 3 counts as three rows do."""
    rows = [(f"comment {n}", n // 2 % 2, ("black", "female")[n % 2], 1 + n % 3) for n in range(24)]
    block = yaml.safe_load((tasks_dir() / "fair_redditbias" / "data.yml").read_text())
    found = {}
    for name in ("weighted", "repeated"):
        lines = ["text,label,group,split,w"]
        for text, label, group, weight in rows:
            times = 1 if name == "weighted" else weight
            lines += [f"{text}{'!' * i},{label},{group},validation,{weight}" for i in range(times)]
        lines += [f"{part},{n % 2},black,{part},1" for part in ("train", "report") for n in (0, 1)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
        more = {"weight": "w"} if name == "weighted" else {}
        whole = {**block, "source": f"{name}.csv", **more}
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(whole))
        metadata = {"data": str(tmp_path / f"{name}.yml")}
        results = evaluate(TASK, lambda doc: by_text({"text": doc["text"].strip("!")}), metadata)
        found[name] = figures(results)
    keys = ("acc", "dpd", "eod", "bal_acc", "selection_rate", "worst_group_acc")
    assert {found["weighted"][f"{key},none"] for key in keys}
    for key in keys:
        weighted, repeated = (found[name][f"{key},none"] for name in ("weighted", "repeated"))
        assert weighted == pytest.approx(repeated, abs=1e-12)
