"""Budgeted search over per-subgroup λ: pure proposers, which know no model, and the stage.

space        the box of λs
observation  what is aimed at (Goal), what was seen (Observation)
propose      the protocol; random points
tpe          Optuna's sampler
surrogate    modelled rates (rates, model), Thompson sampling
pareto       fronts and hypervolumes
stage        the search itself, on the engine
"""

from __future__ import annotations

from mergekit_fair.sweep.search.observation import Goal, Limit, Observation, failed, observed
from mergekit_fair.sweep.search.pareto import front, hypervolume
from mergekit_fair.sweep.search.propose import Proposer, RandomProposer
from mergekit_fair.sweep.search.space import Space
from mergekit_fair.sweep.search.surrogate import SurrogateProposer
from mergekit_fair.sweep.search.tpe import OptunaProposer, require_optuna, write_journal

__all__ = [
    "Goal",
    "Limit",
    "Observation",
    "OptunaProposer",
    "Proposer",
    "RandomProposer",
    "Space",
    "SurrogateProposer",
    "failed",
    "front",
    "hypervolume",
    "observed",
    "require_optuna",
    "write_journal",
]
