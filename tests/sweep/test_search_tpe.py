"""Optuna's sampler as a proposer without state, and its journal."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
from search_landscape import GOAL, SPACE, measure, search

from mergekit_fair.errors import ConfigError
from mergekit_fair.sweep.search import (
    OptunaProposer,
    Space,
    failed,
    write_journal,
)
from mergekit_fair.sweep.search.tpe import STUDY


def test_a_missing_optuna_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"Run pip install 'mergekit-fair\[search\]'"):
        OptunaProposer(SPACE, GOAL).ask([], 1)


def test_asking_again_asks_the_same_and_never_what_is_known() -> None:
    pytest.importorskip("optuna")
    proposer = OptunaProposer(SPACE, GOAL, seed=1)
    history = search(proposer, 14)
    points = [found.x for found in history]
    assert len(set(points)) == 14
    for length in (0, 5, 8, 13):
        assert proposer.ask(history[:length], 1) == [points[length]]
    batch = proposer.ask(history, 4)
    assert len(set(batch)) == 4
    assert not set(batch) & set(points)
    assert proposer.ask(history, 4) == batch
    assert OptunaProposer(SPACE, GOAL, seed=2).ask(history, 4) != batch


def test_it_learns_from_objectives_and_violations() -> None:
    pytest.importorskip("optuna")
    # The limit on accuracy holds for a third of the space.
    found = search(OptunaProposer(SPACE, GOAL), 40, size=4)[20:]
    chance = [measure(x) for x in SPACE.sobol(200, 0)]
    assert sum(seen.feasible for seen in found) / 20 > sum(seen.feasible for seen in chance) / 200


def test_failed_points_and_small_spaces() -> None:
    pytest.importorskip("optuna")
    history = [failed(x, GOAL) for x in SPACE.sobol(9, 0)]
    asked = OptunaProposer(SPACE, GOAL).ask(history, 2)
    assert len(set(asked) - {seen.x for seen in history}) == 2
    tiny = Space(SPACE.names, SPACE.low, SPACE.high, step=0.5)
    steps = [(low, (low + high) / 2, high) for low, high in zip(SPACE.low, SPACE.high, strict=True)]
    everything = [measure(x) for x in itertools.product(*steps)]
    assert OptunaProposer(tiny, GOAL).ask(everything, 2) == []
    last = OptunaProposer(tiny, GOAL).ask(everything[:-1], 2)
    assert last == [everything[-1].x]


def test_the_journal_opens_as_a_study(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    path = tmp_path / "new" / "journal.log"
    history = [*(measure(x) for x in SPACE.sobol(5, 0)), failed((0.5, 0.5, 0.5), GOAL)]
    write_journal(SPACE, GOAL, history[:2], path)
    write_journal(SPACE, GOAL, history, path)  # replaces, never adds
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    study = optuna.load_study(study_name=STUDY, storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5 + ["FAIL"]
    assert study.metric_names == ["1 - acc", "dpd", "eod"]
    for trial, seen in zip(study.trials[:5], history, strict=False):
        assert tuple(trial.params.values()) == seen.x
        assert tuple(trial.values) == seen.objectives
        assert trial.constraints == {"violation": seen.violation}
    assert [item.name for item in path.parent.iterdir()] == ["journal.log"]
