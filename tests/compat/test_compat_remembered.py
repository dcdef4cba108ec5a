"""Answers about a config.json and tensors, kept in the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mergekit_fair.compat import remembered as module
from mergekit_fair.compat.remembered import remembered


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(tmp_path))
    return tmp_path / "answers"


class Asked:
    """Counts, and answers with a tuple and a number as key, which JSON does not have."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Any:
        self.count += 1
        return {1: (2, 3)}


def test_an_answer_is_kept_and_is_the_same_both_times() -> None:
    ask = Asked()
    assert [remembered("q", "about", ask) for _ in range(2)] == [{"1": [2, 3]}] * 2
    assert ask.count == 1


def test_another_question_model_or_version_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked()
    for question, about in (("q", 1), ("q", 2), ("p", 1)):
        remembered(question, about, ask)
    monkeypatch.setattr(module, "_versions", lambda: ["transformers 99"])
    remembered("q", 1, ask)
    assert ask.count == 4


def test_what_is_not_known_is_asked_every_time(folder: Path) -> None:
    ask = Asked()
    assert remembered("q", None, ask) == remembered("q", None, ask) == {"1": [2, 3]}
    assert ask.count == 2
    assert not folder.exists()


def test_a_refusal_is_not_kept(folder: Path) -> None:
    def refuse() -> None:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            remembered("q", 1, refuse)
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", json.dumps({"question": "q"})])
def test_a_damaged_file_is_asked_again_and_mended(folder: Path, damage: str) -> None:
    ask = Asked()
    remembered("q", 1, ask)
    (file,) = folder.iterdir()
    file.write_text(damage)
    for _ in range(2):
        assert remembered("q", 1, ask) == {"1": [2, 3]}
    assert ask.count == 2


def test_a_cache_that_cannot_be_written_costs_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(tmp_path / "file"))
    assert remembered("q", 1, Asked()) == {"1": [2, 3]}
