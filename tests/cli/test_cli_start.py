"""What a command imports: start is most of the time of a small merge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from adapters import adapters_on, addition
from biased import write_biased

from mergekit_fair.schema import dump_yaml

# Each takes longer to import than most merges take.
LIBRARIES = ("transformers", "peft", "mergekit.common", "accelerate", "datasets", "lm_eval")
CODE = """
import sys
from mergekit_fair.cli import main
try:
    main(sys.argv[1:])
except SystemExit as error:
    assert error.code == 0, error.code
print("imported:", *sys.modules)
"""


def imported(*arguments: object) -> set[str]:
    """The modules of a process that has run a command."""
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rpartition("imported:")[2].split())


def test_what_reads_no_tensor_imports_no_torch(recipe: Path, tmp_path: Path) -> None:
    for command in (
        ["methods"],
        ["grid", recipe, "--set", "weight=0:1:0.5", "-o", tmp_path / "grid"],
        ["tasks-dir"],
    ):
        assert imported(*command).isdisjoint({"torch", "numpy", "mergekit", *LIBRARIES}), command


@pytest.fixture
def recipe(tiny: Any, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yml"
    path.write_text(dump_yaml(tiny("bert").addition(lambda_=[0.25, 1], normalize="norm")))
    return path


def test_what_transformers_says_of_a_model_is_asked_once(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the result loads whole is asked of transformers, by the first command on a base."""
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(tmp_path / "cache"))
    first = imported("check", recipe)
    assert "transformers" in first
    assert first.isdisjoint({"peft", "mergekit.common"})
    out = tmp_path / "out"
    for command in (["check", recipe], ["merge", recipe, out]):
        assert imported(*command).isdisjoint(LIBRARIES), command
    assert imported("check", out).isdisjoint({"torch", "numpy", "mergekit", *LIBRARIES})
    grid = ["merge", recipe.with_name("grid.yml"), tmp_path / "grid", "--lambda", "0:1:0.5"]
    grid[1].write_text(recipe.read_text().replace("- 0.25\n", "").replace("lambda:", "lambda: 1 #"))
    assert imported(*grid).isdisjoint(LIBRARIES)
    assert (tmp_path / "grid" / "lambda_0.5" / "config.json").is_file()


def test_adapters_are_asked_about_once_too(tiny: Any, tmp_path: Path) -> None:
    base, path = tiny("bert").base, tmp_path / "adapters.yml"
    path.write_text(dump_yaml(addition(base, adapters_on(base, tmp_path, "bert"))))
    imported("check", path)
    for command in (["check", path], ["merge", path, tmp_path / "out"], ["vectors", path]):
        assert imported(*command).isdisjoint(LIBRARIES), command


def test_heads_and_their_merge_import_no_mergekit(tmp_path: Path) -> None:
    """The forward pass is transformers' and lm-eval's; the merge of the head is nobody's."""
    model, data = write_biased(tmp_path, "bert")
    heads = tmp_path / "heads"
    arguments = ["--data", data, "-o", heads, "--tolerance", 0.1, "--quiet"]
    assert "mergekit.common" not in imported("heads", model, *arguments)
    imported("check", heads / "recipe.yml")
    merged = imported("merge", heads / "recipe.yml", tmp_path / "merged")
    assert merged.isdisjoint(LIBRARIES)
