"""Which λs keep the overall selection rate near the level: a search asks for no others.

The rate of all rows is a polynomial in λ on the logit scale, as in `rate_model`; what is known of
it is a normal distribution, so that the chance of lying between two rates has a closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit, ndtr

from mergekit_fair.sweep.limits import Array
from mergekit_fair.sweep.search.proposers import (
    NEAR,
    Coordinates,
    Observation,
    Space,
    distinct,
)
from mergekit_fair.sweep.search.rate_model import Polynomial, fit, terms
from mergekit_fair.sweep.selection import Rule

RATE = "selection_rate"
# The chance below which a point is not asked for; while hardly anything is known, a smaller one.
LIKELY, _NOT_UNLIKELY = 0.5, 0.25
# Singular values below this tell nothing: points that lie a step apart.
_APART = 0.05
# Points of the sequence that a start chooses from.
_POOL = 256
# How much further than points at the level others may go.
_WIDER = 1.25


@dataclass(frozen=True, eq=False)
class LevelModel:
    """The overall selection rate, and the rates that it should lie between.

    Attributes:
        space: of the points.
        observations: number of points fitted.
        polynomial: of its logit.
        low, high: rates in [0, 1].
    """

    space: Space
    observations: int
    polynomial: Polynomial
    low: float
    high: float

    @classmethod
    def of(cls, space: Space, rule: Rule, history: Sequence[Observation]) -> LevelModel | None:
        """None where the rule limits no selection rate, or nothing is measured."""
        limits = [limit for limit in rule.limits if limit.metric == RATE]
        measured = [seen for seen in history if seen.overall.get(RATE) is not None]
        if not limits or not measured:
            return None
        rates = np.array([seen.overall[RATE] for seen in measured], dtype=np.float64)
        rows = np.array([seen.n for seen in measured], dtype=np.float64)
        design = terms(space.scaled([seen.x for seen in measured]), len(measured))
        return cls(
            space,
            len(measured),
            fit(design, space, rates, rows),
            max([limit.value for limit in limits if limit.operator[0] == ">"], default=0.0),
            min([limit.value for limit in limits if limit.operator[0] == "<"], default=1.0),
        )

    def chance(self, points: Sequence[Coordinates]) -> Array:
        """That each of n points has a rate between the two: (n,), in [0, 1]."""
        design = terms(self.space.scaled(points), self.observations)
        middle = design @ self.polynomial.mean
        spread = np.linalg.norm(np.linalg.solve(self.polynomial.root, design.T), axis=0)
        low, high = logit(np.clip([self.low, self.high], 0.0, 1.0))
        return np.asarray(ndtr((high - middle) / spread) - ndtr((low - middle) / spread))


def likely(
    level: LevelModel | None, points: list[Coordinates], chance: float = LIKELY
) -> list[Coordinates]:
    """Points that are near the level with at least this chance; the most likely one if none is."""
    if level is None or not points:
        return points
    chances = level.chance(points)
    kept = [point for point, each in zip(points, chances, strict=True) if each >= chance]
    return kept or [points[int(np.argmax(chances))]]


def at_level(rule: Rule, seen: Observation) -> bool:
    """Whether a point was measured, and has a selection rate that the rule allows."""
    rate = seen.overall.get(RATE)
    limits = [limit for limit in rule.limits if limit.metric == RATE]
    if not limits:
        return seen.n > 0
    return rate is not None and not any(limit.missed_by(np.array(rate)) > 0 for limit in limits)


def start_length(space: Space) -> int:
    """G + 1: enough for a model that is linear in every λ."""
    return space.dimensions + 1


def start(
    space: Space, rule: Rule, seed: int, history: Sequence[Observation], count: int
) -> list[Coordinates]:
    """The next points of a start near the target; none when it is over.

    It lasts until the points that were seen span the space, those of a grid included. Of a
    quasi-random sequence, whose reach is that of `Space.near` and of all points at the level, it
    leaves out what is likely to be far from the level.
    """
    taken = [found.x for found in history]
    if rank(space, taken) > space.dimensions:
        return []
    sizes = space.sizes([found.x for found in history if at_level(rule, found)])
    known = sizes[np.isfinite(sizes)]
    reach = min([NEAR[0], *known / _WIDER]), max([NEAR[1], *known * _WIDER])
    pool, level = space.sobol(_POOL, seed, reach), LevelModel.of(space, rule, history)
    asked: list[Coordinates] = []
    for point in likely(level, distinct(pool, taken), _NOT_UNLIKELY):
        now = rank(space, [*taken, *asked])
        if len(asked) == count or now > space.dimensions:
            break
        if rank(space, [*taken, *asked, point]) > now:
            asked.append(point)
    return asked


def rank(space: Space, points: Sequence[Coordinates]) -> int:
    """How many coefficients of a model that is linear in every λ these points tell: 0 to G + 1."""
    design = np.column_stack([np.ones(len(points)), space.scaled(points)])
    return int(np.linalg.matrix_rank(design, tol=_APART))
