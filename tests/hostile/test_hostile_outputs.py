"""Outputs and grids that cannot be made as asked: nothing is made, moved or removed."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner
from scene import listing

from mergekit_fair.cli import main

OTHER = "Choose another folder."


def test_an_output_in_the_place_of_an_input(scene):
    for name in ("base", "Male/", "base/../base"):
        for more in ([], ["--overwrite"]):
            message = f"HERE/{name.rstrip('/')}: is what the merge reads. {OTHER}"
            assert scene.refused(*more, out=name) == message
    assert scene.refused("--overwrite", out="r.yml") == (
        f"HERE/r.yml: is what the merge reads. {OTHER}"
    )


def test_an_output_in_an_input(scene):
    assert scene.refused(out="Male/merged") == (
        f"HERE/Male/merged: lies in HERE/Male, which the merge reads. {OTHER}"
    )


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_an_output_around_the_inputs(scene, more):
    """It would have replaced the models, and their recipe, by their merge."""
    message = f"HERE: holds HERE/r.yml, which the merge reads. {OTHER}"
    assert scene.refused(*more, out=".") == message
    (scene.here / "models").mkdir()
    for name in ("base", "Female"):
        (scene.here / name).rename(scene.here / "models" / name)
    raw = scene.addition() | {"base_model": str(scene.here / "models" / "base")}
    raw["models"][0]["model"] = str(scene.here / "models" / "Female")
    scene.write(raw)
    assert scene.refused(*more, out="models") == (
        f"HERE/models: holds HERE/models/base, which the merge reads. {OTHER}"
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
    assert scene.refused("--overwrite") == f"HERE/out: is what the merge reads. {OTHER}"


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
            message = f"HERE/out: exists already and is no folder. {OTHER}"
            assert scene.refused(*more) == message
        (scene.here / "out").unlink()


def test_a_folder_that_is_there(scene):
    (scene.here / "out").mkdir()
    (scene.here / "out" / "mine.txt").write_text("mine")
    message = "HERE/out: exists already. Choose another folder or pass --overwrite."
    assert scene.refused() == message
    assert scene.refused("--lambda", "0:1:0.5") == message


def test_a_file_above_the_output(scene):
    place = "Choose another place for the output."
    message = f"HERE/base/config.json: lies in HERE/base, which the merge reads. {OTHER}"
    assert scene.refused(out="base/config.json") == message
    (scene.here / "note").write_text("mine")
    message = f"is no folder, so that nothing can be made in it. {place}"
    assert scene.refused(out="note/out") == f"HERE/note: {message}"
    assert scene.refused(out="note/a/out") == f"HERE/note/a: {message}"


def test_folders_above_a_failed_output_are_taken_away(scene):
    (scene.here / "Male" / "config.json").unlink()
    message = (
        "HERE/Male: its config.json cannot be read (no such file). Copy or train the model again."
    )
    assert scene.refused(out="runs/new/out") == message
    (scene.here / "runs").mkdir()
    assert scene.refused(out="runs/new/out") == message


def test_names_that_no_file_can_have(scene):
    name = "x" * 250  # too long for the hidden names beside it
    assert scene.refused(out=name) == f"HERE/{name}: File name too long"
    assert scene.refused(out="x" * 300 + "/out") == f"HERE/{'x' * 300}: File name too long"


def test_options_that_are_none(scene):
    assert scene.refused("--device", "nonsense").startswith("--device: this device cannot merge (")
    result = scene.invoke("--out-shard-size", "huge")
    assert result.exit_code == 2
    assert "'huge' is no size, such as 500M or 5B" in result.stderr


def test_two_merges_at_a_time(scene):
    from mergekit_fair.files import staged_folder

    with staged_folder(scene.here / "out"):
        assert scene.refused() == (
            "HERE/out: another process is working in this folder. Wait for it, or choose another "
            "folder."
        )


FORMS = (
    "allowed: a number, a list of numbers, or START:STOP:STEP with STOP included, such as 0:1:0.1."
)
GRIDS = {
    "": f"is not a finite number; got ''; {FORMS}",
    "nan": f"is not a finite number; got 'nan'; {FORMS}",
    "1e999": f"is not a finite number; got '1e999'; {FORMS}",
    "0,1": f"is not a finite number; got '0,1'; {FORMS}",
    "0:1": f"is not a grid; got '0:1'; {FORMS}",
    "0:1:x": f"is not a finite number; got 'x'; {FORMS}",
    "0:1:0": "the step does not lead from START to STOP; got '0:1:0'.",
    "1:0:0.1": "the step does not lead from START to STOP; got '1:0:0.1'.",
    "0:1:1e-9": "the grid has too many points; got '0:1:1e-9'; allowed: up to 10,000.",
}


@pytest.mark.parametrize(("grid", "message"), GRIDS.items())
def test_grids_that_are_none(scene, grid, message):
    assert scene.refused("--lambda", grid) == f"--lambda: {message}"


def test_a_grid_over_a_gradient(scene):
    scene.write(scene.addition(lambda_=[0, 1]))
    assert scene.refused("--lambda", "0:1:0.5") == (
        "HERE/r.yml: lambda is a gradient or filter; a number in its place would erase it. Give "
        "lambda as a number in the recipe, or sweep another parameter."
    )
