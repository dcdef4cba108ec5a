"""`--overwrite` replaces what the same command has recorded, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from refusals import refusal
from scene import Scene, listing

from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError
from mergekit_fair.files import contents, staged_folder
from mergekit_fair.merging.manifest import MANIFEST
from mergekit_fair.vectors.basis_files import _recorded

GRID = ("--lambda", "0.1:0.2:0.1")


def _a_model(scene: Scene) -> None:
    shutil.rmtree(scene.here / "out")
    shutil.copytree(scene.here / "fft", scene.here / "out")


def _without_manifest(scene: Scene) -> None:
    (scene.here / "out" / MANIFEST).unlink()


def _document(scene: Scene) -> None:
    (scene.here / "out" / "thesis.txt").write_text("mine")


def _in_a_folder(scene: Scene) -> None:
    (scene.here / "out" / "notes").mkdir()
    (scene.here / "out" / "notes" / "thesis.txt").write_text("mine")


def _hidden(scene: Scene) -> None:
    (scene.here / "out" / ".git").mkdir()
    (scene.here / "out" / ".git" / "HEAD").write_text("mine")


def _link(scene: Scene) -> None:
    (scene.here / "out" / "mine").symlink_to(scene.here / "base")


def _dead_link(scene: Scene) -> None:
    (scene.here / "out" / "mine").symlink_to("nowhere")


def _pipe(scene: Scene) -> None:
    os.mkfifo(scene.here / "out" / "mine")


def _another_merge(scene: Scene) -> None:
    shutil.copytree(scene.here / "out", scene.here / "out" / "lambda_0.5")


def _merges(scene: Scene) -> None:
    """A folder of merges is no merge."""
    shutil.move(scene.here / "out", scene.here / "one")
    (scene.here / "out").mkdir()
    shutil.move(scene.here / "one", scene.here / "out" / "one")


def _manifest(content: object) -> Callable[[Scene], None]:
    def write(scene: Scene) -> None:
        (scene.here / "out" / MANIFEST).write_text(json.dumps(content))

    return write


INTRUDERS: dict[str, Any] = {
    "a model": _a_model,
    "no manifest": _without_manifest,
    "a document": _document,
    "in a folder": _in_a_folder,
    "hidden": _hidden,
    "a link": _link,
    "a dead link": _dead_link,
    "a pipe": _pipe,
    "a merge in it": _another_merge,
    "merges in it": _merges,
    "a manifest of nothing": _manifest({}),
    "a manifest that is a list": _manifest([]),
    "a manifest of other things": _manifest({"files": 3}),
    "a manifest of names": _manifest({"files": ["config.json"]}),
}


@pytest.mark.parametrize("intrude", INTRUDERS.values(), ids=INTRUDERS)
def test_what_a_merge_did_not_write_is_not_replaced(scene: Scene, intrude: Any) -> None:
    scene.merged()
    intrude(scene)
    scene.refuses(ConfigError, where="HERE/out", arguments=("--overwrite",))


def test_a_merge_and_what_file_managers_leave_are_replaced(scene: Scene) -> None:
    scene.merged()
    (scene.here / "out" / ".DS_Store").write_bytes(b"\0")
    scene.write(scene.addition(lambda_=0.5))
    assert scene.invoke("--overwrite").exit_code == 0
    assert not (scene.here / "out" / ".DS_Store").exists()


def test_a_grid_of_merges(scene: Scene) -> None:
    for _ in range(2):
        assert scene.invoke(*GRID, "--overwrite").exit_code == 0
    (scene.here / "out" / "lambda_0.1" / "mine.txt").write_text("mine")
    got = ["lambda_0.1/mine.txt"]
    scene.refuses(ConfigError, where="HERE/out", got=got, arguments=(*GRID, "--overwrite"))


def test_a_grid_of_recipes(scene: Scene) -> None:
    words = ["grid", scene.here / "r.yml", "-o", scene.here / "out", *GRID, "--overwrite"]
    for _ in range(2):
        result = CliRunner().invoke(main, list(map(str, words)))
        assert result.exit_code == 0, result.output
    (scene.here / "out" / "mine.yml").write_text("mine")
    before = listing(scene.here)
    refusal(words, ConfigError, where=scene.here / "out", got=["mine.yml"])
    assert listing(scene.here) == before


def test_a_basis(scene: Scene) -> None:
    words = ["basis", "build", scene.here / "r.yml", "-o", scene.here / "out", "--overwrite"]
    (scene.here / "out").mkdir()  # an empty folder is replaced
    result = CliRunner().invoke(main, [*map(str, words), "--quiet"])
    assert result.exit_code == 0, result.output
    assert sorted(contents(scene.here / "out")) == sorted(_recorded(scene.here / "out"))
    (scene.here / "out" / "vectors" / "mine.txt").write_text("mine")
    before = listing(scene.here)
    refusal([*words, "--quiet"], ConfigError, where=scene.here / "out", got=["vectors/mine.txt"])
    assert listing(scene.here) == before


def test_nothing_is_known_of_a_folder_unless_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with staged_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "a").write_text("new")
    with pytest.raises(ConfigError), staged_folder(tmp_path / "out", overwrite=True):
        raise AssertionError
    assert (tmp_path / "out" / "a").read_text() == "new"
