"""Sweeps over lm-eval tasks: the numbers of `eval`, for classifiers and causal models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from classifiers import write_causal
from click.testing import CliRunner
from refusals import raises

from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.checked_folder import require_proof
from mergekit_fair.sweep.preparation import prepared
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.sweep_config import load_sweep

PLAIN = {
    "task": "plain",
    "dataset_path": "csv",
    "output_type": "multiple_choice",
    "validation_split": "validation",
    "doc_to_text": "{{text}}",
    "doc_to_target": "label",
    "doc_to_choice": ["no", "yes"],
    "metric_list": [{"metric": "acc"}],
}
COMPARED = ("acc", "dpd", "eod", "bal_acc", "worst_group_acc", "selection_rate")


@pytest.fixture(scope="module")
def data(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's data description as a file of its own."""
    path = tmp_path_factory.mktemp("data") / "data.yml"
    path.write_text(yaml.safe_dump(tiny.data_block(family / "rows.csv")))
    return path


def measured(model: Path, tasks: str, data: Path, out: Path, *more: object) -> dict[str, Any]:
    arguments = ["eval", "--model", model, "--tasks", tasks, "--data", data, "-o", out, "--quiet"]
    found = CliRunner().invoke(main, [str(argument) for argument in (*arguments, *more)])
    assert found.exit_code == 0, found.output
    return json.loads((out / f"{tasks.split(',')[0]}.json").read_text())


def values(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {name: evaluation["metrics"][name] for name in COMPARED}


def scores(folder: Path, task: str) -> dict[int, float]:
    """Row → score, of `eval`'s samples."""
    lines = (folder / f"samples_{task}.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    found = {}
    for sample in samples:
        first, second = (float(answer[0]) for answer in sample["filtered_resps"])
        found[sample["doc"]["id"]] = sample.get("logit_gap", second - first)
    return found


def test_a_sweep_over_two_tasks_has_the_numbers_of_eval(
    family: Path, data: Path, tmp_path: Path
) -> None:
    """The second task, with other groups, is a constraint."""
    tasks = ["fair_adult_sex", "fair_adult_race"]
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        grid={"lambda": [0, 0.3]},
        evaluate={"tasks": tasks, "data": str(data), "max_length": 16, "device": "cpu"},
        baselines={"fft": str(family / "run" / "fft")},
        controls=[],
        inject=None,
        select={"subject_to": {"fair_adult_race/acc": ">= 0.1", "saturated": True}},
    )
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent()).to_dict()
    assert results["selected"]["label"] == "λ=0.3"
    assert "fair_adult_race/acc >= 0.1" in results["selected"]["rule"]
    from mergekit.options import MergeOptions

    from mergekit_fair.merging.recipe import Recipe
    from mergekit_fair.merging.to_disk import merge_to_folder

    recipe = Recipe.load(tmp_path / "out" / "selected" / "recipe.yml")
    merge_to_folder(recipe, tmp_path / "model", MergeOptions(quiet=True))
    models = {"λ=0.3": tmp_path / "model", "fft": family / "run" / "fft"}
    store = Store(tmp_path / "out")
    for label, model in models.items():
        for split, lines in (("validation", results["points"]), ("report", results["report"])):
            line = next(line for line in lines if line["label"] == label)
            out = tmp_path / f"{label}-{split}"
            both = ",".join(tasks)
            expected = measured(model, both, data, out, "--split", split, "--max-length", 16)
            assert values(line["evaluation"]) == values(expected)
            other = json.loads((out / "fair_adult_race.json").read_text())
            assert values(line["tasks"]["fair_adult_race"]) == values(other)
            found = store.scores(line["id"], split)
            margins = scores(out, "fair_adult_sex")
            assert found[: len(margins)].tolist() == list(margins.values())  # to the bit
    store.close()


def test_thresholds_beside_several_tasks_are_of_the_first(
    family: Path, data: Path, tmp_path: Path
) -> None:
    """They were taken for scores of all tasks."""
    tasks = ["fair_adult_sex", "fair_adult_race"]
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        grid={"lambda": [0.3]},
        evaluate={"tasks": tasks, "data": str(data), "device": "cpu", "min_group_size": 1},
        baselines={"fft": str(family / "run" / "fft")},
        controls=["threshold"],
        thresholds="fft",
        inject=None,
        select=tiny.FEWEST,
    )
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    kinds = {p.kind: list(p.evaluations) for p in results.report}
    assert kinds["thresholds"] == kinds["cutoff"] == tasks[:1]
    assert kinds["merge"] == tasks
    first = (tmp_path / "out" / "results.json").read_bytes()
    run_sweep(load_sweep(path), tmp_path / "out", Silent())
    assert (tmp_path / "out" / "results.json").read_bytes() == first
    require_proof(tmp_path / "out")


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_family(tmp_path_factory.mktemp("causal"), "llama")


def write_causal_family(folder: Path, architecture: str, **changes: Any) -> Path:
    """A base and two subgroup models: causal models that differ a little."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_causal(folder / "base", architecture, **changes)
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    for seed, name in enumerate(("blue", "green"), 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def merged(causal: Path) -> dict[str, Any]:
    models = [
        {"model": str(causal / name), "parameters": {"group": name, "weight": 1.0}}
        for name in ("blue", "green")
    ]
    return {
        "merge_method": "subgroup_task_addition",
        "base_model": str(causal / "base"),
        "models": models,
        "parameters": {"lambda": 0.5},
        "dtype": "float32",
    }


def test_causal_models_have_the_numbers_of_eval(causal: Path, data: Path, tmp_path: Path) -> None:
    """Tokenised once: the second point is scored from the first one's tokens."""
    path = tiny.write_sweep(
        causal,
        tmp_path / "sweep.yml",
        recipe=merged(causal),
        grid={"lambda": [0.5, 1]},
        evaluate={"tasks": ["fair_adult_sex"], "data": str(data), "limit": 40, "device": "cpu"},
        baselines={"base": str(causal / "base")},
        controls=["random"],
        inject=None,
        select={},
    )
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent()).to_dict()
    from mergekit.options import MergeOptions

    from mergekit_fair.merging.recipe import Recipe
    from mergekit_fair.merging.to_disk import merge_to_folder

    store = Store(tmp_path / "out")
    for scale in (0.5, 1.0):
        made = Recipe.from_mapping({**merged(causal), "parameters": {"lambda": scale}}, "r.yml")
        merge_to_folder(made, tmp_path / str(scale), MergeOptions(quiet=True))
        out = tmp_path / f"eval-{scale}"
        expected = measured(tmp_path / str(scale), "fair_adult_sex", data, out, "--limit", 40)
        line = next(line for line in results["points"] if line["label"] == f"λ={scale:g}")
        assert line["evaluation"]["n"] == 40
        assert values(line["evaluation"]) == values(expected)
        margins = scores(out, "fair_adult_sex")
        assert store.scores(line["id"], "validation").tolist() == list(margins.values())
    store.close()
    assert {line["kind"] for line in results["points"]} == {"baseline", "merge", "control"}


@pytest.mark.parametrize(
    ("evaluate", "text"),
    [
        ({"tasks": ["plain"]}, "plain: is no fairness task"),
        ({"tasks": ["fair_adult_sex"], "question": "So?"}, "question is for data"),
        ({"tasks": ["fair_adult_sex"], "data": "no.csv"}, "no such file; with tasks it is the"),
        ({"tasks": ["fair_adult_sex"], "limit": 0}, "evaluate.limit"),
    ],
)
def test_what_tasks_cannot_be_is_said(
    family: Path, tmp_path: Path, evaluate: dict[str, Any], text: str
) -> None:
    if evaluate.get("data") == {}:
        evaluate = {**evaluate, "data": tiny.data_block(family / "rows.csv")}
    if evaluate.get("tasks") == ["plain"]:
        files = {"validation": str(family / "rows.csv")}
        plain = {**PLAIN, "dataset_kwargs": {"data_files": files}}
        (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plain))
        evaluate = {**evaluate, "include_path": str(tmp_path)}
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", evaluate=evaluate)
    found = CliRunner().invoke(main, ["sweep", str(path), "-o", str(tmp_path / "out")])
    assert found.exit_code == 2, found.output
    assert text in found.stderr
    assert "Traceback" not in found.output
    assert not (tmp_path / "out" / "points.jsonl").exists()


def test_a_rule_about_a_task_that_is_not_measured(family: Path, data: Path, tmp_path: Path) -> None:
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        evaluate={"tasks": ["fair_adult_sex"], "data": str(data)},
        select={"subject_to": {"other/acc": ">= 0.5"}},
    )
    with pytest.raises(ConfigError, match="select names a task that is not measured; got 'other'"):
        run_sweep(load_sweep(path), tmp_path / "out", Silent())


TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def chat(causal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family, whose base alone has a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "family"
    shutil.copytree(causal, folder)
    (folder / "base" / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def chat_sweep(chat: Path, data: Path, path: Path, **changes: Any) -> Path:
    options = {"apply_chat_template": True, "system_instruction": "Be fair."}
    return tiny.write_sweep(
        chat,
        path,
        recipe=changes.pop("recipe", merged(chat)),
        grid={"lambda": [0.5]},
        evaluate={
            "data": yaml.safe_load(data.read_text()),
            "question": "Is it good?",
            "limit": 20,
            "device": "cpu",
            **options,
            **changes.pop("evaluate", {}),
        },
        controls=[],
        inject=None,
        select={},
        **{"baselines": {"base": str(chat / "base")}, **changes},
    )


def test_prompts_in_the_bases_template(chat: Path, data: Path, tmp_path: Path) -> None:
    """As `eval` asks base and merge; other words are another sweep."""
    from mergekit.options import MergeOptions

    from mergekit_fair.merging.recipe import Recipe
    from mergekit_fair.merging.to_disk import merge_to_folder

    path = chat_sweep(chat, data, tmp_path / "sweep.yml")
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent()).to_dict()
    merge_to_folder(
        Recipe.from_mapping(merged(chat), "r.yml"), tmp_path / "merged", MergeOptions(quiet=True)
    )
    store = Store(tmp_path / "out")
    for label, model in {"base": chat / "base", "λ=0.5": tmp_path / "merged"}.items():
        out = tmp_path / f"eval-{label}"
        arguments = ["eval", "--model", model, "--data", data, "--question", "Is it good?"]
        arguments += ["--limit", 20, "-o", out, "--device", "cpu", "--quiet"]
        arguments += ["--apply-chat-template", "--system-instruction", "Be fair."]
        found = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert found.exit_code == 0, found.output
        line = next(line for line in results["points"] if line["label"] == label)
        margins = scores(out, "tiny")
        assert store.scores(line["id"], "validation").tolist() == list(margins.values())
    store.close()
    first = (out / "samples_tiny.jsonl").read_text().splitlines()[0]
    prompt = json.loads(first)["arguments"]["gen_args_0"]["arg_0"]
    assert prompt.startswith("[system] Be fair.\n[user] ")
    for changed in ({"system_instruction": "Be quick."}, {"apply_chat_template": False}):
        other = chat_sweep(chat, data, tmp_path / "other.yml", evaluate=changed)
        ids = {line["id"] for line in results["points"]}
        again = run_sweep(load_sweep(other), tmp_path / "again", Silent()).to_dict()
        assert not ids & {line["id"] for line in again["points"]}


def test_templates_that_would_differ_are_refused(
    chat: Path, causal: Path, family: Path, data: Path, tmp_path: Path
) -> None:
    """Before anything is run."""

    def prepare(path: Path) -> None:
        prepared(load_sweep(path))

    path = tmp_path / "sweep.yml"
    with raises(ConfigError, where=f"{causal / 'base'}: ", fix="save the template"):
        prepare(chat_sweep(chat, data, path, recipe=merged(causal)))
    with raises(ConfigError, where=f"{path}: evaluate.apply_chat_template", got="chatml"):
        prepare(chat_sweep(chat, data, path, recipe={**merged(chat), "chat_template": "chatml"}))
    other = shutil.copytree(chat / "blue", tmp_path / "other")
    prepare(chat_sweep(chat, data, path, baselines={"other": str(other)}))  # it has none
    (other / "chat_template.jinja").write_text("{{ messages }}")
    with raises(CheckpointError, where=other, fix="mergekit-fair eval"):
        prepare(chat_sweep(chat, data, path, baselines={"other": str(other)}))
    prepare(
        chat_sweep(
            *(chat, data, path),
            evaluate={"apply_chat_template": False},
            baselines={"other": str(other)},
        )
    )
    raw = yaml.safe_load(tiny.write_sweep(family, path, select={}).read_text())
    raw["evaluate"]["apply_chat_template"] = True
    path.write_text(yaml.safe_dump(raw))
    with raises(ConfigError, "a classifier takes the document's text", fix="leave it out"):
        prepare(path)
