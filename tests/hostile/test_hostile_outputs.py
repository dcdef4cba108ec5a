"""Outputs and grids that cannot be made as asked: nothing is made, moved or removed."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner
from scene import listing

from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError, ConfigError, RecipeError

OTHER = "Choose another folder."


def test_an_output_in_the_place_of_an_input(scene):
    for name in ("base", "Male/", "base/../base"):
        for more in ([], ["--overwrite"]):
            where = f"HERE/{name.rstrip('/')}"
            shows = "is what the merge reads"
            scene.refuses(ConfigError, shows, where=where, arguments=(*more,), out=name)
    scene.refuses(
        ConfigError,
        "is what the merge reads",
        where="HERE/r.yml",
        arguments=("--overwrite",),
        out="r.yml",
    )


def test_an_output_in_an_input(scene):
    scene.refuses(
        ConfigError,
        "lies in HERE/Male, which the merge",
        where="HERE/Male/merged",
        out="Male/merged",
    )


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_an_output_around_the_inputs(scene, more):
    """It would have replaced the models, and their recipe, by their merge."""
    scene.refuses(
        ConfigError,
        "holds HERE/r.yml, which the merge reads",
        where="HERE",
        arguments=(*more,),
        out=".",
    )
    (scene.here / "models").mkdir()
    for name in ("base", "Female"):
        (scene.here / name).rename(scene.here / "models" / name)
    raw = scene.addition() | {"base_model": str(scene.here / "models" / "base")}
    raw["models"][0]["model"] = str(scene.here / "models" / "Female")
    scene.write(raw)
    scene.refuses(
        ConfigError,
        "holds HERE/models/base, which the merge reads",
        where="HERE/models",
        arguments=(*more,),
        out="models",
    )


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", ".: is what the merge reads."),
        ("..", "..: holds HERE/r.yml, which the merge reads."),
        ("", ".: is what the merge reads."),
    ],
)
def test_an_output_in_the_place_where_the_command_runs(scene, monkeypatch, out, message):
    monkeypatch.chdir(scene.here / "Male")
    before = listing(scene.here)
    words = ["merge", str(scene.here / "r.yml"), out, "--overwrite", "--quiet"]
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, scene.named(result.stderr)) == (2, f"Error: {message} {OTHER}\n")
    assert listing(scene.here) == before


def test_a_link_to_an_input(scene):
    (scene.here / "out").symlink_to("base")
    scene.refuses(
        ConfigError, "is what the merge reads", where="HERE/out", arguments=("--overwrite",)
    )


def test_what_is_there_and_no_folder(scene):
    for make in (
        lambda path: path.write_text("mine"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to("there"),
        os.mkfifo,
    ):
        (scene.here / "there").mkdir(exist_ok=True)
        make(scene.here / "out")
        for more in ([], ["--overwrite"]):
            scene.refuses(
                ConfigError,
                "exists already and is not a folder",
                where="HERE/out",
                arguments=(*more,),
            )
        (scene.here / "out").unlink()


def test_a_folder_that_is_there(scene):
    (scene.here / "out").mkdir()
    (scene.here / "out" / "mine.txt").write_text("mine")
    scene.refuses(ConfigError, "--overwrite", where="HERE/out")
    scene.refuses(ConfigError, "--overwrite", where="HERE/out", arguments=("--lambda", "0:1:0.5"))


def test_a_file_above_the_output(scene):
    scene.refuses(
        ConfigError,
        "lies in HERE/base, which the merge",
        where="HERE/base/config.json",
        out="base/config.json",
    )
    (scene.here / "note").write_text("mine")
    scene.refuses(
        ConfigError, "is not a folder, so that nothing", where="HERE/note", out="note/out"
    )
    scene.refuses(
        ConfigError, "is not a folder, so that nothing", where="HERE/note/a", out="note/a/out"
    )


def test_folders_above_a_failed_output_are_taken_away(scene):
    (scene.here / "Male" / "config.json").unlink()
    scene.refuses(CheckpointError, "(no such file)", where="HERE/Male", out="runs/new/out")
    (scene.here / "runs").mkdir()
    scene.refuses(CheckpointError, "(no such file)", where="HERE/Male", out="runs/new/out")


def test_names_that_no_file_can_have(scene):
    name = "x" * 250  # too long for the hidden names beside it
    assert scene.refused(out=name) == f"HERE/{name}: File name too long"
    assert scene.refused(out="x" * 300 + "/out") == f"HERE/{'x' * 300}: File name too long"


def test_options_that_are_none(scene):
    device = ("--device", "nonsense")
    scene.refuses(CheckpointError, where="--device", got="nonsense", arguments=device)
    result = scene.invoke("--out-shard-size", "huge")
    assert result.exit_code == 2
    assert "'huge' is not a size, such as 500M or 5B" in result.stderr


def test_two_merges_at_a_time(scene):
    from mergekit_fair.files import staged_folder

    with staged_folder(scene.here / "out"):
        scene.refuses(ConfigError, "another process is working in this", where="HERE/out")


GRIDS = {
    "": ["--lambda", "got ''", "allowed: a number, a list of numbers, or START:STOP:STEP with"],
    "nan": [
        "--lambda",
        "got 'nan'",
        "allowed: a number, a list of numbers, or START:STOP:STEP with",
    ],
    "1e999": [
        "--lambda",
        "got '1e999'",
        "allowed: a number, a list of numbers, or START:STOP:STEP with",
    ],
    "0,1": [
        "--lambda",
        "got '0,1'",
        "allowed: a number, a list of numbers, or START:STOP:STEP with",
    ],
    "0:1": [
        "--lambda",
        "got '0:1'",
        "allowed: a number, a list of numbers, or START:STOP:STEP with",
    ],
    "0:1:x": [
        "--lambda",
        "got 'x'",
        "allowed: a number, a list of numbers, or START:STOP:STEP with",
    ],
    "0:1:0": ["--lambda", "got '0:1:0'"],
    "1:0:0.1": ["--lambda", "got '1:0:0.1'"],
    "0:1:1e-9": ["--lambda", "got '0:1:1e-9'", "allowed: up to 10,000"],
}


@pytest.mark.parametrize(("grid", "expected"), GRIDS.items())
def test_grids_that_are_none(scene, grid, expected):
    where, *shows = expected
    scene.refuses(ConfigError, *shows, where=where, arguments=("--lambda", grid))


def test_a_grid_over_a_gradient(scene):
    scene.write(scene.addition(lambda_=[0, 1]))
    scene.refuses(
        RecipeError,
        "lambda is a gradient or filter;",
        where="HERE/r.yml",
        arguments=("--lambda", "0:1:0.5"),
    )
