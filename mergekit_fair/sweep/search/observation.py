"""What a search aims at, and what it has seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from mergekit_fair.errors import ConfigError
from mergekit_fair.sweep.search.pareto import front
from mergekit_fair.sweep.search.space import Array, Coordinates

Operator = Literal["<=", ">=", "<", ">"]
Block = Mapping[str, float | None]

# The rest of an evaluation's metrics is better when higher.
LOWER_IS_BETTER = ("dpd", "eod", "equal_opportunity")
# Missing a strict limit by equality still counts as missing it.
_EQUAL = 1e-12


@dataclass(frozen=True)
class Limit:
    """``metric operator value``, such as dpd <= 0.1."""

    metric: str
    operator: Operator
    value: float

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            raise ConfigError(
                "unknown operator", where=self.metric, got=self.operator, allowed=get_args(Operator)
            )
        if not math.isfinite(self.value):
            raise ConfigError("a limit must be a finite number", where=self.metric, got=self.value)

    def missed_by(self, values: Array) -> Array:
        """How far values (...) lie beyond the limit, 0 where it holds; NaN stays NaN."""
        excess = values - self.value if self.operator[0] == "<" else self.value - values
        missed = np.maximum(excess, 0.0)
        return np.where(excess == 0, _EQUAL, missed) if len(self.operator) == 1 else missed


@dataclass(frozen=True)
class Goal:
    """What is improved and what must hold, all on validation rows.

    Attributes:
        objectives: names of metrics in an evaluation, such as ``acc`` or ``level_matched.dpd``.
            Gaps are minimised as they are; a metric that should be high becomes 1 − metric, so
            that all objectives are minimised and lie in [0, 1].
        limits: constraints.
        deciding: groups that may decide a gap or worst-group accuracy; None: all.
        partition: every row is in exactly one group.
    """

    objectives: tuple[str, ...] = ("acc", "dpd", "eod")
    limits: tuple[Limit, ...] = ()
    deciding: tuple[str, ...] | None = None
    partition: bool = False

    def __post_init__(self) -> None:
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise ConfigError(
                "a search needs objectives, each once", where="objectives", got=self.objectives
            )

    def to_minimise(self, values: Mapping[str, Array]) -> Array:
        """Objectives of metrics (...): (..., k)."""
        return np.stack(
            [
                values[name] if name.rpartition(".")[2] in LOWER_IS_BETTER else 1 - values[name]
                for name in self.objectives
            ],
            axis=-1,
        )

    def violation(self, values: Mapping[str, Array], like: Array) -> Array:
        """Sum over limits of how far metrics are beyond them, with the shape of ``like``."""
        total = np.zeros(np.shape(like))
        for limit in self.limits:
            total = total + limit.missed_by(values[limit.metric])
        return total

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that is looked at, once."""
        return tuple(dict.fromkeys([*self.objectives, *(limit.metric for limit in self.limits)]))


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

    @property
    def feasible(self) -> bool:
        """It satisfies every limit and is not degenerate."""
        return self.violation == 0


def observed(x: Coordinates, evaluation: Mapping[str, Any], goal: Goal) -> Observation:
    """A point with its evaluation on validation rows, as ``Measurement.to_dict`` gives it."""
    found = {name: _value(evaluation, name) for name in goal.metrics}
    values = {name: np.asarray(math.nan if v is None else v) for name, v in found.items()}
    objectives = goal.to_minimise(values)
    violation = float(goal.violation(values, np.asarray(0.0)))
    unusable = evaluation["degenerate"] or any(value is None for value in found.values())
    n, base_rate = evaluation["n"], evaluation["labels"]["base_rate"]
    overall: dict[str, float | None] = {
        name: _value(evaluation, name) for name in ("selection_rate", "tpr", "fpr", "acc")
    }
    return Observation(
        x=x,
        groups=evaluation["groups"],
        n=n,
        objectives=tuple(objectives.tolist()),
        violation=math.inf if unusable else violation,
        overall={"n": n, "n_pos": None if base_rate is None else round(base_rate * n), **overall},
    )


def failed(x: Coordinates, goal: Goal) -> Observation:
    """A point that could not be measured."""
    return Observation(x, {}, 0, (math.nan,) * len(goal.objectives), math.inf)


def feasible_front(history: Sequence[Observation]) -> list[Observation]:
    """The non-dominated ones of the feasible observations, in order."""
    usable = [seen for seen in history if seen.feasible]
    if not usable:
        return []
    mask = front(np.array([seen.objectives for seen in usable]))
    return [seen for seen, kept in zip(usable, mask, strict=True) if kept]


def best(history: Sequence[Observation], count: int) -> list[Observation]:
    """Where to look closer: the feasible front, or the ``count`` smallest finite violations."""
    found = feasible_front(history)
    if found:
        return found
    near = [seen for seen in history if math.isfinite(seen.violation)]
    return sorted(near, key=lambda seen: seen.violation)[:count]


def _value(evaluation: Mapping[str, Any], name: str) -> float | None:
    """`acc`, or `level_matched.eod`; None where undefined."""
    block, _, key = name.rpartition(".")
    found = evaluation.get(block, {}) if block else evaluation["metrics"]
    value = found.get(key, {}).get("value")
    return None if value is None else float(value)
