"""What SECURITY.md says: what runs code of others, and what never does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from mergekit_fair.cli import COMMANDS, main
from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.errors import ConfigError
from mergekit_fair.schema import load_yaml

POLICY = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")
TRUSTING = {"trust_remote_code": "--trust-remote-code", "include_path": "--include-path"}


def commands(group: Any, name: str = "") -> Any:
    for each, command in group.commands.items() if isinstance(group, click.Group) else ():
        yield from commands(command, f"{name} {each}".strip())
    yield name, group


def trusting() -> list[tuple[str, str]]:
    """Command and option, of all that take an option that runs code."""
    found = []
    for top in COMMANDS:
        module = importlib.import_module(f"mergekit_fair.cli.cmd_{top.replace('-', '_')}")
        for _, command in commands(module.command):
            names = {parameter.name for parameter in command.params}
            found += [(top, flag) for name, flag in TRUSTING.items() if name in names]
    return sorted(set(found))


def test_every_option_that_runs_code_is_named() -> None:
    lines = [line for line in POLICY.splitlines() if line.startswith("|")]
    rows = {flag: next(line for line in lines if flag in line) for flag in TRUSTING.values()}
    # Those that mergekit adds stand in its own options.
    found = trusting()
    assert found
    assert [(command, flag) for command, flag in found if command not in rows[flag]] == []


@pytest.mark.parametrize(
    ("command", "option"), [("eval", "--include-path"), ("exec", "--include_path")]
)
def test_help_says_that_tasks_are_code(command: str, option: str) -> None:
    text = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
    assert option in text
    assert "code" in text.split(option)[-1] or "code" in text


@pytest.mark.parametrize(
    "text", ["{{ 7*7 }}", "{% for x in y %}", "{0.__class__}", "{other}", "%s", "${HOME}"]
)
def test_texts_of_a_table_are_texts(text: str, tmp_path: Path) -> None:
    import pandas as pd

    rows = pd.DataFrame(
        {"text": [f"{text} {i}" for i in range(8)], "y": [0, 1] * 4, "g": list("aabb") * 2}
    )
    rows.to_csv(tmp_path / "rows.csv", index=False)
    block = {
        **{"name": "d", "source": str(tmp_path / "rows.csv"), "text": "say {text}"},
        **{"label": {"column": "y"}, "groups": {"column": "g"}},
        "splits": {"shares": {"report": 1}},
    }
    found = load_rows(load_spec(block)).of("report")
    assert sorted(found.inputs) == [f"say {text} {i}" for i in range(8)]


def test_saved_scores_are_read_without_pickle(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    np.save(tmp_path / "a.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        np.load(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


def test_nothing_is_read_by_pickle() -> None:
    """No call in the package asks for it."""
    import mergekit_fair

    package = Path(mergekit_fair.__file__).parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert [
        name
        for name, text in texts.items()
        if any(
            word in text
            for word in ("pickle.load", "allow_pickle=True)", "yaml.unsafe", "yaml.load(")
        )
        and "np.load" in text
    ] == []
    assert not any("pickle.loads" in text or "yaml.unsafe_load" in text for text in texts.values())


def test_tags_of_yaml_are_refused(tmp_path: Path) -> None:
    for tag in ("!!python/name:os.system", "!function evil.f", "!!python/object/apply:os.system"):
        (tmp_path / "a.yml").write_text(f"a: {tag} ['x']\n")
        with pytest.raises(ConfigError):
            load_yaml(tmp_path / "a.yml")
    assert yaml.SafeLoader
