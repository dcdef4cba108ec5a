"""`audit` of whole recipes, against `merge` and `eval` of every model by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from adapters import make_adapter
from classifiers import write_causal
from click.testing import CliRunner, Result
from refusals import refusal
from task_tables import write_table
from tiny import GROUPS, words_of

from mergekit_fair.audit import audit_run
from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError

TASK = "fair_bbq"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, words_of(*arguments))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two models that differ a little, two adapters, and a table of BBQ's columns."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("models")
    write_causal(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    for seed, name in enumerate(("blue", "green"), 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / name)
        make_adapter(folder / "base", folder / f"{name}_adapter", seed=seed, targets=["q_proj"])
    write_table(TASK, folder, ".jsonl")
    return folder


def recipe(path: Path, raw: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({**raw, "dtype": "float32"}))
    return path


def addition(models: Path, *names: str) -> dict[str, Any]:
    return {
        "merge_method": "subgroup_task_addition",
        "base_model": str(models / "base"),
        "models": [
            {
                "model": str(models / name),
                "parameters": {"group": name.split("_")[0], "weight": 1.0},
            }
            for name in names
        ],
        "parameters": {"lambda": 0.5},
    }


def ties(models: Path) -> dict[str, Any]:
    return {
        "merge_method": "ties",
        "base_model": str(models / "base"),
        "models": [
            {"model": str(models / name), "parameters": {"weight": 0.5, "density": 0.5}}
            for name in ("blue", "green")
        ],
    }


def dare(models: Path) -> dict[str, Any]:
    return {**ties(models), "merge_method": "dare_ties", "fairness": {"random_seed": 7}}


def slerp(models: Path) -> dict[str, Any]:
    return {
        "merge_method": "slerp",
        "base_model": str(models / "blue"),
        "models": [{"model": str(models / "blue")}, {"model": str(models / "green")}],
        "parameters": {"t": 0.4},
    }


def linear(models: Path) -> dict[str, Any]:
    return {
        "merge_method": "linear",
        "models": [
            {"model": str(models / name), "parameters": {"weight": 0.5}}
            for name in ("blue", "green")
        ],
    }


def sliced(models: Path) -> dict[str, Any]:
    return {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": str(models / "blue"), "layer_range": [0, 2]}]},
            {"sources": [{"model": str(models / "green"), "layer_range": [1, 2]}]},
        ],
    }


RECIPES = {
    "addition": (lambda m: addition(m, "blue", "green"), ["base", "blue", "green", "merge"]),
    "adapters": (
        lambda m: addition(m, "blue_adapter", "green_adapter"),
        ["base", "blue", "green", "merge"],
    ),
    "ties": (ties, ["base", "blue", "green", "merge"]),
    "dare": (dare, ["base", "blue", "green", "merge"]),
    "slerp": (slerp, ["base", "green", "merge"]),
    "linear": (linear, ["blue", "green", "merge"]),
    "sliced": (sliced, ["blue", "green", "merge"]),
}


def audit(models: Path, path: Path, out: Path, *options: object) -> Result:
    data = models / f"{TASK}.jsonl"
    return run(
        *("audit", path, "--tasks", TASK, "--data", data, "-o", out, "--device", "cpu"),
        *("--split", "validation", "--min-group-size", 5, "--quiet", *options),
    )


def samples(folder: Path) -> list[tuple[Any, Any]]:
    lines = (folder / f"samples_{TASK}.jsonl").read_text().splitlines()
    return [(line["doc_id"], line["filtered_resps"]) for line in map(json.loads, lines)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_model_answers_as_by_itself(name: str, models: Path, tmp_path: Path) -> None:
    make, names = RECIPES[name]
    path = recipe(tmp_path / "recipe.yml", make(models))
    found = audit(models, path, tmp_path / "audit", "--json")
    assert found.exit_code == 0, found.output
    content = json.loads(found.stdout)
    assert list(content["models"]) == names
    task = content["tasks"][TASK]
    assert list(task["models"]) == names
    assert list(task["differences"]) == names[:-1]
    merged = run("merge", path, tmp_path / "merged", "--quiet")
    assert merged.exit_code == 0, merged.output
    for model in names:
        of = content["models"][model]
        source = tmp_path / "merged" if model == "merge" else of["source"].split("+")[-1]
        out = tmp_path / "eval" / model
        told = run(
            *("eval", "--model", source, "--tasks", TASK, "--data", models / f"{TASK}.jsonl"),
            *("-o", out, "--device", "cpu", "--min-group-size", 5, "--quiet"),
        )
        assert told.exit_code == 0, told.output
        mine, alone = samples(tmp_path / "audit" / "models" / model), samples(out)
        if "+" in of["source"]:  # peft adds the update to the activations, not to the weights
            for (_, ours), (_, theirs) in zip(mine, alone, strict=True):
                assert [float(each[0]) for each in ours] == pytest.approx(
                    [float(each[0]) for each in theirs], abs=1e-3
                )
        else:
            assert mine == alone
            evaluation = json.loads((out / f"{TASK}.json").read_text())
            assert task["models"][model] == evaluation["metrics"]
        for metric, gap in task["differences"].get(model, {}).items():
            values = [task["models"][each][metric]["value"] for each in ("merge", model)]
            if None not in values:
                assert gap["value"] == pytest.approx(values[0] - values[1], abs=1e-12)


@pytest.mark.parametrize("forced", [None, "float32"])
def test_halves_are_run_as_by_themselves(forced: str | None, models: Path, tmp_path: Path) -> None:
    """A bfloat16 parent between float32 ones, then all in one dtype that is asked for."""
    import torch
    from transformers import AutoModelForCausalLM

    copied = shutil.copytree(models, tmp_path / "models")
    half = AutoModelForCausalLM.from_pretrained(copied / "blue", dtype=torch.bfloat16)
    half.save_pretrained(copied / "blue")
    path = recipe(tmp_path / "recipe.yml", addition(copied, "blue", "green"))
    asked = ("--model-args", f"dtype={forced}") if forced else ()
    found = audit(copied, path, tmp_path / "audit", *asked)
    assert found.exit_code == 0, found.output
    for name in ("base", "blue", "green"):
        told = run(
            *("eval", "--model", copied / name, "--tasks", TASK, "-o", tmp_path / name, "--quiet"),
            *("--data", copied / f"{TASK}.jsonl", "--device", "cpu", "--min-group-size", 5, *asked),
        )
        assert told.exit_code == 0, told.output
        assert samples(tmp_path / "audit" / "models" / name) == samples(tmp_path / name)
    written = json.loads((tmp_path / "audit" / "audit.json").read_text())
    said = written["tasks"][TASK]["warnings"]
    differ = [
        text for text in said if "precisions that differ (blue bfloat16, merge float32)" in text
    ]
    assert len(differ) == (forced is None)


def test_compare_says_the_same(models: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "recipe.yml", addition(models, "blue"))
    content = json.loads(audit(models, path, tmp_path / "audit", "--json").stdout)
    folders = [tmp_path / "audit" / "models" / name for name in ("base", "merge")]
    found = run("compare", *folders, "--min-group-size", 5, "--json")
    compared = json.loads(found.stdout)[TASK]
    for metric, gap in compared["models"]["merge"].items():
        ours = content["tasks"][TASK]["differences"]["base"][metric]
        assert [gap[key] for key in ("value", "low", "high")] == [
            ours[key] for key in ("value", "low", "high")
        ]
    text = run("compare", *folders, "--min-group-size", 5).stdout
    assert "fair_bbq: minus base, on the same" in text


def test_what_was_measured_is_not_run_again(models: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(models, tmp_path / "models")
    path = recipe(tmp_path / "recipe.yml", addition(copied, "blue", "green"))
    first = audit(copied, path, tmp_path / "audit", "--json")
    assert first.exit_code == 0, first.output
    shutil.rmtree(tmp_path / "audit" / "models" / "green")
    text = path.read_text()
    again = run_loudly(copied, path, tmp_path / "audit")
    assert [
        name for name in ("base", "blue", "green", "merge") if f"{name}: measured" in again
    ] == [*("base", "blue", "merge")]
    assert (
        json.loads((tmp_path / "audit" / "audit.json").read_text())["tasks"]
        == (json.loads(first.stdout)["tasks"])
    )
    path.write_text(text.replace("lambda: 0.5", "lambda: 0.25"))
    another = run_loudly(copied, path, tmp_path / "audit")
    assert "blue: measured" in another
    assert "merge: measured" not in another


def run_loudly(models: Path, path: Path, out: Path) -> str:
    found = run(
        *("audit", path, "--tasks", TASK, "--data", models / f"{TASK}.jsonl", "-o", out),
        *("--split", "validation", "--min-group-size", 5, "--device", "cpu"),
    )
    assert found.exit_code == 0, found.output
    return found.output


def test_requirements_are_a_gate(models: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "recipe.yml", addition(models, "blue"))
    met = audit(
        *(models, path, tmp_path / "audit", "--require", f"{TASK}/acc >= 0"),
        *("--require", f"{TASK}/acc <= base + 1"),
    )
    assert met.exit_code == 0, met.output
    assert f"met: {TASK}/acc <= base + 1" in met.stdout
    failed = audit(
        *(models, path, tmp_path / "audit", "--require", f"{TASK}/acc >= 0"),
        *("--require", f"abs({TASK}/stereotyped/Hindu) > 1.5"),
    )
    assert failed.exit_code == 3
    assert f"NOT MET: abs({TASK}/stereotyped/Hindu) > 1.5" in failed.stdout
    content = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert [each["met"] for each in content["requirements"]] == [True, False]
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "1 of 2 requirements met" in page
    assert "Hindu (" in page
    assert "NOT MET" in page


def test_names_are_checked_before_a_model_is_run(models: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "recipe.yml", addition(models, "blue"))
    data = ("--data", models / f"{TASK}.jsonl", "--split", "validation")
    refusal(
        [
            "audit",
            path,
            "--tasks",
            TASK,
            *data,
            "-o",
            tmp_path / "a",
            "--require",
            "fair_bbq/ac > 0",
        ],
        ConfigError,
        "did you mean 'acc'",
        where="--require fair_bbq/ac > 0",
    )
    assert not (tmp_path / "a").exists()


def test_a_lost_or_changed_file_is_made_again(models: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "recipe.yml", addition(models, "blue"))
    out = tmp_path / "audit"
    first = json.loads(audit(models, path, out, "--json").stdout)["tasks"]
    (out / "models" / "merge" / f"{TASK}.json").unlink()
    changed = out / "models" / "blue" / f"samples_{TASK}.jsonl"
    changed.write_text(changed.read_text().replace("-1", "-2"))
    shutil.copytree(out / "models" / "blue", out / "models" / "red")
    said = run_loudly(models, path, out)
    assert "base: measured" in said
    assert "blue: measured" not in said
    assert "merge: measured" not in said
    assert json.loads((out / "audit.json").read_text())["tasks"] == first
    assert {folder.name for folder in (out / "models").iterdir()} == {"base", "blue", "merge"}


def test_figures_are_read_again_with_other_settings(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model being run, every file is what a fresh audit writes."""
    path = recipe(tmp_path / "recipe.yml", addition(models, "blue"))
    wide = json.loads(audit(models, path, tmp_path / "audit", "--json").stdout)
    others = ("--confidence", 0.8, "--min-group-size", 40, "--reference", "one_vs_rest", "--json")
    fresh = audit(models, path, tmp_path / "fresh", *others)
    monkeypatch.setattr(audit_run.Evaluator, "open", None)  # no model can be opened
    again = audit(models, path, tmp_path / "audit", *others)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == json.loads(fresh.stdout)
    assert json.loads(again.stdout)["tasks"] != wide["tasks"]
    for name in ("base", "blue", "merge"):
        mine, theirs = (tmp_path / of / "models" / name for of in ("audit", "fresh"))
        assert {each.name for each in mine.iterdir()} == {each.name for each in theirs.iterdir()}
        for file in (f"{TASK}.json", f"samples_{TASK}.jsonl"):
            assert (mine / file).read_bytes() == (theirs / file).read_bytes()
        ours, alone = (json.loads((of / "lm_eval.json").read_text()) for of in (mine, theirs))
        assert ours["results"] == alone["results"]
        assert ours.keys() == alone.keys()
    audit(models, path, tmp_path / "audit", *others, "--require", f"{TASK}/acc >= 0")
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["requirements"][0]["met"]


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        (("--limit", 40), "limit"),
        (("--split", "report"), "split"),
        (("--tasks", f"{TASK},fair_bbq_religion"), "tasks"),
    ],
)
def test_other_questions_replace_no_audit(
    changes: tuple[object, ...], others: str, models: Path, tmp_path: Path
) -> None:
    path, out = recipe(tmp_path / "recipe.yml", addition(models, "blue")), tmp_path / "audit"
    audit(models, path, out)
    (out / "audit.json").unlink()  # one that was not finished, too
    files = {each: each.read_bytes() for each in out.rglob("*") if each.is_file()}
    refusal(
        [
            *("audit", path, "--tasks", TASK, "--data", models / f"{TASK}.jsonl", "-o", out),
            *("--device", "cpu", "--split", "validation", "--min-group-size", 5, *changes),
        ],
        ConfigError,
        f"holds an audit with other {others}",
        where=out,
    )
    assert {each: each.read_bytes() for each in out.rglob("*") if each.is_file()} == files


def test_a_model_that_answers_nothing_is_an_error(models: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    copied = shutil.copytree(models, tmp_path / "models")
    weights = load_file(copied / "blue" / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, copied / "blue" / "model.safetensors", {"format": "pt"})
    path = recipe(tmp_path / "recipe.yml", linear(copied))
    found = audit(copied, path, tmp_path / "audit", "--require", f"{TASK}/acc >= 0")
    assert found.exit_code == 2
    assert "NaN" in found.output
    assert not (tmp_path / "audit" / "audit.json").exists()


def test_a_chat_template_is_the_models_own(models: Path, tmp_path: Path) -> None:
    """A parent with a template between a base and a merge without one."""
    from transformers import AutoTokenizer

    copied = shutil.copytree(models, tmp_path / "models")
    tokenizer = AutoTokenizer.from_pretrained(copied / "green")
    tokenizer.chat_template = "{% for m in messages %}[CLS] {{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(copied / "green")
    path = recipe(tmp_path / "recipe.yml", addition(copied, "blue", "green"))
    found = audit(copied, path, tmp_path / "audit", "--apply-chat-template")
    assert found.exit_code == 0, found.output
    prompts = {}
    for name in ("base", "blue", "green", "merge"):
        file = tmp_path / "audit" / "models" / name / f"samples_{TASK}.jsonl"
        first = json.loads(file.read_text().splitlines()[0])
        prompts[name] = first["arguments"]["gen_args_0"]["arg_0"]
    assert prompts["base"] == prompts["blue"] == prompts["merge"]
    assert prompts["green"] == f"[CLS] {prompts['base']} "
    refusal(
        [
            *("eval", "--model", copied / "base", "--tasks", TASK, "--apply-chat-template"),
            *("--data", copied / f"{TASK}.jsonl", "-o", tmp_path / "eval"),
        ],
        ConfigError,
        "has no chat template",
        where=copied / "base",
    )


def test_a_metric_by_group_that_is_none(models: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "recipe.yml", addition(models, "blue"))
    data = ("--data", models / f"{TASK}.jsonl", "--split", "validation")
    for wrong in ("acc", "stereotyped_range", "selection_rate"):
        refusal(
            [
                *("audit", path, "--tasks", TASK, *data, "-o", tmp_path / "a"),
                *("--require", f"{TASK}/{wrong}/Hindu >= 0"),
            ],
            ConfigError,
            f"unknown metric by group {wrong!r}",
        )
    refusal(["audit", path, "--tasks", ",", "-o", tmp_path / "a"], ConfigError, where="--tasks")


def test_a_merge_that_exists(models: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "recipe.yml", addition(models, "blue", "green"))
    content = json.loads(audit(models, path, tmp_path / "one", "--json").stdout)
    run("merge", path, tmp_path / "merged", "--quiet")
    found = audit(models, path, tmp_path / "two", "--merged", tmp_path / "merged", "--json")
    assert found.exit_code == 0, found.output
    other = json.loads(found.stdout)
    assert other["tasks"] == content["tasks"]
    told = run(
        *("audit", path, "--tasks", TASK, "--data", models / f"{TASK}.jsonl", "--device", "cpu"),
        *("--split", "validation", "-o", tmp_path / "three", "--merged", models / "blue"),
    )
    assert "does not say what it was merged from" in told.output
    assert other["models"]["merge"]["source"] == str(tmp_path / "merged")


def test_decisions_by_group_are_audited_too(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classifiers over a task of labels and groups."""
    block = yaml.safe_load((family / "train.yml").read_text())["data"]
    (tmp_path / "data.yml").write_text(yaml.safe_dump(block))
    raw = {
        "merge_method": "linear",
        "models": [
            {"model": str(family / "run" / "groups" / name), "parameters": {"weight": 0.5}}
            for name in GROUPS
        ],
    }
    path = recipe(tmp_path / "recipe.yml", raw)
    command = (
        *("audit", path, "--tasks", "fair_adult_sex", "--data", tmp_path / "data.yml"),
        *("-o", tmp_path / "audit", "--max-length", 8, "--min-group-size", 5, "--quiet"),
        *("--require", f"fair_adult_sex/dpd <= {GROUPS[0]} + 1", "--device", "cpu"),
    )
    found = run(*command)
    assert found.exit_code == 0, found.output
    content = json.loads((tmp_path / "audit" / "audit.json").read_text())
    task = content["tasks"]["fair_adult_sex"]
    assert set(task["differences"]) == set(GROUPS)
    assert {"acc", "dpd", "eod"} <= set(task["differences"][GROUPS[1]])
    assert set(task["groups"]["merge"]) == set(GROUPS)
    assert f"met: fair_adult_sex/dpd <= {GROUPS[0]} + 1" in found.stdout
    merge = tmp_path / "audit" / "models" / "merge" / "fair_adult_sex.json"
    said = json.loads(merge.read_text())
    monkeypatch.setattr(audit_run.Evaluator, "open", None)
    assert run(*command, "--confidence", 0.8).exit_code == 0
    again = json.loads(merge.read_text())
    assert again["confidence"] == 0.8
    for key in ("truncated", "max_length", "model_args", "warnings", "limit"):
        assert again[key] == said[key]
    assert said["truncated"]["overall"]["n"] > 0
