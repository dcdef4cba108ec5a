"""Who says which λs to measure next: the box of λs, what was seen in it, and proposers.

A proposer keeps no state: what it asks depends on its settings (space, rule, seed) and on the
history, in order, alone. A search that is killed and resumed therefore asks the same points.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.evaluate import Evaluation, FairEvaluation
from mergekit_fair.sweep.limits import Array
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.search.pareto import front
from mergekit_fair.sweep.selection import Rule

Block = Mapping[str, float | None]
Coordinates = tuple[float, ...]

# Σ_g |λ_g| of points near the target: from the least to the most.
NEAR = (0.5, 1.25)
# Sobol points drawn before a small space counts as exhausted, as a power of 2.
_LARGEST_DRAW = 14


@dataclass(frozen=True)
class Space:
    """low_g ≤ λ_g ≤ high_g for G settings, on multiples of ``step`` and the two ends.

    Attributes:
        names: the G settings, such as ``weight.Female``.
        low, high: ends of each range, both included.
        step: resolution, so that λs are short decimals in recipes.
        size: how much a unit of each setting adds, Σ_g |λ_g|; None where that is no such sum.

    Raises:
        ConfigError: no or repeated names, lengths that differ, an end that is not finite,
            low ≥ high, or a step that is not a positive number.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    step: float = 0.01
    size: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ConfigError("a search needs settings, each named once", got=self.names)
        if not len(self.names) == len(self.low) == len(self.high):
            raise ConfigError(
                f"{len(self.names)} settings need as many ranges", got=(self.low, self.high)
            )
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(
                    "is not a range", where=name, got=(low, high), allowed="finite low < high"
                )
        if not (math.isfinite(self.step) and self.step > 0):
            raise ConfigError("must be above 0", where="step", got=self.step)

    @classmethod
    def of(
        cls, ranges: Mapping[str, tuple[float, float]], size: tuple[float, ...] | None = None
    ) -> Space:
        """Of setting → (low, high)."""
        low, high = ([ends[at] for ends in ranges.values()] for at in (0, 1))
        return cls(tuple(ranges), tuple(low), tuple(high), size=size)

    @property
    def dimensions(self) -> int:
        """G, the number of settings."""
        return len(self.names)

    def snapped(self, point: ArrayLike) -> Coordinates:
        """The nearest point of the space, as short decimals: (G,) -> G floats."""
        return self.points(np.asarray(point, dtype=np.float64)[np.newaxis])[0]

    def exact(self, point: ArrayLike) -> Coordinates:
        """A point that need not be one of the space: (G,) -> G floats, without rounding errors."""
        rounded: list[float] = (np.round(np.asarray(point, dtype=np.float64), 10) + 0.0).tolist()
        return tuple(rounded)

    def points(self, array: ArrayLike) -> list[Coordinates]:
        """Every row's nearest point: (n, G) -> n points, in order, repeats included."""
        steps = np.rint(np.asarray(array, dtype=np.float64) / self.step)
        # Adding 0 turns −0.0 into 0.0, which recipes would show.
        inside = np.clip(np.round(steps * self.step, 10), self.low, self.high) + 0.0
        return [tuple(row) for row in inside.tolist()]

    def scaled(self, points: ArrayLike) -> Array:
        """Points (n, G) in units of the ranges, [−1, 1]."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return 2 * (np.asarray(points, dtype=np.float64).reshape(-1, len(low)) - low) / (
            high - low
        ) - np.asarray(1.0)

    def unscaled(self, unit: ArrayLike) -> Array:
        """(n, G) in [0, 1] -> λ."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return np.asarray(low + np.asarray(unit, dtype=np.float64) * (high - low))

    def near(self, unit: ArrayLike, reach: tuple[float, float] = NEAR) -> list[Coordinates]:
        """Points whose vectors add up to about one: (n, G + 1) in [0, 1] -> n points.

        The first G coordinates are a point of the box. It is drawn towards 0, or the box's end
        that is nearest to it, until Σ_g |λ_g| is what the last coordinate says, evenly between
        the two ends of the reach; it is never pushed outwards. Each vector leads to a whole model
        of the task, and so does their mean, where Σ_g λ_g = 1; a sum of several leads as many
        times further. Where sizes are not known, it is a point of the box.
        """
        unit = np.asarray(unit, dtype=np.float64)
        box = self.unscaled(unit[:, :-1])
        if self.size is None:
            return self.points(box)
        origin = np.clip(0.0, self.low, self.high)
        start, far = self.sizes(origin), self.sizes(box)
        wanted = reach[0] + (reach[1] - reach[0]) * unit[:, -1]
        is_far = far > np.maximum(wanted, start)
        share = np.divide(wanted - start, far - start, out=np.ones(len(far)), where=is_far)
        return self.points(origin + np.clip(share, 0.0, 1.0)[:, np.newaxis] * (box - origin))

    def sizes(self, points: ArrayLike) -> Array:
        """Σ_g |λ_g| of points (n, G): (n,); NaN where it is not known."""
        points = np.asarray(points, dtype=np.float64).reshape(-1, self.dimensions)
        if self.size is None:
            return np.full(len(points), np.nan)
        return np.asarray(np.abs(points) @ np.asarray(self.size))

    def random(self, count: int, rng: np.random.Generator) -> list[Coordinates]:
        """``count`` uniform points of the box, repeats included."""
        return self.points(self.unscaled(rng.random((count, self.dimensions))))

    def sobol(self, count: int, seed: int, reach: tuple[float, float] = NEAR) -> list[Coordinates]:
        """The first ``count`` distinct points of a scrambled Sobol sequence, drawn `near`.

        A longer call begins with a shorter one's points. Fewer come back when there are fewer.
        Source: Owen 1998, scipy.stats.qmc.Sobol.
        """
        from scipy.stats import qmc

        exponent = max(count, 2).bit_length()
        while True:
            rng = np.random.default_rng(seed)
            unit = qmc.Sobol(self.dimensions + 1, scramble=True, seed=rng).random_base2(exponent)
            found = distinct(self.near(unit, reach))
            if len(found) >= count or exponent >= _LARGEST_DRAW:
                return found[:count]
            exponent += 2


def distinct(points: Iterable[Coordinates], but: Collection[Coordinates] = ()) -> list[Coordinates]:
    """Points in order, each once, without those in ``but``."""
    left_out = set(but)
    return [point for point in dict.fromkeys(points) if point not in left_out]


@dataclass(frozen=True)
class Observation:
    """One measured point.

    Attributes:
        x: its λs, in the order of the space's names.
        groups: group → n, n_pos, selection_rate, tpr, fpr, acc; None where undefined. Empty if
            the point failed, and of classes or labels.
        n: rows measured; 0 if it failed.
        objectives: (k,), minimised; NaN where undefined.
        violation: ≥ 0, total miss of the limits; 0 means feasible, infinity that the point failed,
            is degenerate, or has a metric undefined.
        overall: the same six numbers over all rows; likewise empty.
    """

    x: Coordinates
    groups: Mapping[str, Block]
    n: int
    objectives: tuple[float, ...]
    violation: float
    overall: Block = field(default_factory=dict)

    @classmethod
    def of(cls, x: Coordinates, result: PointResult, rule: Rule) -> Observation:
        """A point as it was measured on validation rows, or failed to be."""
        evaluation = result.evaluation
        if evaluation is None:
            return cls(x, {}, 0, (math.nan,) * len(rule.objectives), math.inf)
        values = {name: found[0] for name, found in rule.table([result]).items()}
        is_unusable = evaluation.degenerate or any(math.isnan(v) for v in values.values())
        groups, overall = _blocks(result, evaluation)
        return cls(
            x=x,
            groups=groups,
            n=evaluation.n,
            objectives=tuple(rule.to_minimise(values).tolist()),
            violation=math.inf if is_unusable else float(rule.violation(values)),
            overall=overall,
        )

    @property
    def feasible(self) -> bool:
        """It satisfies every limit and is not degenerate."""
        return self.violation == 0


def _blocks(result: PointResult, evaluation: FairEvaluation) -> tuple[dict[str, Block], Block]:
    """Of every group, and of all rows."""
    if not isinstance(evaluation, Evaluation):
        return {}, {}
    rate, n = evaluation.labels.base_rate, evaluation.n
    positives = None if rate is None else round(rate * n)
    rates = {key: result.value(key) for key in ("selection_rate", "tpr", "fpr", "acc")}
    groups: dict[str, Block] = {name: group.to_dict() for name, group in evaluation.groups.items()}
    return groups, {"n": n, "n_pos": positives, **rates}


def feasible_front(history: Sequence[Observation]) -> list[Observation]:
    """The non-dominated ones of the feasible observations, in order."""
    usable = [seen for seen in history if seen.feasible]
    if not usable:
        return []
    mask = front(np.array([seen.objectives for seen in usable]))
    return [seen for seen, kept in zip(usable, mask, strict=True) if kept]


def best(history: Sequence[Observation], count: int) -> list[Observation]:
    """Where to look closer: the feasible front, or the ``count`` smallest finite violations."""
    feasible = feasible_front(history)
    if feasible:
        return feasible
    near = [seen for seen in history if math.isfinite(seen.violation)]
    return sorted(near, key=lambda seen: seen.violation)[:count]


# Rounds of drawing before a small space counts as exhausted.
_ROUNDS = 50


class Proposer(Protocol):
    """Asks for points to measure."""

    def ask(self, history: Sequence[Observation], count: int) -> list[Coordinates]:
        """Up to ``count`` distinct points that are not in the history.

        Fewer, or none, come back when there are no more.
        """
        ...


@dataclass(frozen=True)
class RandomProposer:
    """Points near the target, in uniform directions; see `Space.near`."""

    space: Space
    seed: int = 0

    def ask(self, history: Sequence[Observation], count: int) -> list[Coordinates]:
        """See `Proposer`."""
        return draw_new(self.space, count, seen(history), generator(self.seed, history))


def generator(seed: int, history: Sequence[Observation]) -> np.random.Generator:
    """The random numbers of the next question; they depend on nothing that is remembered."""
    return np.random.default_rng([seed, len(history)])


def seen(history: Sequence[Observation]) -> set[Coordinates]:
    """The points that have been measured, failed ones included."""
    return {observation.x for observation in history}


def draw_new(
    space: Space, count: int, taken: set[Coordinates], rng: np.random.Generator
) -> list[Coordinates]:
    """``count`` distinct points outside ``taken``: near the target, and where that is used up
    anywhere; fewer if the space has hardly more."""
    found: list[Coordinates] = []
    for turn in range(2 * _ROUNDS):
        is_near = turn < _ROUNDS
        drawn = space.near(rng.random((count, space.dimensions + 1))) if is_near else []
        found = distinct([*found, *(drawn or space.random(count, rng))], taken)
        if len(found) >= count:
            break
    return found[:count]
