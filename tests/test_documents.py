"""Documents: links lead somewhere, commands and options exist, and the README is short."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mergekit_fair.cli import COMMANDS, main
from mergekit_fair.fairness.metrics import METRICS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "recipes/**/*.md", "evals/**/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
    kept = (re.sub(r"[^\w\- ]", "", head.lower().replace("`", "")) for head in heads)
    return {head.strip().replace(" ", "-") for head in kept}


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for link in _LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


def _commands(path: Path) -> Iterator[list[str]]:
    """The words of every command of ours, in blocks and between backticks."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    quoted = re.findall(r"`(mergekit-fair [^`]*)`", text)
    for line in [*(each for each in lines if each.startswith("mergekit-fair ")), *quoted]:
        try:
            yield shlex.split(line, comments=True)
        except ValueError:  # prose
            yield line.split()


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_commands_and_their_options_exist(path: Path) -> None:
    wrong = []
    for words in _commands(path):
        name = next(iter(words[1:]), "")
        if not name.strip("…[") or name == "exec" or name.startswith("-"):
            continue  # the options of another program
        if name not in COMMANDS:
            wrong.append(" ".join(words))
            continue
        command = main.get_command(click.Context(main), name)
        assert command is not None
        commands = [command]
        if isinstance(command, click.Group):
            commands += [c for c in command.commands.values() if c.name in words]
        known = {"--help"}
        for each in commands:
            for parameter in each.params:
                known |= {*parameter.opts, *parameter.secondary_opts}
        wrong += [f"{name} {o}" for o in _OPTION.findall(" ".join(words)) if o not in known]
    assert wrong == []


def test_the_readme_is_read_in_minutes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 700
    text = re.sub(r"```.*?```", " ", text, flags=re.S)
    prose = re.sub(r"^[|#!].*$|\(http[^)]*\)", " ", text, flags=re.M)
    sentences = [s.split() for s in re.split(r"[.:?](?:\s|$)", prose) if len(s.split()) > 2]
    assert sum(map(len, sentences)) / len(sentences) <= 18


def test_the_glossary_has_every_metric() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}`" not in text] == []
