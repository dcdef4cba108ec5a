"""Proposals from Optuna's tree-structured Parzen estimator; Optuna is optional."""

from __future__ import annotations

import contextlib
import datetime
import math
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError
from mergekit_fair.sweep.search.level_model import LevelModel, likely, start
from mergekit_fair.sweep.search.proposers import (
    Coordinates,
    Observation,
    Space,
    distinct,
    draw_new,
    generator,
    seen,
)
from mergekit_fair.sweep.selection import Rule

STUDY = "mergekit-fair"

# Stands for an infinite violation, which JSON has no number for; far beyond any sum of shares.
_UNUSABLE = 1e6
# Questions per point before a repeated answer is replaced by a random point.
_TRIES = 5
# Trials carry a time; measured ones have no place for it here, and the file should not vary.
_WHEN = datetime.datetime(2000, 1, 1)


@dataclass(frozen=True)
class OptunaProposer:
    """Multi-objective TPE with constraints, as ask and tell.

    The study is rebuilt from the history at every question, with a sampler seeded by the seed and
    the history's length. The start is that of the surrogate, and answers that are likely to be far
    from the level are not measured.

    Attributes:
        space: where to look.
        rule: objectives, for their number and names.
        seed: of the start and the sampler.

    Source: Ozaki et al. 2022 (multi-objective TPE), Watanabe and Hutter 2023 (constraints).
    """

    space: Space
    rule: Rule
    seed: int = 0

    def ask(self, history: Sequence[Observation], count: int) -> list[Coordinates]:
        """See `Proposer`.

        Raises:
            ConfigError: Optuna is not installed.
        """
        optuna = require_optuna()
        asked = start(self.space, self.rule, self.seed, history, count)
        rng = generator(self.seed, history)
        with _quiet(optuna):
            sampler = optuna.samplers.TPESampler(
                seed=int(rng.integers(2**31)),
                multivariate=True,
                n_startup_trials=1,
            )
            study = _study(optuna, self.rule, sampler=sampler)
            study.add_trials(_trials(optuna, self.space, history))
            taken = seen(history) | set(asked)
            level = LevelModel.of(self.space, self.rule, history)
            while len(asked) < count:
                answers = (
                    study.ask(_distributions(optuna, self.space)).params for _ in range(_TRIES)
                )
                drawn = [self.space.snapped([a[n] for n in self.space.names]) for a in answers]
                found = likely(level, distinct(drawn, taken))[:1]
                if not found:
                    break
                asked += found
                taken.update(found)
        return asked + draw_new(self.space, count - len(asked), taken, rng)


def write_journal(
    space: Space, rule: Rule, history: Sequence[Observation], path: Path, *, soft: bool = False
) -> None:
    """Write the history as an Optuna journal file, replacing the one that is there.

    Args:
        space, rule, history: of the search.
        path: of the file.
        soft: the history's values are of soft rates, and the names of the axes say so.

    Raises:
        ConfigError: Optuna is not installed.
    """
    optuna = require_optuna()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / path.name
        with _quiet(optuna):
            backend = optuna.storages.journal.JournalFileBackend(str(fresh))
            storage = optuna.storages.JournalStorage(backend)
            study = _study(optuna, rule, study_name=STUDY, storage=storage)
            names = [_axis(name, rule) for name in rule.objectives]
            study.set_metric_names([f"soft {name}" if soft else name for name in names])
            study.add_trials(_trials(optuna, space, history))
        fresh.replace(path)


def require_optuna() -> Any:
    """Optuna, for who wants to know before anything is measured.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "method: optuna needs Optuna, which is not installed",
            where="search.method",
            fix="run pip install 'mergekit-fair[search]'",
        ) from error
    return optuna


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's log lines and its warnings that a feature is experimental."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _study(optuna: Any, rule: Rule, **settings: Any) -> Any:
    return optuna.create_study(directions=["minimize"] * len(rule.objectives), **settings)


def _distributions(optuna: Any, space: Space) -> dict[str, Any]:
    return {
        name: optuna.distributions.FloatDistribution(low, high)
        for name, low, high in zip(space.names, space.low, space.high, strict=True)
    }


def _trials(optuna: Any, space: Space, history: Sequence[Observation]) -> list[Any]:
    """One finished trial per observation; one without objectives is a failed trial."""
    distributions = _distributions(optuna, space)
    trials = []
    for observed in history:
        usable = all(math.isfinite(value) for value in observed.objectives)
        state = optuna.trial.TrialState.COMPLETE if usable else optuna.trial.TrialState.FAIL
        trial = optuna.trial.create_trial(
            state=state,
            values=list(observed.objectives) if usable else None,
            params=dict(zip(space.names, observed.x, strict=True)),
            distributions=distributions,
            constraints={"violation": min(observed.violation, _UNUSABLE)} if usable else None,
        )
        trial.datetime_start = trial.datetime_complete = _WHEN
        trials.append(trial)
    return trials


def _axis(name: str, rule: Rule) -> str:
    return name if rule.is_lower_better(name) else f"1 - {name}"
