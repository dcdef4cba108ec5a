"""The rule: what is maximised, subject to what. It chooses points, compares them and aims searches.

A sweep file's `select` names metrics and baselines (`Select`); with the baselines' values put in
it is a `Rule`, which works on arrays over points, measured or predicted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.fairness.metrics import HEADLINE_GAPS, LOWER_IS_BETTER, MATCHED, METRICS
from mergekit_fair.schema import Strict, nearest
from mergekit_fair.sweep.record import SATURATED, PointResult
from mergekit_fair.sweep.results import Choice

Array = NDArray[np.float64]
Operator = Literal["<=", ">=", "<", ">"]
# (the best, others) → the ids of those whose objective cannot be told from the best's.
Tied = Callable[[PointResult, Sequence[PointResult]], Collection[str]]


# What a rule may read: of an evaluation, and of it at the reference's selection rate.
READABLE = tuple(name for name, metric in METRICS.items() if not metric.is_point)
LEVEL_MATCHED = tuple(f"level_matched.{name}" for name in MATCHED)

_CANDIDATES = ("merge", "search", "injection")
# Missing a strict limit by equality still counts as missing it.
_EQUAL = 1e-12
_CONSTRAINT = re.compile(
    r"^\s*(?P<operator><=|>=|<|>)\s*(?:(?P<number>-?[0-9.]+(?:e-?[0-9]+)?)|(?P<name>\w[\w-]*?)"
    r"(?:\s*(?P<offset>[+-]\s*[0-9.]+))?)\s*$"
)


def lower_is_better(metric: str) -> bool:
    """Of `dpd`, `level_matched.eod`, `TASK/dpd` and the like."""
    return metric.rpartition("/")[2].rpartition(".")[2] in LOWER_IS_BETTER


@dataclass(frozen=True)
class Limit:
    """`metric operator value`, such as dpd <= 0.1.

    Attributes:
        metric: as `PointResult.value` names it: `acc`, `level_matched.eod`, `TASK/acc`.
        value: a finite number.
        text: in the words of the sweep file.

    >>> Limit("dpd", "<=", 0.25).missed_by(np.array([0.125, 0.25, 0.75]))
    array([0. , 0. , 0.5])
    """

    metric: str
    operator: Operator
    value: float
    text: str = ""

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
class Constraint:
    """`metric operator limit`, the limit being a number, or a baseline's value plus an offset."""

    metric: str
    operator: Operator
    baseline: str | None
    number: float

    @classmethod
    def parse(cls, metric: str, text: object) -> Constraint:
        """Read `<= fft`, `<= fft + 0.01`, `>= 0.8`; of `saturated`, `false`.

        Raises:
            ValueError: it is not a constraint, or the metric is not known.
        """
        name = metric.rpartition("/")[2]
        if name == SATURATED:
            if text is not False:
                raise ValueError(f"{metric}: got {text!r}; allowed: false")
            return cls(metric, "<=", None, 0.0)
        if name not in (*READABLE, *LEVEL_MATCHED):
            known = [*READABLE, *LEVEL_MATCHED, SATURATED]
            raise ValueError(
                f"unknown metric {metric!r}{nearest(name, known)}; allowed: {', '.join(known)}"
            )
        match = None if isinstance(text, bool) else _CONSTRAINT.match(str(text))
        if match is None:
            raise ValueError(
                f"{metric}: not a constraint; got {text!r}; allowed: such as '<= fft', "
                "'<= fft + 0.01', '>= 0.8'"
            )
        offset = (match["offset"] or "0").replace(" ", "")
        operator: Operator = match["operator"]  # type: ignore[assignment]
        return cls(metric, operator, match["name"], float(match["number"] or offset))

    def resolved(self, baselines: Mapping[str, PointResult]) -> Limit:
        """With the baseline's value as the limit.

        Raises:
            SweepError: that value is undefined.
        """
        if self.baseline is None:
            return Limit(self.metric, self.operator, self.number, str(self))
        value = baselines[self.baseline].value(self.metric)
        if value is None:
            raise SweepError(
                f"{self.metric} of baseline {self.baseline} is undefined",
                where=f"select.subject_to.{self.metric}",
                fix="use a number as the limit",
            )
        limit = value + self.number
        return Limit(self.metric, self.operator, limit, f"{self} ({limit:.3f})")

    def __str__(self) -> str:
        if self.metric == SATURATED:
            return "not saturated"
        if self.baseline is None:
            return f"{self.metric} {self.operator} {self.number:g}"
        offset = f" {'+' if self.number > 0 else '-'} {abs(self.number):g}" if self.number else ""
        return f"{self.metric} {self.operator} {self.baseline}{offset}"


class Select(Strict):
    """The rule as a sweep file writes it; degenerate points never win.

    Attributes:
        maximize: a metric.
        subject_to: metric → constraint; `saturated: false` leaves saturated points out.
        split: whose rows are read. The report split is refused unless `force` says otherwise; then
            every output says that its figures are optimistic.
    """

    maximize: str = "acc"
    subject_to: dict[str, str | float | bool] = {}
    split: Literal["validation", "report"] = "validation"
    force: bool = False

    @field_validator("maximize")
    @classmethod
    def _metric(cls, value: str) -> str:
        allowed = [name for name in (*READABLE, *LEVEL_MATCHED) if not lower_is_better(name)]
        if value.rpartition("/")[2] not in allowed:
            raise ValueError(
                f"not a metric to maximise; got {value!r}; allowed: {', '.join(allowed)}"
            )
        return value

    @field_validator("subject_to")
    @classmethod
    def _constraints(cls, value: dict[str, str | float | bool]) -> dict[str, str | float | bool]:
        for metric, text in value.items():
            Constraint.parse(metric, text)
        return value

    def constraints(self) -> tuple[Constraint, ...]:
        return tuple(Constraint.parse(metric, text) for metric, text in self.subject_to.items())

    def tasks(self) -> tuple[str, ...]:
        """The further tasks whose metrics the rule reads."""
        named = [self.maximize, *self.subject_to]
        return tuple(dict.fromkeys(n.rpartition("/")[0] for n in named if "/" in n))


@dataclass(frozen=True)
class Rule:
    """A selection with numbers for limits; every method works on all points at once.

    Attributes:
        maximize: the metric that decides among points within the limits.
        limits: what must hold.
        gaps: what a search improves beside `maximize`.
        split: whose rows are read.

    >>> rule = Rule("acc", (Limit("dpd", "<=", 0.25),))
    >>> rule.violation({"acc": np.array([0.75, 0.875]), "dpd": np.array([0.5, 0.125])})
    array([0.25, 0.  ])
    """

    maximize: str = "acc"
    limits: tuple[Limit, ...] = ()
    gaps: tuple[str, ...] = tuple(HEADLINE_GAPS)
    split: str = "validation"

    @classmethod
    def of(cls, select: Select, baselines: Mapping[str, PointResult]) -> Rule:
        """A sweep file's rule, its limits resolved against measured baselines.

        Raises:
            SweepError: a baseline's metric is undefined.
        """
        limits = tuple(constraint.resolved(baselines) for constraint in select.constraints())
        return cls(select.maximize, limits, split=select.split)

    def for_search(self) -> Rule:
        """What proposers aim at: limits of the deciding task alone, gaps at equal levels where
        the rule reads them there. The choice itself looks at everything."""
        limits = tuple(x for x in self.limits if "/" not in x.metric and x.metric != SATURATED)
        gaps = tuple(x.metric for x in limits if lower_is_better(x.metric) and "." in x.metric)
        return replace(self, limits=limits, gaps=gaps or tuple(HEADLINE_GAPS))

    @property
    def objectives(self) -> tuple[str, ...]:
        """What a search improves, each once."""
        return tuple(dict.fromkeys([self.maximize, *self.gaps]))

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the choice looks at, each once."""
        return tuple(dict.fromkeys([self.maximize, *(limit.metric for limit in self.limits)]))

    def table(self, points: Sequence[PointResult]) -> dict[str, Array]:
        """Metric → values (P,) of measured points, NaN where undefined."""
        names = dict.fromkeys([*self.metrics, *self.objectives])
        return {name: np.array([_or_nan(p.value(name)) for p in points]) for name in names}

    def to_minimise(self, values: Mapping[str, Array]) -> Array:
        """Objectives of metrics (...): (..., k), each in [0, 1] and better when lower.

        Gaps are taken as they are; a metric that should be high becomes 1 − metric.
        """
        parts = [values[n] if lower_is_better(n) else 1 - values[n] for n in self.objectives]
        return np.stack(parts, axis=-1)

    def violation(self, values: Mapping[str, Array]) -> Array:
        """Sum over limits of how far metrics (...) are beyond them: (...), 0 if all hold."""
        total = np.zeros(np.shape(values[self.maximize]))
        for limit in self.limits:
            total = total + limit.missed_by(values[limit.metric])
        return total

    def candidates(self, points: Sequence[PointResult]) -> list[PointResult]:
        """Merges and injections that add something, are not degenerate and have every metric of
        the rule defined."""
        return [
            point
            for point in points
            if point.kind in _CANDIDATES
            and point.evaluation is not None
            and not point.is_identity
            and not point.evaluation.degenerate
            and all(point.value(name) is not None for name in self.metrics)
        ]

    def rank(self, point: PointResult) -> tuple[float, float]:
        """(total violation, −objective): the smaller, the better."""
        values = self.table([point])
        return float(self.violation(values)[0]), -float(values[self.maximize][0])

    def choose(self, points: Sequence[PointResult], *, tied: Tied | None = None) -> Choice:
        """The candidate with the largest `maximize` among those within the limits.

        Of those that cannot be told from the best, the one with the smallest Σ|λ| is chosen. If
        no candidate is within the limits, the one with the smallest total violation is returned,
        marked.

        Args:
            points: finished ones on the rule's split, in plan order.
            tied: says which points are within noise of the best; None: only equal values are.

        Raises:
            SweepError: a point of another split is given.
        """
        if any(point.split != self.split for point in points):
            raise SweepError(f"a selection may read the {self.split} split only")
        candidates = self.candidates(points)
        if not candidates:
            return Choice(
                label=None, id=None, feasible=False, rule=str(self), candidates=(0, 0), ties=(),
                reason="no point can be chosen: all are degenerate, failed, or have an undefined "
                "metric",
            )  # fmt: skip
        values = self.table(candidates)
        violation, objective = self.violation(values), values[self.maximize]
        size = np.array([_size(point) for point in candidates])
        feasible = np.flatnonzero(violation == 0)
        best = top = int(np.lexsort((size, violation))[0])
        alike: list[int] = []
        if len(feasible):
            top = int(feasible[np.lexsort((size[feasible], -objective[feasible]))[0]])
            others = [candidates[n] for n in feasible if n != top]
            within = set(tied(candidates[top], others)) if tied is not None and others else set()
            alike = [int(n) for n in feasible if n == top or candidates[n].id in within]
            best = alike[int(np.lexsort((-objective[alike], size[alike]))[0])]
        ties = tuple(candidates[n].label for n in alike) if len(alike) > 1 else ()
        reason = self._reason(
            candidates[best], candidates[top], ties, len(feasible), violation[best]
        )
        return Choice(
            label=candidates[best].label,
            id=candidates[best].id,
            feasible=bool(len(feasible)),
            rule=str(self),
            reason=reason,
            candidates=(len(candidates), len(feasible)),
            best=candidates[top].label if top != best else None,
            ties=ties,
        )

    def _reason(
        self,
        best: PointResult,
        top: PointResult,
        ties: tuple[str, ...],
        feasible: int,
        missed: float,
    ) -> str:
        value = f"{best.value(self.maximize):.3f}"
        if not feasible:
            text = (
                f"no point satisfies the rule; {best.label} misses it least, by {missed:.3f} in all"
            )
        elif best is top:
            others = f"{len(ties) - 1} other{'s' if len(ties) > 2 else ''} within noise of it"
            text = (
                f"{best.label} has the highest {self.maximize} on {self.split}, {value}, of "
                f"{feasible} points that satisfy the rule"
            )
            text += f"; {others}, none with a smaller λ" if ties else ""
        else:
            text = (
                f"{best.label} ({self.maximize} {value} on {self.split}) is the smallest λ of "
                f"{len(ties)} points that cannot be told from the best, {top.label} "
                f"({top.value(self.maximize):.3f}), of {feasible} that satisfy the rule"
            )
        if best.evaluation is not None and best.evaluation.saturated:
            text += "; it is saturated: read its gaps at the reference's selection rate"
        return text

    def __str__(self) -> str:
        parts = [limit.text for limit in self.limits]
        subject = f", subject to {' and '.join(parts)}" if parts else ""
        return f"maximise {self.maximize}{subject}, on {self.split} rows; not degenerate"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _size(point: PointResult) -> float:
    for size in (point.lambda_l1, point.lambda_eff, point.lambda_):
        if size is not None:
            return abs(size)
    return 0.0
