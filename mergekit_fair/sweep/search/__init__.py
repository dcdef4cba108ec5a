"""Budgeted search over per-subgroup λ: pure proposers, which know no model, and the stage.

space        the box of λs
observation  what is aimed at (Goal), what was seen (Observation)
propose      the protocol; random points and lattices
tpe          Optuna's sampler
surrogate    modelled rates (rates, model), Thompson sampling
gradient     a smooth loss of margins (smooth), and projected steps
pareto       fronts and hypervolumes
stage        the search itself, on the engine; descent for gradients
"""

from __future__ import annotations

from mergekit_fair.sweep.search.gradient import Step, next_step
from mergekit_fair.sweep.search.observation import Goal, Limit, Observation, failed, observed
from mergekit_fair.sweep.search.pareto import front, hypervolume
from mergekit_fair.sweep.search.propose import GridProposer, Proposer, RandomProposer
from mergekit_fair.sweep.search.smooth import smooth_loss
from mergekit_fair.sweep.search.space import Space
from mergekit_fair.sweep.search.surrogate import SurrogateProposer
from mergekit_fair.sweep.search.tpe import OptunaProposer, require_optuna, write_journal

__all__ = [
    "Goal",
    "GridProposer",
    "Limit",
    "Observation",
    "OptunaProposer",
    "Proposer",
    "RandomProposer",
    "Space",
    "Step",
    "SurrogateProposer",
    "failed",
    "front",
    "hypervolume",
    "next_step",
    "observed",
    "require_optuna",
    "smooth_loss",
    "write_journal",
]
