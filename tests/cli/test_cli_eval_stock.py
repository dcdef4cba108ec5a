"""`eval` has the results and samples of stock lm-eval: generation, few-shot, chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from classifiers import lm_tokenizer, text_model
from click.testing import CliRunner
from task_tables import write_table

from mergekit_fair.cli import main
from mergekit_fair.resources import tasks_dir

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
CHOICE = {
    "task": "choice",
    "dataset_path": "csv",
    "output_type": "multiple_choice",
    "validation_split": "validation",
    "doc_to_text": "{{text}}",
    "doc_to_target": "label",
    "doc_to_choice": ["no", "yes"],
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
WRITTEN = {
    **{key: CHOICE[key] for key in ("dataset_path", "validation_split", "doc_to_text")},
    "task": "written",
    "output_type": "generate_until",
    "doc_to_target": "{{label}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
    "repeats": 2,
    "filter_list": [
        {"name": "first", "filter": [{"function": "take_first"}]},
        {"name": "vote", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]},
    ],
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small language model with a chat template, own tasks, and a file of comments."""
    folder = tmp_path_factory.mktemp("stock")
    text_model("llama", kind="ForCausalLM").save_pretrained(folder / "model")
    tokenizer = lm_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    (folder / "rows.csv").write_text("text,label\nthe old man,0\na nurse,1\na clerk,1\ngood,0\n")
    (folder / "tasks").mkdir()
    for task in (CHOICE, WRITTEN):
        files = {"data_files": {"validation": str(folder / "rows.csv")}}
        text = yaml.safe_dump({**task, "dataset_kwargs": files})
        (folder / "tasks" / f"{task['task']}.yaml").write_text(text)
    write_table("fair_redditbias", folder).rename(folder / "comments.csv")
    return folder


def stock(scene: Path, tasks: list[str], **options: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    metadata = {"split": "validation", "data": str(scene / "comments.csv")}
    manager = TaskManager(
        include_path=[str(tasks_dir()), str(scene / "tasks")],
        include_defaults=False,
        metadata=metadata,
    )
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(scene / "model")},
        tasks=tasks,
        task_manager=manager,
        batch_size=8,
        device="cpu",
        bootstrap_iters=0,
        **options,
    )
    assert results is not None
    return dict(results)


@pytest.mark.parametrize(
    ("tasks", "options", "arguments"),
    [
        (["fair_redditbias", "choice", "written"], {}, []),
        (["fair_redditbias"], {"num_fewshot": 2}, ["--num-fewshot", 2]),
        (["fair_redditbias"], {"limit": 5}, ["--limit", 5]),
        (
            ["fair_redditbias", "written"],
            {"num_fewshot": 1, "apply_chat_template": True},
            ["--num-fewshot", 1, "--apply-chat-template"],
        ),
    ],
    ids=["kinds", "few-shot", "limit", "chat"],
)
def test_results_and_samples_are_stock_lm_evals(
    scene: Path, tmp_path: Path, tasks: list[str], options: dict[str, Any], arguments: list[Any]
) -> None:
    """All but log-probabilities to the last digit: prompts are read once for all choices."""
    if "written" in tasks and "num_fewshot" in options:
        arguments, options = list(arguments), dict(options)
        arguments[1] = options["num_fewshot"] = 0
    expected = stock(scene, tasks, **options)
    command = ["eval", "--model", scene / "model", "--tasks", ",".join(tasks), "--device", "cpu"]
    command += ["--data", scene / "comments.csv", "--include-path", scene / "tasks", "--quiet"]
    result = CliRunner().invoke(main, [str(a) for a in (*command, "-o", tmp_path, *arguments)])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "lm_eval.json").read_text())
    as_json = json.loads(json.dumps(expected["results"], default=str))
    assert written["results"] == as_json
    for key in ("n-samples", "versions", "n-shot", "higher_is_better"):
        assert written[key] == json.loads(json.dumps(expected[key], default=str))
    for task in tasks:
        lines = (tmp_path / f"samples_{task}.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines]
        assert len(samples) == len(expected["samples"][task])
        for ours, theirs in zip(samples, expected["samples"][task], strict=True):
            assert set(ours) == set(theirs)
            assert ours["doc_hash"] == theirs["doc_hash"]
            assert ours["prompt_hash"] == theirs["prompt_hash"]
            assert ours["target_hash"] == theirs["target_hash"]
            shown = json.loads(json.dumps(theirs["filtered_resps"], default=str))
            for said, stocks in zip(ours["filtered_resps"], shown, strict=True):
                require_alike(said, stocks)
    if "choice" in tasks:
        choice = json.loads((tmp_path / "choice.json").read_text())
        acc = expected["results"]["choice"]["acc,none"]
        assert choice["benchmark"] == "means"
        assert choice["metrics"]["acc"]["value"] == pytest.approx(acc, abs=1e-12)


def require_alike(ours: Any, stocks: Any) -> None:
    """Texts are the same; log-probabilities but for the rounding of other sums."""
    if not isinstance(stocks, list):
        assert ours == stocks
        return
    value, *rest = map(str, stocks)
    assert float(ours[0]) == pytest.approx(float(value), abs=1e-4)
    assert ours[1:] == rest


def test_seed_changes_the_few_shot_examples(scene: Path, tmp_path: Path) -> None:
    prompts = {}
    for seed in (0, 1):
        command = ["eval", "--model", scene / "model", "--tasks", "fair_redditbias", "--quiet"]
        command += ["--data", scene / "comments.csv", "--device", "cpu", "--num-fewshot", 2]
        command += ["--seed", seed, "-o", tmp_path / str(seed)]
        result = CliRunner().invoke(main, [str(argument) for argument in command])
        assert result.exit_code == 0, result.output
        first = (tmp_path / str(seed) / "samples_fair_redditbias.jsonl").read_text().split("\n")[0]
        prompts[seed] = json.loads(first)["arguments"]["gen_args_0"]["arg_0"]
    assert prompts[0] != prompts[1]
