"""`select` of a sweep file: one metric to make large or small, and limits in words.

With the baselines' values put in, a limit is a number (`Limit`), and the whole is a `Rule`
(`sweep.selection`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator, model_validator

from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.fairness.metrics import COMPARED, MATCHED, METRICS
from mergekit_fair.fairness.one_vs_rest import EVERY_METRIC, MULTI_METRICS
from mergekit_fair.schema import Strict, nearest
from mergekit_fair.sweep.record import SATURATED, PointResult

Array = NDArray[np.float64]
Operator = Literal["<=", ">=", "<", ">"]
# A limit in a sweep file, or several on one metric.
Words = str | float | bool | list[str]

# What a rule may read, also at the reference's selection rate: of a task that is answered by no or
# yes, and of one of classes or labels.
READABLE = tuple(METRICS)
LEVEL_MATCHED = tuple(f"level_matched.{name}" for name in MATCHED)
READABLE_OF_VIEWS = (*MULTI_METRICS, *(f"level_matched.{name}" for name in MULTI_METRICS))
_READABLE = tuple(dict.fromkeys((*READABLE, *LEVEL_MATCHED, *READABLE_OF_VIEWS)))
# Metrics of which the difference of two models has an interval.
HAS_INTERVAL = frozenset({*COMPARED, *MULTI_METRICS})

# Missing a strict limit by equality still counts as missing it.
_EQUAL = 1e-12
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
# A name may have hyphens, so that a minus needs a space before it: "fft - 0.01".
_CONSTRAINT = re.compile(
    rf"\s*(?P<operator><=|>=|<|>)\s*(?:(?P<number>{_NUMBER})|(?:(?P<factor>{_NUMBER})\s*\*\s*)?"
    rf"(?P<name>\w[\w.-]*)(?:(?P<sign>\s*\+|\s+-)\s*(?P<offset>{_NUMBER}))?)\s*"
)
_FORMS = "'<= fft', '<= 0.9 * fft', '>= fft - 0.01', '<= 0.9 * fft + 0.01', '>= 0.8'"


def lower_is_better(metric: str) -> bool:
    """Of `dpd`, `level_matched.eod`, `macro_eod`, `TASK/dpd` and the like."""
    known = EVERY_METRIC.get(metric.rpartition("/")[2].rpartition(".")[2])
    return known is not None and known.better == "lower"


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

    @property
    def is_of_saturation(self) -> bool:
        """Whether it leaves out saturated points, and is no limit on a number."""
        return self.metric.rpartition("/")[2] == SATURATED

    def missed_by(self, values: Array) -> Array:
        """How far values (...) lie beyond the limit, 0 where it holds; NaN stays NaN."""
        excess = values - self.value if self.operator[0] == "<" else self.value - values
        missed = np.maximum(excess, 0.0)
        return np.where(excess == 0, _EQUAL, missed) if len(self.operator) == 1 else missed


@dataclass(frozen=True)
class Constraint:
    """`metric operator limit`: a number, or factor · a baseline's value + number."""

    metric: str
    operator: Operator
    baseline: str | None
    number: float
    factor: float = 1.0

    @classmethod
    def parse(cls, metric: str, text: object) -> Constraint:
        """Read `<= fft`, `<= 0.9 * fft`, `>= fft - 0.01`, `>= 0.8`.

        Raises:
            ValueError: it is not a constraint, no value of a metric satisfies it, or the metric is
                not known.
        """
        name = metric.rpartition("/")[2]
        if name not in _READABLE:
            known = [*_READABLE, SATURATED]
            raise ValueError(
                f"unknown metric {metric!r}{nearest(name, known)}; allowed: {', '.join(known)}"
            )
        match = _CONSTRAINT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"{metric}: not a constraint; got {text!r}; allowed: such as {_FORMS}")
        sign = -1.0 if (match["sign"] or "").strip() == "-" else 1.0
        number = float(match["number"] or match["offset"] or 0)
        operator: Operator = match["operator"]  # type: ignore[assignment]
        found = cls(metric, operator, match["name"], sign * number, float(match["factor"] or 1))
        if found.baseline is None and not 0 <= number <= 1:
            raise ValueError(
                f"{metric}: metrics are shares; got {text!r}; allowed: a number from 0 to 1"
            )
        return found

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
        limit = self.factor * value + self.number
        return Limit(self.metric, self.operator, limit, f"{self} ({limit:.3f})")

    def __str__(self) -> str:
        if self.baseline is None:
            return f"{self.metric} {self.operator} {self.number:g}"
        factor = f"{self.factor:g} * " if self.factor != 1 else ""
        offset = f" {'+' if self.number > 0 else '-'} {abs(self.number):g}" if self.number else ""
        return f"{self.metric} {self.operator} {factor}{self.baseline}{offset}"


class Select(Strict):
    """The rule as a sweep file writes it; degenerate points never win.

    Attributes:
        maximize, minimize: a metric; one of the two, `maximize: acc` unless said otherwise.
        subject_to: metric → constraint, or a list of them. `saturated: true` lets saturated points
            win, and `TASK/saturated: true` those that are saturated on a further task.
        split: whose rows are read. The report split is refused unless `force` says otherwise; then
            every output says that its figures are optimistic.
    """

    maximize: str | None = None
    minimize: str | None = None
    subject_to: dict[str, Words] = {}
    split: Literal["validation", "report"] = "validation"
    force: bool = False

    @field_validator("maximize", "minimize")
    @classmethod
    def _metric(cls, value: str | None) -> str | None:
        name = "" if value is None else value.rpartition("/")[2]
        if value is not None and name not in _READABLE:
            near = nearest(name, list(_READABLE))
            raise ValueError(f"not a metric; got {value!r}{near}; allowed: {', '.join(_READABLE)}")
        return value

    @field_validator("subject_to")
    @classmethod
    def _constraints(cls, value: dict[str, Words]) -> dict[str, Words]:
        for metric, words in value.items():
            _require_possible(metric, _constraints_of(metric, words))
        return value

    @model_validator(mode="after")
    def _one_objective(self) -> Self:
        if self.maximize is not None and self.minimize is not None:
            raise ValueError(
                f"got maximize: {self.maximize} and minimize: {self.minimize}; allowed: one of "
                "them; the other metric can be a limit in subject_to"
            )
        better = EVERY_METRIC[self.objective.rpartition("/")[2].rpartition(".")[2]].better
        asked, other = ("minimize", "maximize") if self.minimize else ("maximize", "minimize")
        if better == ("higher" if self.minimize else "lower"):
            raise ValueError(
                f"{self.objective} is better when {better}; got {asked}: {self.objective}; "
                f"allowed: {other}: {self.objective}"
            )
        return self

    @property
    def objective(self) -> str:
        """The metric that decides among points within the limits."""
        return self.minimize or self.maximize or "acc"

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the rule reads, saturation aside; each once."""
        limited = (name for name in self.subject_to if name.rpartition("/")[2] != SATURATED)
        return tuple(dict.fromkeys([self.objective, *limited]))

    def words(self) -> dict[str, Any]:
        """The block as a sweep file could have it: what is said, and the metric."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        return {"minimize" if self.minimize else "maximize": self.objective, **said}

    def constraints(self) -> tuple[Constraint, ...]:
        return tuple(
            constraint
            for metric, words in self.subject_to.items()
            for constraint in _constraints_of(metric, words)
        )

    def unsaturated(self) -> tuple[str, ...]:
        """`saturated`, `TASK/saturated`: the marks that a point must not have.

        Of the deciding task, and of all others that the rule reads.
        """
        names = [SATURATED, *(f"{task}/{SATURATED}" for task in self.tasks())]
        allowed = self.subject_to.get(SATURATED, False)
        return tuple(name for name in names if not self.subject_to.get(name, allowed))

    def tasks(self) -> tuple[str, ...]:
        """The further tasks whose metrics the rule reads."""
        named = [self.objective, *self.subject_to]
        return tuple(dict.fromkeys(n.rpartition("/")[0] for n in named if "/" in n))


def _constraints_of(metric: str, words: Words) -> Iterator[Constraint]:
    """Of one key of `subject_to`.

    Raises:
        ValueError: as `Constraint.parse`.
    """
    if metric.rpartition("/")[2] == SATURATED:
        if not isinstance(words, bool):
            raise ValueError(f"{metric}: got {words!r}; allowed: false, true")
        return
    listed = words if isinstance(words, list) else [words]
    if not listed:
        raise ValueError(f"{metric}: got an empty list; allowed: such as {_FORMS}")
    for text in listed:
        yield Constraint.parse(metric, text)


def _require_possible(metric: str, constraints: Iterator[Constraint]) -> None:
    """Check that some number satisfies all of a metric's limits that are numbers."""
    numbers = [each for each in constraints if each.baseline is None]
    for low in numbers:
        for high in numbers:
            is_apart = low.number > high.number or (
                low.number == high.number and len(low.operator + high.operator) < 4
            )
            if low.operator[0] == ">" and high.operator[0] == "<" and is_apart:
                raise ValueError(f"{metric}: no number is both {low!s} and {high!s}")
