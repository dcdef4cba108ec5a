"""Models with code of their own: never run nor asked about unless they are trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from refusals import refusal
from tiny import write_sweep

from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError

CODE = """
from pathlib import Path
from transformers import BertConfig, BertForSequenceClassification
Path({ran!r}).write_text("")
class OddConfig(BertConfig):
    model_type = "odd"
class OddForSequenceClassification(BertForSequenceClassification):
    config_class = OddConfig
"""


@pytest.fixture
def odd(family: Path, tmp_path: Path) -> Path:
    """The family, of an architecture that only the code beside the weights knows."""
    place = tmp_path / "family"
    shutil.copytree(family, place)
    recipe = place / "run" / "addition.yml"
    recipe.write_text(recipe.read_text().replace(str(family), str(place)))
    for config in place.glob("run/**/config.json"):
        content = json.loads(config.read_text())
        if content.get("architectures") != ["BertForSequenceClassification"]:
            continue
        content |= {
            "model_type": "odd",
            "architectures": ["OddForSequenceClassification"],
            "auto_map": {
                "AutoConfig": "odd.OddConfig",
                "AutoModelForSequenceClassification": "odd.OddForSequenceClassification",
            },
        }
        config.write_text(json.dumps(content))
        (config.parent / "odd.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    return place


def figures(out: Path) -> dict[str, float]:
    results = json.loads((out / "results.json").read_text())
    return {
        f"{point['label']} {point['split']}": point["evaluation"]["metrics"]["eod"]["value"]
        for point in results["points"]
    }


def test_a_sweep_runs_code_where_it_is_trusted(odd: Path, swept: Path, tmp_path: Path) -> None:
    sweep, out = write_sweep(odd, tmp_path / "sweep.yml"), tmp_path / "out"
    for command in (["sweep", sweep, "-o", out], ["sweep", sweep, "-o", out, "--dry-run"]):
        refusal(command, CheckpointError, "code of its own", fix="--trust-remote-code")
    assert not (tmp_path / "ran").exists()
    arguments = ["sweep", str(sweep), "-o", str(out), "--trust-remote-code", "--quiet"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "ran").exists()
    assert figures(out) == figures(swept / "out")
    assert (out / "selected" / "model" / "odd.py").is_file()


def test_an_evaluation_runs_code_where_it_is_trusted(odd: Path, tmp_path: Path) -> None:
    model, data = odd / "run" / "fft", tmp_path / "data.yml"
    write_sweep(odd, tmp_path / "sweep.yml")
    import yaml

    block = yaml.safe_load((tmp_path / "sweep.yml").read_text())["evaluate"]["data"]
    data.write_text(yaml.safe_dump(block))
    command = ["eval", "--model", model, "--tasks", "fair_adult_sex", "--data", data]
    command += ["-o", tmp_path / "eval", "--device", "cpu", "--quiet"]
    refusal(command, CheckpointError, where=model, fix="--trust-remote-code")
    assert not (tmp_path / "ran").exists()
    words = [str(word) for word in command]
    result = CliRunner().invoke(main, [*words, "--trust-remote-code"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "eval" / "fair_adult_sex.json").is_file()


def test_code_that_is_left_out_is_said(family: Path, tmp_path: Path) -> None:
    """transformers knows the architecture, so that the model runs without the code it brings."""
    model = tmp_path / "model"
    shutil.copytree(family / "run" / "fft", model)
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "odd.OddConfig"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "odd.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    command = ["eval", "--model", str(model), "--data", str(data_file(family, tmp_path))]
    result = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "out"), "--quiet"])
    assert result.exit_code == 0, result.output
    assert "brings code of its own, which is not run" in " ".join(result.output.split())
    assert not (tmp_path / "ran").exists()


def data_file(family: Path, folder: Path) -> Path:
    """The family's data description as a file of its own."""
    block = yaml.safe_load((family / "train.yml").read_text())["data"]
    path = folder / "data.yml"
    path.write_text(yaml.safe_dump(block))
    return path
