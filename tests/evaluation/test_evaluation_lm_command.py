"""`mergekit-fair exec lm_eval`: both models on tasks of one's own, from the command line."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoints import tiny_family
from classifiers import TEXTS, plain_log_probs, write_text
from click.testing import CliRunner, Result

from mergekit_fair.cli import main
from mergekit_fair.evaluation.lm import register_models


def write_task(folder: Path, name: str, docs: list[dict[str, Any]], **more: Any) -> Path:
    """A multiple-choice task over rows of its own; the prompt is not the text."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / f"{name}.jsonl"
    rows.write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Is it?",
        "doc_to_choice": ["no", "yes"],
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **more,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return folder


def arguments(model: str, folder: Path, task: str, out: Path, *more: str) -> list[str]:
    return [
        *("exec", "lm_eval", "run", "--model", model, "--tasks", task, "--device", "cpu"),
        *("--include_path", str(out / "tasks"), "--output_path", str(out / "out")),
        *("--log_samples", "--batch_size", "4", "--model_args", f"pretrained={folder}", *more),
    ]


@pytest.fixture
def lm_eval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Runs a command in this process; lm-eval's registry is put back afterwards.

    lm-eval's own tasks, over 10,000 files, are not looked through.
    """
    import lm_eval.tasks
    from lm_eval.api.registry import model_registry

    own_tasks = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", own_tasks)
    register_models()
    before = dict(model_registry._objs)
    monkeypatch.setattr(sys, "argv", sys.argv)
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, list(args))

    yield run
    model_registry._objs = before


def samples(out: Path, task: str) -> list[dict[str, Any]]:
    (file,) = (out / "out").rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_text_in_a_process_of_its_own(tmp_path: Path) -> None:
    folder = write_text(tmp_path / "model", "qwen2")
    expected = plain_log_probs(folder, TEXTS)
    docs = [{"comment": text, "label": int(row.argmax())} for text, row in zip(TEXTS, expected)]  # noqa: B905
    docs[0]["label"] = 1 - docs[0]["label"]
    write_task(tmp_path / "tasks", "tiny_text", docs)
    args = arguments("fair-classifier", folder, "tiny_text", tmp_path)
    args[-1] += ",text_field=comment,choice_map=no:0;yes:1"
    run = subprocess.run(
        [sys.executable, "-m", "mergekit_fair", *args],
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = samples(tmp_path, "tiny_text")
    assert [sample["doc"]["comment"] for sample in found] == list(TEXTS)
    for sample, row in zip(found, expected, strict=True):
        values = [float(resps[0][0]) for resps in sample["resps"]]
        assert values == pytest.approx(row.tolist(), abs=1e-5)
    accuracy = (len(TEXTS) - 1) / len(TEXTS)
    assert f"|tiny_text|Yaml   |none  |     0|acc   |↑  |{accuracy:.4f}|" in run.stdout


def test_pictures(tmp_path: Path, lm_eval: Any) -> None:
    from PIL import Image

    folder = tiny_family(tmp_path / "vit", "vit").fft
    docs = []
    for number, colour in enumerate(["red", "green", "blue"]):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (20, 16), colour).save(path)
        docs.append({"image": str(path), "label": number % 2})
    write_task(tmp_path / "tasks", "tiny_image", docs, doc_to_choice=["0", "1"])
    result = lm_eval(*arguments("fair-image-classifier", folder, "tiny_image", tmp_path))
    assert result.exit_code == 0, result.output
    assert len(samples(tmp_path, "tiny_image")) == 3
    write_task(
        tmp_path / "tasks", "tiny_visual", docs, doc_to_choice=["0", "1"], doc_to_image="image"
    )
    result = lm_eval(*arguments("fair-image-classifier", folder, "tiny_visual", tmp_path))
    assert result.exit_code == 0, result.output
    found = [sample["resps"] for sample in samples(tmp_path, "tiny_visual")]
    assert found == [sample["resps"] for sample in samples(tmp_path, "tiny_image")]


def test_errors_are_one_message_and_exit_code_2(tmp_path: Path, lm_eval: Any) -> None:
    folder = write_text(tmp_path / "model", "qwen2")
    write_task(tmp_path / "tasks", "tiny_text", [{"text": "good", "label": 1}])
    cases = [
        ("hf", "", "its architecture is a classifier; as a language model it would have a rand"),
        ("fair-classifier", "text_field=x", "lack the field that the text is taken from; got 'x'"),
        ("fair-classifier", "choice_map=no:0", "choice_map does not say which class 'yes' is"),
        ("fair-classifier", "txt_field=x", "an option that neither lm-eval nor the model knows"),
    ]
    for model, more, message in cases:
        args = arguments(model, folder, "tiny_text", tmp_path)
        args[-1] += f",{more}" if more else ""
        result = lm_eval(*args)
        assert result.exit_code == 2, (message, result.output)
        assert f"Error: {folder if model == 'hf' else ''}" in result.stderr
        assert message in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr


def test_a_second_model_with_the_first_ones_cache(tmp_path: Path, lm_eval: Any) -> None:
    docs = [{"text": text, "label": 1} for text in TEXTS]
    write_task(tmp_path / "tasks", "tiny_text", docs, doc_to_text="{{text}}")
    folders = [write_text(tmp_path / name, name) for name in ("bert", "llama")]
    codes = []
    for folder in (folders[0], folders[0], folders[1]):
        args = arguments("fair-classifier", folder, "tiny_text", tmp_path)
        result = lm_eval(*args, "--use_cache", str(tmp_path / "cache" / "c"))
        codes.append(result.exit_code)
    assert codes == [0, 0, 2]
    assert "this cache holds answers of another model" in " ".join(result.stderr.split())


def test_a_program_that_is_not_there() -> None:
    result = CliRunner().invoke(main, ["exec", "lm_evil"])
    assert result.exit_code == 2
    assert "did you mean 'lm_eval'" in result.stderr
