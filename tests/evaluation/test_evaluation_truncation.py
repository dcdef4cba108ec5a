"""Texts that are cut: counted by group wherever models are measured, at the length of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from classifiers import lm_tokenizer, text_model
from click.testing import CliRunner
from refusals import raises, refusal

from mergekit_fair.cli import main
from mergekit_fair.data import Rows, load_rows, load_spec
from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.model_inputs import TextInputs, load_processor
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.evaluation.truncation import (
    Truncation,
    another_length,
    length_in,
    length_notes,
    require_length,
)
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.sweep_config import load_sweep
from mergekit_fair.training.family import train
from mergekit_fair.training.train_config import load_train_config

SPECIAL = 2  # [CLS] and [SEP]; every word of the tiny rows is one token


@pytest.fixture(scope="module")
def uneven(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's rows, those of one group with three more words."""
    lines = (family / "rows.csv").read_text().splitlines()
    longer = [f"we saw it {line}" if line.endswith(",green") else line for line in lines]
    folder = tmp_path_factory.mktemp("uneven")
    (folder / "rows.csv").write_text("\n".join(longer) + "\n")
    (folder / "data.yml").write_text(yaml.safe_dump(tiny.data_block(folder / "rows.csv")))
    return folder / "data.yml"


def expected(rows: Rows, max_length: int) -> dict[str, Any]:
    cut = np.array([len(text.split()) + SPECIAL > max_length for text in rows.inputs])
    inside = {name: cut[rows.membership[:, i]] for i, name in enumerate(rows.group_names)}
    shares = {n: {"n": int(c.sum()), "share": float(c.mean())} for n, c in inside.items() if c.size}
    return {"overall": {"n": int(cut.sum()), "share": float(cut.mean())}, "groups": shares}


def evaluation(model: Path, data: Path, out: Path, *options: object) -> dict[str, Any]:
    command = ["eval", "--model", model, "--tasks", "fair_adult_sex", "--data", data, "-o", out]
    words = [str(word) for word in (*command, "--device", "cpu", "--quiet", *options)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return dict(json.loads((out / "fair_adult_sex.json").read_text()))


@pytest.mark.parametrize("max_length", [3, 6, 8, 10, 12, 16])
def test_a_text_is_cut_if_it_has_more_tokens(family: Path, max_length: int) -> None:
    texts = load_rows(load_spec(tiny.data_block(family / "rows.csv"))).inputs[:60]
    tokenizer = load_processor(family / "run" / "base", "text")
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
    inputs = TextInputs(texts, tokenizer, max_length)
    assert inputs.is_cut is not None
    assert inputs.is_cut.tolist() == [length > max_length for length in lengths]
    assert list(inputs.lengths) == [min(length, max_length) for length in lengths]


def test_an_evaluation_counts_them_by_group(family: Path, uneven: Path, tmp_path: Path) -> None:
    found = evaluation(family / "run" / "fft", uneven, tmp_path, "--max-length", 10)
    rows = load_rows(load_spec(uneven)).of("validation")
    assert found["max_length"] == 10
    assert found["truncated"] == expected(rows, 10)
    shares = {name: cut["share"] for name, cut in found["truncated"]["groups"].items()}
    assert shares["green"] > shares["blue"] + 0.2
    (said,) = (text for text in found["warnings"] if "were cut" in text)
    assert said.index("'green'") < said.index("'blue'")
    assert any("max_length is 10, and 16" in text for text in found["warnings"])


def test_the_length_of_training_is_kept_and_taken(
    family: Path, uneven: Path, tmp_path: Path
) -> None:
    """Beside every model of a family, where transformers' own pipelines find it, too."""
    run = family / "run"
    for folder in (run / "base", run / "fft", run / "lora", *(run / "groups").iterdir()):
        assert length_in(folder) == 16
        assert load_processor(folder, "text").model_max_length == 16
    runs = json.loads((run / "train.json").read_text())["runs"]
    assert runs["fft"]["truncated"] == expected(
        load_rows(load_spec(tiny.data_block(family / "rows.csv"))).of("train"), 16
    )
    found = evaluation(run / "fft", uneven, tmp_path / "own")
    assert (found["max_length"], found["truncated"]["overall"]["n"]) == (16, 0)
    assert not any("max_length" in text for text in found["warnings"])
    given = evaluation(run / "fft", uneven, tmp_path / "given", "--max-length", 16)
    assert found["metrics"] == given["metrics"]
    # the model could take 32; no text shows the difference
    longer = evaluation(run / "fft", uneven, tmp_path / "longer", "--max-length", 32)
    assert longer["metrics"] == found["metrics"]
    assert not any("max_length" in text for text in longer["warnings"])


def test_a_merge_keeps_the_length(family: Path, tmp_path: Path) -> None:
    recipe = str(family / "run" / "addition.yml")
    result = CliRunner().invoke(main, ["merge", recipe, str(tmp_path / "merged"), "--quiet"])
    assert result.exit_code == 0, result.output
    assert length_in(tmp_path / "merged") == 16


def test_a_sweep_counts_them(family: Path, uneven: Path, tmp_path: Path) -> None:
    evaluate = {"data": tiny.data_block(uneven.parent / "rows.csv"), "device": "cpu"}
    more: dict[str, Any] = {"grid": {"lambda": [0.5]}, "controls": [], "inject": None}
    more |= {"select": {"maximize": "acc"}, "evaluate": {**evaluate, "max_length": 10}}
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", **more)
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    rows = load_rows(load_spec(uneven))
    for split, points in (("validation", results.points), ("report", results.report)):
        for point in points:
            assert point.evaluation is not None
            written = point.evaluation.to_dict()
            assert written["max_length"] == 10
            assert written["truncated"] == expected(rows.of(split), 10)
    assert sum("were cut" in text for text in results.warnings) == 1
    assert sum("and 16 in the model's tokenizer" in text for text in results.warnings) == 1


def test_training_counts_them(tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    training = {"learning_rate": 3e-3, "batch_size": 64, "epochs": 0.1}
    path = tiny.write_training(tmp_path, max_length=8, lora=False, training=training)
    config = load_train_config(path)
    record = train(config, tmp_path / "run", Listening(), "cpu")
    rows = load_rows(config.data).of("train")
    assert record["runs"]["fft"]["truncated"] == expected(rows, 8)
    assert record["runs"]["groups/blue"]["truncated"] == expected(rows.in_group("blue"), 8)
    assert any(text.startswith("warning: fft: ") and "were cut" in text for text in said)


def write_language_model(folder: Path, architecture: str) -> str:
    kind = "LMHeadModel" if architecture == "gpt2" else "ForCausalLM"
    text_model(architecture, kind=kind).save_pretrained(folder)
    lm_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_prompts_of_a_language_model(architecture: str, family: Path, tmp_path: Path) -> None:
    """They are cut from the left: the question stays, the beginning of the text goes."""
    spec = load_spec(tiny.data_block(family / "rows.csv"))
    model = write_language_model(tmp_path / "model", architecture)
    counts = []
    for max_length in (24, 32, 63):
        arguments = {"max_length": max_length}
        request = EvaluationRequest(
            spec, question="Is it fine?", model_args=arguments, limit=40, batch_size=8
        )
        evaluator = Evaluator(request)
        scorer = evaluator.open(model, "cpu")
        scorer.score("validation")
        found = scorer.truncation("validation")["tiny"]
        cut = []
        for row in evaluator.prepared("validation").tasks["tiny"].requests:
            encoded = scorer.lm.tokenizer(["".join(request.args[:2]) for request in row])
            # all tokens but the last are given
            cut.append(any(len(ids) - 1 > max_length for ids in encoded["input_ids"]))
        groups = evaluator.labels("validation")["tiny"].groups
        assert found == Truncation.of(np.array(cut), groups)
        assert scorer.max_length == max_length
        counts.append(found.overall.n)
    assert 40 >= counts[0] > counts[1] > counts[2] == 0


def test_lengths_that_a_model_cannot_take(family: Path, uneven: Path, tmp_path: Path) -> None:
    model = family / "run" / "fft"
    command = ["eval", "--model", model, "--tasks", "fair_adult_sex", "--data", uneven]
    command += ["--device", "cpu", "-o", tmp_path / "out"]
    limits = {"where": "max_length", "allowed": "3 to 32"}
    for length in (33, 2):
        refusal([*command, "--max-length", length], ConfigError, got=length, **limits)
    for text in ("0", "-1", "true", "1.5", "ten"):
        got = yaml.safe_load(text)
        words = [*command, "--model-args", f"max_length={text}"]
        refusal(words, ConfigError, where="max_length", got=got)
    config = load_train_config(tiny.write_training(tmp_path / "long", max_length=33))
    with raises(ConfigError, got=33, **limits):
        train(config, tmp_path / "run", Silent(), "cpu")


def test_a_language_model_with_a_table_of_positions(tmp_path: Path) -> None:
    from mergekit_fair.evaluation.lm.checked_hf import GuardedHFLM

    model = write_language_model(tmp_path / "model", "gpt2")
    positions = GuardedHFLM(model, device="cpu").position_limit
    assert positions is not None
    with raises(ConfigError, where="max_length", got=positions + 1, allowed=f"1 to {positions}"):
        GuardedHFLM(model, device="cpu", max_length=positions + 1)


def test_sentences() -> None:
    groups = {"a": np.arange(40) < 20, "b": np.arange(40) >= 20}
    none = Truncation.of(np.zeros(40, dtype=bool), groups)
    assert none.sentence(8) is None
    even = Truncation.of(np.arange(40) % 2 == 0, groups).sentence(8)
    assert even is not None
    assert "'a'" not in even
    assert Truncation.of(np.arange(40) == 0, {}).overall.n == 1
    assert "a" not in Truncation.of(np.arange(40) == 0, {"a": np.zeros(40, dtype=bool)}).groups
    assert another_length(8, 16, 7) is None  # no text of 8 tokens
    assert another_length(8, 16, 8) is not None
    assert another_length(16, 8, 9) is not None
    assert another_length(16, None, 99) is None
    assert length_notes(None, {}, ["nowhere"]) == []
    assert len(length_notes(8, {"t": none, "u": None}, ["nowhere"])) == 0
    require_length(512, 512, 2)
