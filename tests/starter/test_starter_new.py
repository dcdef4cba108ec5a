"""`new`: three files that train and sweep take, for tables of all kinds; asked for or given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from click.testing import CliRunner
from refusals import refusal

from mergekit_fair.cli import main
from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.training.train_config import load_train_config


def run(*words: object, given: str | None = None) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in words], input=given)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Text, label and group, 480 rows."""
    return tiny.write_rows(tmp_path / "rows.csv")


def test_the_files_are_taken_by_the_next_commands(table: Path, tmp_path: Path) -> None:
    """`train` and `sweep`, as they are printed, from the folder that they were written from."""
    from mergekit_fair.progress import Silent
    from mergekit_fair.sweep.sweep_config import load_sweep
    from mergekit_fair.training.family import train

    out = tmp_path / "study"
    encoder = tiny.write_encoder(tmp_path / "encoder")
    words = ("--text", "text", "--label", "label", "--groups", "group", "--model", encoder)
    result = run("new", table, "-o", out, *words)
    assert [line.split()[1] for line in result.output.splitlines()[-3:]] == [
        "train",
        "sweep",
        "merge",
    ]
    # The tiny encoder has 32 positions.
    file = out / "train.yml"
    file.write_text(file.read_text().replace("max_length: 128", "max_length: 16"))
    config = load_train_config(file)
    assert (config.model, len(load_rows(config.data).labels)) == (str(encoder), 480)
    train(config, out / "models", Silent(), "cpu")
    sweep = load_sweep(out / "sweep.yml")
    assert set(sweep.recipe.groups()) == set(tiny.GROUPS)


def test_what_is_not_given_is_asked_for(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enter takes what is offered; the columns are shown once."""
    monkeypatch.setattr("mergekit_fair.cli.cmd_new._somebody_is_there", lambda: True)
    result = run("new", table, "-o", tmp_path / "a", given="\n\n\n")
    assert result.output.count("has the columns") == 1
    found = load_spec(tmp_path / "a" / "data.yml")
    assert (found.columns_read, found.label_kind) == ({"text", "label", "group"}, "binary")
    # What is answered counts, not what is offered.
    run("new", table, "-o", tmp_path / "b", "--label", "label", given="group\n{group}: {text}\n")
    text = yaml.safe_load((tmp_path / "b" / "data.yml").read_text())["text"]
    assert text == "{group}: {text}"


def test_without_a_terminal_what_is_missing_is_an_error(table: Path, tmp_path: Path) -> None:
    words = ["new", table, "-o", tmp_path / "out"]
    refusal(words, ConfigError, "--label", where="--label", allowed=["text", "label", "group"])
    refusal([*words, "--label", "lable"], ConfigError, "label", where="--label", got="lable")
    refusal([*words, "--label", "label"], ConfigError, where="--groups")
    several = ["--label", "label", "--groups", "group"]
    refusal([*words, *several, "--text", "t", "--image", "i"], ConfigError, where="--text, --image")
    refusal([*words, *several, "--text", "body"], DataError, "body")
    refusal(["new", tmp_path / "no.csv"], DataError, "no such file")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "words", "rule"),
    [
        (("yes", "no"), (), {"positive": "yes", "negative": "no"}),
        (("<=50K", ">50K"), (), {"positive": ">50K", "negative": "<=50K"}),
        (("a", "b", "c"), ("--positive", "c"), {"positive": "c", "negative": "*"}),
        (("0.1", "0.5", "0.9"), ("--at-least", 0.5), {"ge": 0.5}),
        (("0", "1"), (), {}),
    ],
)
def test_labels_of_all_kinds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: tuple[str, ...],
    words: tuple[Any, ...],
    rule: dict[str, Any],
) -> None:
    monkeypatch.setattr("mergekit_fair.cli.cmd_new._somebody_is_there", lambda: True)
    rows = [f"text number {n},{values[n % len(values)]},{'mf'[n % 2]}" for n in range(120)]
    file = tmp_path / "t.csv"
    file.write_text("\n".join(["comment,verdict,sex", *rows]) + "\n")
    known = ("--text", "comment", "--label", "verdict", "--groups", "sex")
    result = run("new", file, "-o", tmp_path / "out", *known, *words, "--json", given="\n")
    found = json.loads(result.stdout[result.stdout.index("{\n") :])
    block = yaml.safe_load((tmp_path / "out" / "data.yml").read_text())
    assert block["label"] == {"column": "verdict", **rule}
    labels = load_rows(load_spec(tmp_path / "out" / "data.yml")).labels
    assert found["positive"] == pytest.approx(labels.mean())
    assert 0 < labels.mean() < 1


def test_a_table_of_short_columns_becomes_a_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what is about people, and with groups that cross."""
    monkeypatch.setattr("mergekit_fair.cli.cmd_new._somebody_is_there", lambda: True)
    rows = [
        f"{20 + n},{'ab'[n % 2]},{'mf'[n // 2 % 2]},{'xyz'[n % 3]},{n // 4 % 2}" for n in range(96)
    ]
    file = tmp_path / "t.csv"
    file.write_text("\n".join(["age,job,sex,race,target", *rows]) + "\n")
    run("new", file, "-o", tmp_path / "one", given="\n\n\n")
    block = yaml.safe_load((tmp_path / "one" / "data.yml").read_text())
    assert block["text"] == "age {age}, job {job}"
    assert (block["label"], block["groups"]) == ({"column": "target"}, {"column": "sex"})
    both = ("--groups", "sex", "--groups", "race", "--label", "target", "--text", "{age}")
    run("new", file, "-o", tmp_path / "two", *both)
    rows_ = load_rows(load_spec(tmp_path / "two" / "data.yml"))
    assert "f & x" in rows_.group_names


def test_a_column_of_splits_is_told_of_and_taken(table: Path, tmp_path: Path) -> None:
    head, *lines = table.read_text().splitlines()
    parts = ("train", "train", "validation", "report")
    rows = [f"{line},{parts[n % 4]}" for n, line in enumerate(lines)]
    table.write_text("\n".join([f"{head},part", *rows]) + "\n")
    words = ("--text", "text", "--label", "label", "--groups", "group")
    assert "--split part uses it" in run("new", table, "-o", tmp_path / "a", *words).output
    run("new", table, "-o", tmp_path / "b", *words, "--split", "part")
    assert load_spec(tmp_path / "b" / "data.yml").splits.column == "part"


def test_files_of_other_content_are_kept(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["new", table, "-o", out, "--text", "text", "--label", "label", "--groups", "group"]
    run(*words)
    run(*words)  # the same again
    (out / "train.yml").write_text("seed: 1\n")
    refusal(words, ConfigError, where=out / "train.yml")
    assert (out / "train.yml").read_text() == "seed: 1\n"
    run(*words, "--overwrite")
    assert "head: probe" in (out / "train.yml").read_text()
