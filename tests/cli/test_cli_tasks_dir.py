"""`mergekit-fair tasks-dir`, in the checkout and in an installed wheel."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import mergekit_fair
from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError
from mergekit_fair.resources import tasks_dir

CHECKOUT = Path(__file__).parents[2]


def test_prints_the_folder() -> None:
    found = CliRunner().invoke(main, ["tasks-dir"])
    assert (found.exit_code, found.output) == (0, f"{CHECKOUT / 'evals'}\n")


def test_an_installed_wheel_carries_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["force-include"]["evals"] == "mergekit_fair/_evals"
    package = tmp_path / "site" / "mergekit_fair"
    package.mkdir(parents=True)
    monkeypatch.setattr(mergekit_fair, "__file__", str(package / "__init__.py"))
    with pytest.raises(ConfigError, match="the task suite is missing from this installation"):
        tasks_dir()
    shutil.copytree(CHECKOUT / "evals", package / "_evals")
    assert tasks_dir() == package / "_evals"
