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
from mergekit_fair.sweep.limits import Array
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.search.pareto import front
from mergekit_fair.sweep.selection import Rule

Block = Mapping[str, float | None]
Coordinates = tuple[float, ...]

# Sobol points drawn before a small space counts as exhausted, as a power of 2.
_LARGEST_DRAW = 14


@dataclass(frozen=True)
class Space:
    """low_g ≤ λ_g ≤ high_g for G settings, on multiples of ``step`` and the two ends.

    Attributes:
        names: the G settings, such as ``weight.Female``.
        low, high: ends of each range, both included.
        step: resolution, so that λs are short decimals in recipes.

    Raises:
        ConfigError: no or repeated names, lengths that differ, an end that is not finite,
            low ≥ high, or a step that is not a positive number.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    step: float = 0.01

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
    def of(cls, ranges: Mapping[str, tuple[float, float]]) -> Space:
        """Of setting → (low, high)."""
        low, high = ([ends[at] for ends in ranges.values()] for at in (0, 1))
        return cls(tuple(ranges), tuple(low), tuple(high))

    @property
    def dimensions(self) -> int:
        """G, the number of settings."""
        return len(self.names)

    def snapped(self, point: ArrayLike) -> Coordinates:
        """The nearest point of the space, as short decimals: (G,) -> G floats."""
        return self.points(np.asarray(point, dtype=np.float64)[np.newaxis])[0]

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

    def random(self, count: int, rng: np.random.Generator) -> list[Coordinates]:
        """``count`` uniform points, repeats included."""
        return self.points(self.unscaled(rng.random((count, self.dimensions))))

    def sobol(self, count: int, seed: int) -> list[Coordinates]:
        """The first ``count`` distinct points of a scrambled Sobol sequence.

        A longer call begins with a shorter one's points. Fewer come back when the space has
        fewer. Source: Owen 1998, scipy.stats.qmc.Sobol.
        """
        from scipy.stats import qmc

        exponent = max(count, 2).bit_length()
        while True:
            rng = np.random.default_rng(seed)
            unit = qmc.Sobol(self.dimensions, scramble=True, seed=rng).random_base2(exponent)
            found = distinct(self.points(self.unscaled(unit)))
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
            the point failed.
        n: rows measured; 0 if it failed.
        objectives: (k,), minimised; NaN where undefined.
        violation: ≥ 0, total miss of the limits; 0 means feasible, infinity that the point failed,
            is degenerate, or has a metric undefined.
        overall: the same six numbers over all rows.
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
        rate, n = evaluation.labels.base_rate, evaluation.n
        positives = None if rate is None else round(rate * n)
        rates = {key: result.value(key) for key in ("selection_rate", "tpr", "fpr", "acc")}
        return cls(
            x=x,
            groups={name: group.to_dict() for name, group in evaluation.groups.items()},
            n=n,
            objectives=tuple(rule.to_minimise(values).tolist()),
            violation=math.inf if is_unusable else float(rule.violation(values)),
            overall={"n": n, "n_pos": positives, **rates},
        )

    @property
    def feasible(self) -> bool:
        """It satisfies every limit and is not degenerate."""
        return self.violation == 0


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
    """Uniform points."""

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


def start(space: Space, seed: int, history: Sequence[Observation], count: int) -> list[Coordinates]:
    """The next points of a quasi-random start of 2G + 2 points; none when it is over."""
    length = start_length(space)
    wanted = min(count, length - len(history))
    if wanted <= 0:
        return []
    taken = seen(history)
    return distinct(space.sobol(length + len(taken), seed), taken)[:wanted]


def start_length(space: Space) -> int:
    """2G + 2: enough for a model that is quadratic in each λ alone, and one to check it."""
    return 2 * space.dimensions + 2


def draw_new(
    space: Space, count: int, taken: set[Coordinates], rng: np.random.Generator
) -> list[Coordinates]:
    """``count`` distinct uniform points outside ``taken``; fewer if the space has hardly more."""
    found: list[Coordinates] = []
    for _ in range(_ROUNDS):
        found = distinct([*found, *space.random(count, rng)], taken)
        if len(found) >= count:
            break
    return found[:count]
