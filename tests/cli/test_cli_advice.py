"""Advice is written for the program that was called: typed as it stands, it helps."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from refusals import refusal
from task_tables import write_table
from tiny import data_block, write_sweep

from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.evaluation import advice
from mergekit_fair.evaluation.lm.choices import Choices

TASK = "fair_redditbias"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def nameless(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that does not say which of its classes is which."""
    folder = tmp_path_factory.mktemp("nameless") / "model"
    shutil.copytree(family / "run" / "fft", folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    (folder / "config.json").write_text(json.dumps({**config, **names}))
    return folder


def test_a_file_in_place_of_data_that_are_not_there(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDDITBIAS_CSV", raising=False)
    file = write_table("fair_redditbias", tmp_path)
    model = family / "run" / "fft"
    command = ["eval", "--model", model, "--tasks", TASK, "--device", "cpu", "-o", tmp_path / "out"]
    said = refusal(command, ConfigError, fix="--data FILE")
    option = str(said.fix).partition("name a file: ")[2].replace("FILE", str(file))
    result = run(*command, "--quiet", *shlex.split(option))
    assert result.exit_code == 0, result.output

    path = tmp_path / "sweep.yml"
    more: dict[str, Any] = {"grid": {"lambda": [0.5]}, "controls": [], "inject": None}
    asked = {"tasks": [TASK], "device": "cpu", "min_group_size": 1}
    write_sweep(family, path, evaluate=asked, **more)
    said = refusal(["sweep", path, "-o", tmp_path / "out2"], ConfigError, fix="evaluate.data: FILE")
    key, value = str(said.fix).partition("name a file: ")[2].replace("FILE", str(file)).split(": ")
    write_sweep(family, path, evaluate={**asked, key.split(".")[1]: value}, **more)
    result = run("sweep", path, "-o", tmp_path / "sweep", "--dry-run", "--quiet")
    assert result.exit_code == 0, result.output


def test_which_class_a_choice_is(family: Path, nameless: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.yml"
    data.write_text(yaml.safe_dump(data_block(family / "rows.csv")))
    command = ["eval", "--model", nameless, "--tasks", "fair_adult_sex", "--data", data]
    command += ["--device", "cpu", "--limit", 8, "-o", tmp_path / "out", "--quiet"]
    said = refusal(command, ConfigError, got=["no", "yes"], fix="--choice-map")
    (option,) = re.findall(r"--choice-map \S+", str(said.fix))
    result = run(*command, *shlex.split(option.rstrip(",")))
    assert result.exit_code == 0, result.output

    path = tmp_path / "sweep.yml"
    more: dict[str, Any] = {"grid": {"lambda": [0.5]}, "controls": [], "inject": None}
    more["baselines"] = {"fft": str(nameless)}
    write_sweep(family, path, **more)
    said = refusal(
        ["sweep", path, "-o", tmp_path / "sweep"], ConfigError, fix="evaluate.model_args: "
    )
    (text,) = re.findall(r"evaluate\.model_args: (\{.*\}\})", str(said.fix))
    evaluate = yaml.safe_load(path.read_text())["evaluate"] | {"model_args": yaml.safe_load(text)}
    write_sweep(family, path, evaluate=evaluate, **more)
    result = run("sweep", path, "-o", tmp_path / "sweep", "--dry-run", "--quiet")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "classes", [{"no": 0, "yes": 1}, {"a, b": 0, "c=d": 1}, {"x:y": 0, "it's": 1}]
)
@pytest.mark.parametrize("program", ["eval", "sweep", "lm_eval"])
def test_choices_come_back_as_they_were(
    program: str, classes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval._cli.utils import try_parse_json
    from lm_eval.utils import simple_parse_args_string

    from mergekit_fair.cli.reading_options import Pairs

    monkeypatch.setattr(advice, "program", lambda: program)
    text = advice.choice_map(classes)
    if program == "sweep":
        read = yaml.safe_load(text)["evaluate.model_args"]["choice_map"]
    else:
        option, value = shlex.split(text)
        if program == "eval":
            read = Pairs().convert(value, None, None)
        else:
            parsed = try_parse_json(value)
            arguments = parsed if isinstance(parsed, dict) else simple_parse_args_string(value)
            read = arguments["choice_map"]
        assert option in ("--choice-map", "--model_args")
    assert Choices({}, 2, read).classes == classes


def test_every_other_option() -> None:
    """Names that advice is made of, looked up in the program itself."""
    from lm_eval._cli.harness import HarnessCLI

    from mergekit_fair.sweep.sweep_config import Evaluate

    said = {}
    for name in ("eval", "sweep", "exec"):
        with click.Context(click.Command(name), info_name=name):
            options = ("batch_size", "apply_chat_template", "question")
            said[name] = [advice.option(each) for each in options]
            said[name] += [advice.model_argument("text_field"), advice.another_file()]
    eval_command = main.get_command(click.Context(main), "eval")
    assert eval_command is not None
    known = {option for param in eval_command.params for option in param.opts}
    words = {word for text in said["eval"] for word in text.split() if word.startswith("--")}
    assert words - {"--question"} <= known
    keys = {text.split(".")[1].split(":")[0] for text in said["sweep"] if "evaluate." in text}
    assert keys <= set(Evaluate.model_fields)
    help_text = " ".join(HarnessCLI()._parser.format_help().split())
    assert help_text
    assert said["exec"][-1].endswith("""--metadata '{"data": "FILE"}'""")


def test_data_of_three_classes_have_one_true_sentence(tmp_path: Path) -> None:
    rows = "".join(f"text {n},{n % 3},{'ab'[n % 2]}\n" for n in range(30))
    (tmp_path / "rows.csv").write_text(f"text,label,group\n{rows}")
    data = tmp_path / "data.yml"
    data.write_text(yaml.safe_dump(data_block(tmp_path / "rows.csv")))
    command = ["eval", "--model", "m", "--data", data, "-o", tmp_path / "out"]
    refusal(command, DataError, got=["0", "1", "2"], fix="`negative: '*'`")
