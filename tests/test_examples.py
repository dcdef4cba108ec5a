"""The worked examples of all docstrings print what they say."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from examples import examples_in, require_examples_hold

import mergekit_fair

PACKAGE = Path(mergekit_fair.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write its table
    tests = examples_in(importlib.import_module(name))
    assert tests
    for test in tests:
        require_examples_hold(test)
