"""The worked examples of the docstrings."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["description", "load", "rows"])
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example writes its table
    outcome = doctest.testmod(importlib.import_module(f"mergekit_fair.data.{name}"))
    assert outcome.attempted > 2
    assert outcome.failed == 0
