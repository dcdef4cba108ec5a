"""Optuna's sampler as a proposer without state, and its journal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from search_landscape import RULE, SPACE, failed, measure, search

from mergekit_fair.errors import ConfigError
from mergekit_fair.sweep.search.tpe import STUDY, OptunaProposer, write_journal


def test_a_missing_optuna_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"Run pip install 'mergekit-fair\[search\]'"):
        OptunaProposer(SPACE, RULE).ask([], 1)


def test_it_learns_from_objectives_and_violations() -> None:
    pytest.importorskip("optuna")
    # The limit on accuracy holds for a third of the space.
    found = search(OptunaProposer(SPACE, RULE), 40, size=4)[20:]
    chance = [measure(x) for x in SPACE.sobol(200, 0)]
    assert sum(seen.feasible for seen in found) / 20 > sum(seen.feasible for seen in chance) / 200


def test_the_journal_opens_as_a_study(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    path = tmp_path / "new" / "journal.log"
    history = [*(measure(x) for x in SPACE.sobol(5, 0)), failed((0.5, 0.5, 0.5))]
    write_journal(SPACE, RULE, history[:2], path)
    write_journal(SPACE, RULE, history, path)  # replaces, never adds
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    study = optuna.load_study(study_name=STUDY, storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5 + ["FAIL"]
    assert study.metric_names == ["1 - acc", "dpd", "eod"]
    for trial, seen in zip(study.trials[:5], history, strict=False):
        assert tuple(trial.params.values()) == seen.x
        assert tuple(trial.values) == seen.objectives
        assert trial.constraints == {"violation": seen.violation}
    assert [item.name for item in path.parent.iterdir()] == ["journal.log"]
