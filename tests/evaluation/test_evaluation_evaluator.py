"""The one evaluator: the same scores from a task, from a data description and from `eval`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from classifiers import write_causal, write_text
from gaps import evaluated, logit_gaps
from refusals import raises
from transformers import AutoModelForSequenceClassification

from mergekit_fair.data import DataSpec, load_rows, load_spec
from mergekit_fair.data.table import read_table
from mergekit_fair.errors import CheckpointError, ConfigError, MeasurementError, ScoreError
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.forward import length_sorted_batches
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.sweep_config import load_sweep


@pytest.fixture(scope="module")
def spec(family: Path) -> DataSpec:
    return load_spec(tiny.data_block(family / "rows.csv"))


def evaluator(spec: DataSpec, **changes: Any) -> Evaluator:
    return Evaluator(
        EvaluationRequest(spec, **{"model_args": {"max_length": 16}, "batch_size": 64} | changes)
    )


def renamed(model: Path, out: Path, names: dict[int, str], *, swapped: bool = False) -> Path:
    """A copy with other names of its classes, and its head's rows swapped where asked."""
    shutil.copytree(model, out)
    config = json.loads((out / "config.json").read_text())
    config["id2label"] = {str(index): name for index, name in names.items()}
    config["label2id"] = {name: index for index, name in names.items()}
    (out / "config.json").write_text(json.dumps(config))
    if swapped:
        from safetensors.torch import load_file, save_file

        tensors = load_file(out / "model.safetensors")
        for name in ("classifier.weight", "classifier.bias"):
            tensors[name] = tensors[name].flip(0).contiguous()
        save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def test_batches_hold_every_row_once_longest_first() -> None:
    assert length_sorted_batches((3, 9, 3, 5, 9), 2) == [[1, 4], [3, 0], [2]]


def test_a_data_set_is_read_once_for_all_splits(
    spec: DataSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another evaluator again: its file may be another one by then."""
    read: list[object] = []

    def counted(source: Any) -> Any:
        read.append(source)
        return read_table(source)

    monkeypatch.setattr("mergekit_fair.data.load.read_table", counted)
    first = evaluator(spec)
    rows = load_rows(spec)
    for split in ("validation", "report", "train"):
        (task,) = first.prepared(split).tasks.values()
        assert {doc["text"] for _, doc in task.docs} == set(rows.of(split).inputs)
    assert len(read) == 2
    evaluator(spec).prepared("report")
    assert len(read) == 3


def test_scores_are_logit_gaps_to_the_bit_and_labels_the_rows(family: Path, spec: DataSpec) -> None:
    """At any batch size within rounding, at the sweep's to the bit; new weights, new scores."""
    folder = family / "run" / "fft"
    rows = evaluated(load_rows(spec), "validation")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ours = evaluator(spec)
    labels = ours.labels("validation")["tiny"]
    assert np.array_equal(labels.labels, rows.labels)
    assert list(labels.groups) == ["blue", "green"]
    assert np.array_equal(labels.groups["green"], rows.membership[:, 1])
    scorer = ours.open(str(folder), "cpu")
    scores = scorer.score("validation")["tiny"]
    expected = logit_gaps(model, rows, folder, 16)
    assert scores.dtype == np.float32
    assert np.array_equal(scores, expected)
    other = evaluator(spec, batch_size=7).open(str(folder), "cpu").score("validation")["tiny"]
    np.testing.assert_allclose(other, expected, atol=1e-5)
    with torch.no_grad():
        scorer.model.classifier.bias.copy_(scorer.model.classifier.bias.flip(0))
    assert not np.array_equal(scorer.score("validation")["tiny"], scores)
    picked = np.array([5, 3])
    np.testing.assert_allclose(
        scorer.score("validation", picked)["tiny"], scorer.score("validation")["tiny"][[5, 3]],
        atol=1e-5,
    )  # fmt: skip


def test_a_limit_takes_the_first_documents(spec: DataSpec) -> None:
    whole, some = (evaluator(spec, limit=limit).labels("report")["tiny"] for limit in (None, 20))
    assert np.array_equal(some.labels, whole.labels[:20])


def test_the_positive_class_is_found_by_name(family: Path, spec: DataSpec, tmp_path: Path) -> None:
    """A model that was trained with 0 = yes is not measured upside down, and may not be merged."""
    run = family / "run"
    swapped = renamed(run / "fft", tmp_path / "swapped", {0: "yes", 1: "no"}, swapped=True)
    ours = evaluator(spec)
    expected = ours.open(str(run / "fft"), "cpu").score("validation")["tiny"]
    assert np.array_equal(ours.open(str(swapped), "cpu").score("validation")["tiny"], expected)
    # A sweep writes a baseline's weights into the base's module.
    scorer = ours.open(str(run / "base"), "cpu")
    weights = AutoModelForSequenceClassification.from_pretrained(swapped).state_dict()
    scorer.model.load_state_dict(weights)
    assert np.array_equal(scorer.score("validation")["tiny"], -expected)
    scorer.read_labels(str(swapped))
    assert np.array_equal(scorer.score("validation")["tiny"], expected)
    scorer.read_labels(str(tmp_path / "an adapter"))  # has no names: the base's, not the last ones
    assert np.array_equal(scorer.score("validation")["tiny"], -expected)
    scorer.read_labels(str(swapped))
    scorer.read_labels()
    assert np.array_equal(scorer.score("validation")["tiny"], -expected)
    base = str(run / "base")
    ours.require_classes(base, [str(run / "fft")], [str(swapped)])
    with raises(CheckpointError, where=swapped, got={"no": 1, "yes": 0}):
        ours.require_classes(base, [str(swapped)], [])


def test_classes_without_names_are_not_guessed(
    family: Path, spec: DataSpec, tmp_path: Path
) -> None:
    nameless = renamed(family / "run" / "fft", tmp_path / "m", {0: "LABEL_0", 1: "LABEL_1"})
    with raises(ConfigError, where=nameless, got=["no", "yes"], fix="choice_map"):
        evaluator(spec).require_classes(str(family / "run" / "base"), [], [str(nameless)])
    with raises(ConfigError, got=["no", "yes"]):
        evaluator(spec).open(str(nameless), "cpu").score("validation")
    named = evaluator(spec, model_args={"max_length": 16, "choice_map": {"no": 0, "yes": 1}})
    named.require_classes(str(nameless), [], [str(nameless)])
    swapped = renamed(family / "run" / "fft", tmp_path / "swapped", {0: "yes", 1: "no"})
    with raises(ConfigError, where=swapped, got={"yes": 0, "no": 1}):  # one map is for all
        named.require_classes(str(nameless), [], [str(nameless), str(swapped)])
    scores = named.open(str(nameless), "cpu").score("validation")["tiny"]
    expected = evaluator(spec).open(str(family / "run" / "fft"), "cpu").score("validation")["tiny"]
    assert np.array_equal(scores, expected)


def test_id2label_is_what_pipelines_read(family: Path, spec: DataSpec, tmp_path: Path) -> None:
    """Without label2id, and with one that contradicts it."""
    folder = shutil.copytree(family / "run" / "fft", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    only = {key: value for key, value in config.items() if key != "label2id"}
    (folder / "config.json").write_text(json.dumps(only))
    assert evaluator(spec).classes_of(str(folder)) == {"no": 0, "yes": 1}
    (folder / "config.json").write_text(json.dumps({**config, "label2id": {"no": 1, "yes": 0}}))
    with raises(CheckpointError, where=folder):
        evaluator(spec).classes_of(str(folder))


def test_broken_weights_are_an_error_of_their_own(family: Path, spec: DataSpec) -> None:
    scorer = evaluator(spec).open(str(family / "run" / "fft"), "cpu")
    with torch.no_grad():
        scorer.model.classifier.bias[1] = float("nan")
    with raises(ScoreError):
        scorer.score("validation")


def test_autocast(family: Path, spec: DataSpec) -> None:
    folder = str(family / "run" / "fft")
    exact = evaluator(spec).open(folder, "cpu").score("validation")["tiny"]
    arguments = {"max_length": 16, "mixed_precision_dtype": "bfloat16"}
    rough = evaluator(spec, model_args=arguments).open(folder, "cpu").score("validation")["tiny"]
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, atol=0.2)


def test_a_language_model_needs_a_question(spec: DataSpec, tmp_path: Path) -> None:
    folder = str(write_causal(tmp_path / "causal"))
    with raises(ConfigError, where="question"):
        evaluator(spec, model_args={}).open(folder, "cpu")
    asked = evaluator(spec, model_args={}, question="Good?", limit=12, batch_size=None)
    scores = asked.open(folder, "cpu").score("validation")["tiny"]
    assert scores.shape == (12,)
    assert np.isfinite(scores).all()


def test_the_fingerprint_knows_rows_labels_and_question(family: Path, spec: DataSpec) -> None:
    first = evaluator(spec).fingerprint()
    assert evaluator(spec).fingerprint() == first
    assert evaluator(spec, question="Good?").fingerprint() != first
    assert evaluator(spec, limit=100).fingerprint() != first
    turned = tiny.data_block(
        family / "rows.csv", label={"column": "label", "positive": 0, "negative": 1}
    )
    assert evaluator(load_spec(turned)).fingerprint() != first


def test_a_sweep_measures_every_baseline_by_its_own_labels(family: Path, tmp_path: Path) -> None:
    run = family / "run"
    swapped = renamed(run / "fft", tmp_path / "swapped", {0: "yes", 1: "no"}, swapped=True)
    baselines = {"fft": str(run / "fft"), "swapped": str(swapped)}
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        grid={"lambda": [0.5]},
        baselines=baselines,
        controls=[],
        inject=None,
    )
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent()).to_dict()
    fft, other = (
        next(point for point in results["points"] if point["label"] == name) for name in baselines
    )
    assert other["evaluation"]["metrics"] == fft["evaluation"]["metrics"]
    nameless = renamed(run / "fft", tmp_path / "nameless", {0: "LABEL_0", 1: "LABEL_1"})
    path = tiny.write_sweep(family, path, baselines={"fft": str(nameless)}, inject=None)
    with raises(ConfigError, where=nameless, fix="choice_map"):
        run_sweep(load_sweep(path), tmp_path / "refused", Silent())
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_a_baseline_that_its_own_files_read_otherwise(
    file: str, family: Path, tmp_path: Path
) -> None:
    """A sweep runs its weights in the base's architecture, on the base's tokens."""
    folder = shutil.copytree(family / "run" / "fft", tmp_path / "other")
    content = json.loads((folder / file).read_text())
    if file == "config.json":
        content |= {"layer_norm_eps": 1e-5, "pad_token_id": 1}
    else:
        vocabulary = content["model"]["vocab"]
        vocabulary["fine"], vocabulary["poor"] = vocabulary["poor"], vocabulary["fine"]
    (folder / file).write_text(json.dumps(content))
    changes = {"baselines": {"fft": str(folder)}, "inject": None, "controls": []}
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", **changes)
    with raises(CheckpointError, where=folder, fix="mergekit-fair eval"):
        run_sweep(load_sweep(path), tmp_path / "out", Silent())
    # what says the same in other words is no other one
    (folder / file).write_text((family / "run" / "base" / file).read_text())
    if file == "tokenizer.json":
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text())))
    run_sweep(load_sweep(path), tmp_path / "out", Silent())


def test_a_class_that_is_no_choice_is_told(family: Path, spec: DataSpec, tmp_path: Path) -> None:
    labels = {"no": 0, "yes": 1, "unclear": 2}
    folder = write_text(tmp_path / "three", "bert", labels)
    ours = evaluator(spec, limit=8)
    assert set(ours.classes_of(str(folder))) == {"no", "yes"}
    assert any("'unclear'" in text and str(folder) in text for text in ours.warnings)
    scorer = ours.open(str(folder), "cpu")
    assert any("'unclear'" in text for text in scorer.notes("validation"))
    assert not evaluator(spec).open(str(family / "run" / "fft"), "cpu").notes("validation")
    nameless = write_text(tmp_path / "nameless", "bert", {f"LABEL_{i}": i for i in range(3)})
    with raises(ConfigError, "(1)", fix="choice_map"):
        ours.classes_of(str(nameless))


def test_only_broken_scores_are_a_failed_point(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else cannot be measured is about the input, and stops the sweep."""
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", inject=None)

    def refuse(*args: Any, **options: Any) -> Any:
        del args, options
        raise MeasurementError("rows are gone")

    monkeypatch.setattr("mergekit_fair.evaluation.evaluator.Scorer.score", refuse)
    with raises(MeasurementError):
        run_sweep(load_sweep(path), tmp_path / "out", Silent())
