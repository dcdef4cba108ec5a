"""Pictures from end to end: a ViT is trained on subgroups, merged, and evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pictures
import pytest
import tiny
import yaml
from click.testing import CliRunner

from mergekit_fair.cli import main
from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.sweep_config import load_sweep
from mergekit_fair.training.family import train
from mergekit_fair.training.train_config import load_train_config


def run(*arguments: object) -> str:
    found = CliRunner().invoke(main, tiny.words_of(*arguments))
    assert found.exit_code == 0, found.output
    return found.stdout


def test_train_merge_eval_compare(tmp_path: Path) -> None:
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    data = pictures.write_pictures(tmp_path / "pictures")
    (tmp_path / "data.yml").write_text(yaml.safe_dump(data))
    training = tiny.write_training(
        tmp_path / "job",
        model=str(pictures.write_vit(tmp_path / "vit")),
        data=data,
        training={"learning_rate": 1e-3, "batch_size": 16, "epochs": 2},
        lora=False,
    )
    models = tmp_path / "job" / "run"
    train(load_train_config(training), models, Silent(), "cpu")
    recipe = {
        "merge_method": "subgroup_task_addition",
        "base_model": str(models / "base"),
        "models": [
            {"model": str(models / "groups" / name), "parameters": {"group": name}}
            for name in tiny.GROUPS
        ],
        "parameters": {"lambda": 0.5},
        "dtype": "float32",
    }
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe))
    run("merge", tmp_path / "recipe.yml", tmp_path / "merged", "--quiet")
    for name, model in (("fft", models / "fft"), ("merged", tmp_path / "merged")):
        run(
            *("eval", "--model", model, "--tasks", "fair_utkface_gender", "--quiet"),
            *("--data", tmp_path / "data.yml", "-o", tmp_path / "eval" / name),
        )
    rows = load_rows(load_spec(data)).of("validation")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "merged")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    expected = {}
    with torch.inference_mode():
        for row, path in zip(rows.ids.tolist(), rows.inputs, strict=True):
            pixels = processor(images=[Image.open(path).convert("RGB")], return_tensors="pt")
            expected[row] = model(**pixels).logits[0].log_softmax(-1).tolist()
    lines = (tmp_path / "eval" / "merged" / "samples_fair_utkface_gender.jsonl").read_text()
    samples = [json.loads(line) for line in lines.splitlines()]
    assert {sample["doc"]["id"] for sample in samples} == set(expected)
    for sample in samples:
        found = [float(answer[0]) for answer in sample["filtered_resps"]]
        np.testing.assert_allclose(found, expected[sample["doc"]["id"]], atol=1e-5)
    evaluation = json.loads((tmp_path / "eval" / "merged" / "fair_utkface_gender.json").read_text())
    predicted = np.array([np.argmax(expected[row]) for row in rows.ids.tolist()])
    assert evaluation["metrics"]["acc"]["value"] == pytest.approx((predicted == rows.labels).mean())
    assert evaluation["model_args"]["model"] == "fair-image-classifier"
    assert set(evaluation["groups"]) == set(tiny.GROUPS)
    assert "minus fft" in run("compare", tmp_path / "eval" / "fft", tmp_path / "eval" / "merged")
    sweep = {
        "recipe": str(tmp_path / "recipe.yml"),
        "grid": {"lambda": [0.25, 0.5]},
        "evaluate": {
            **{"tasks": ["fair_utkface_gender"], "data": str(tmp_path / "data.yml")},
            "min_group_size": 1,
        },
    }
    (tmp_path / "sweep.yml").write_text(yaml.safe_dump(sweep))
    run("sweep", tmp_path / "sweep.yml", "-o", tmp_path / "sweep", "--quiet", "--no-write")
    points = json.loads((tmp_path / "sweep" / "results.json").read_text())["points"]
    line = next(line for line in points if line["label"] == "λ=0.5")
    for name in ("acc", "dpd", "eod", "selection_rate"):
        assert line["evaluation"]["metrics"][name] == evaluation["metrics"][name]
    # The ids of its points know the pictures, not only their names.
    evaluate = load_sweep(tmp_path / "sweep.yml").config.evaluate
    before = Evaluator(evaluate.request()).fingerprint()
    assert Evaluator(evaluate.request()).fingerprint() == before
    Image.new("RGB", (24, 20)).save(rows.inputs[0])
    assert Evaluator(evaluate.request()).fingerprint() != before
