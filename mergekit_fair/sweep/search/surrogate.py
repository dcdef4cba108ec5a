"""Proposals from modelled rates, by Thompson sampling of the hypervolume gained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mergekit_fair.sweep.limits import Array
from mergekit_fair.sweep.search.level_model import LevelModel, likely, start
from mergekit_fair.sweep.search.pareto import contribution, front
from mergekit_fair.sweep.search.proposers import (
    Coordinates,
    Observation,
    Space,
    best,
    distinct,
    draw_new,
    feasible_front,
    generator,
    seen,
)
from mergekit_fair.sweep.search.rate_model import GroupLayout, RateModel, check_composed
from mergekit_fair.sweep.selection import Rule

# Standard deviations of perturbations, as shares of a range: near, and very near.
_SPREADS = (0.1, 0.03)
# Points that perturbations start from where none is feasible.
_NEAREST = 5


@dataclass(frozen=True)
class SurrogateProposer:
    """Model the rates of every group, compose the metrics, ask where the front would grow most.

    The first points, G + 1 without a grid, lie near the target (`level_model.start`). Each later
    one draws the models' coefficients once from their posterior, predicts objectives and violations
    of random candidates, near the target and anywhere, and of perturbations of the best points;
    leaves out those that are likely to be far from the level; and takes the feasible candidate
    that adds most to the hypervolume below (1, …, 1) of the feasible front; where none adds
    anything, the one that misses the front by least; where none is feasible, the one with the least
    violation. Points asked earlier in the same batch count with their predicted objectives.

    Attributes:
        space: where to look.
        rule: objectives and limits; `between_groups` gaps only.
        seed: of the start and of every draw.
        groups: how they lie in the rows.
        candidates: number of random candidates per point, and about that of perturbations.

    Raises:
        ConfigError: a metric that rates do not compose, such as `level_matched.dpd`.

    Source: METHODS §5; MAP (arXiv 2406.07529) for the models; Bradford et al. 2018 for Thompson
    sampling with hypervolume.
    """

    space: Space
    rule: Rule
    seed: int = 0
    groups: GroupLayout = field(default_factory=GroupLayout)
    candidates: int = 1000

    def __post_init__(self) -> None:
        check_composed(self.rule)

    def ask(self, history: Sequence[Observation], count: int) -> list[Coordinates]:
        """See `Proposer`.

        Raises:
            SweepError: groups do not partition the rows and an observation has no overall rates.
        """
        asked = start(self.space, self.rule, self.seed, history, count)
        if len(asked) == count:
            return asked
        rng = generator(self.seed, history)
        model = RateModel.of(self.space, self.rule, self.groups, history)
        if model is None:
            return asked + draw_new(self.space, count - len(asked), seen(history) | set(asked), rng)
        level = LevelModel.of(self.space, self.rule, history)
        known = [np.asarray(found.objectives) for found in feasible_front(history)]
        while len(asked) < count:
            candidates = self._candidates(history, seen(history) | set(asked), rng)
            candidates = likely(level, candidates)
            if not candidates:
                break
            objectives, violation = model.draw(rng).predict(candidates)
            index = chosen(objectives, violation, known)
            asked.append(candidates[index])
            if violation[index] == 0:
                known.append(objectives[index])
        return asked

    def _candidates(
        self, history: Sequence[Observation], taken: set[Coordinates], rng: np.random.Generator
    ) -> list[Coordinates]:
        points = self.space.random(self.candidates, rng)
        points += self.space.near(rng.random((self.candidates, self.space.dimensions + 1)))
        centres = [found.x for found in best(history, _NEAREST)]
        if centres:
            width = np.asarray(self.space.high) - np.asarray(self.space.low)
            picked = np.asarray(centres)[rng.integers(len(centres), size=self.candidates)]
            spreads = rng.choice(_SPREADS, size=(self.candidates, 1))
            noise = rng.standard_normal(picked.shape) * spreads * width
            points += self.space.points(picked + noise)
        return distinct(points, taken)


def chosen(objectives: Array, violation: Array, known: Sequence[Array]) -> int:
    """Index of the best of n candidates; see `SurrogateProposer`.

    Args:
        objectives: (n, k), minimised, in [0, 1].
        violation: (n,), 0 where feasible.
        known: objectives (k,) of the feasible front.
    """
    feasible = np.flatnonzero(violation == 0)
    if not len(feasible):
        return int(np.argmin(violation))
    # A dominated candidate never adds more than the one that dominates it.
    kept = feasible[front(objectives[feasible])]
    if not known:
        measured = np.empty((0, objectives.shape[1]))
        missed = np.full(len(kept), -np.inf)
    else:
        measured = np.stack(known)
        behind = objectives[kept, np.newaxis, :] - measured
        missed = behind.min(axis=-1).max(axis=-1)
    outside = missed < 0
    if not outside.any():
        return int(kept[np.argmin(missed)])
    corner = np.ones(objectives.shape[1])
    gains = [
        contribution(objectives[index], measured, corner) if new else -1.0
        for index, new in zip(kept, outside, strict=True)
    ]
    return int(kept[np.argmax(gains)])
