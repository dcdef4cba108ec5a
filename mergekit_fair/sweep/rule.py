"""The rule that chooses a point: what is maximised, subject to what."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import field_validator

from mergekit_fair.errors import ConfigError
from mergekit_fair.schema import Strict, nearest

# What a selection may look at; `level_matched.*` is measured at the reference's selection rate.
# Of a further task, a metric is named `<task>/<metric>`.
METRICS = (
    *("acc", "bal_acc", "worst_group_acc", "selection_rate", "dpd", "eod"),
    *("level_matched.acc", "level_matched.dpd", "level_matched.eod"),
)
LOWER_IS_BETTER = ("dpd", "eod", "level_matched.dpd", "level_matched.eod")
SATURATED = "saturated"
_CONSTRAINT = re.compile(
    r"^\s*(<=|>=|<|>)\s*(?:(?P<number>-?[0-9.]+(?:e-?[0-9]+)?)|(?P<name>\w[\w-]*?)"
    r"(?:\s*(?P<offset>[+-]\s*[0-9.]+))?)\s*$"
)


@dataclass(frozen=True)
class Constraint:
    """`metric OP limit`, the limit being a number, or a baseline's value plus an offset."""

    metric: str
    operator: str
    baseline: str | None
    number: float

    def __str__(self) -> str:
        if self.metric == SATURATED:
            return "not saturated"
        if self.baseline is None:
            return f"{self.metric} {self.operator} {self.number:g}"
        offset = f" {'+' if self.number > 0 else '-'} {abs(self.number):g}" if self.number else ""
        return f"{self.metric} {self.operator} {self.baseline}{offset}"


class Select(Strict):
    """The rule; degenerate points never win.

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
        allowed = [name for name in METRICS if name not in LOWER_IS_BETTER]
        if value.rpartition("/")[2] not in allowed:
            raise ValueError(
                f"not a metric to maximise; got {value!r}; allowed: {', '.join(allowed)}"
            )
        return value

    @field_validator("subject_to")
    @classmethod
    def _constraints(cls, value: dict[str, str | float | bool]) -> dict[str, str | float | bool]:
        for metric, text in value.items():
            name = metric.rpartition("/")[2]
            if name == SATURATED:
                if text is not False:
                    raise ValueError(f"{metric}: got {text!r}; allowed: false")
                continue
            if name not in METRICS:
                known = [*METRICS, SATURATED]
                raise ValueError(
                    f"unknown metric {metric!r}{nearest(name, known)}; allowed: {', '.join(known)}"
                )
            if isinstance(text, bool) or _CONSTRAINT.match(str(text)) is None:
                raise ValueError(
                    f"{metric}: not a constraint; got {text!r}; allowed: such as '<= fft', "
                    "'<= fft + 0.01', '>= 0.8'"
                )
        return value

    def constraints(self) -> tuple[Constraint, ...]:
        return tuple(_constraint(metric, text) for metric, text in self.subject_to.items())

    def tasks(self) -> tuple[str, ...]:
        """The further tasks whose metrics the rule reads."""
        named = [self.maximize, *self.subject_to]
        return tuple(dict.fromkeys(n.rpartition("/")[0] for n in named if "/" in n))


def _constraint(metric: str, text: Any) -> Constraint:
    if metric.rpartition("/")[2] == SATURATED:
        return Constraint(metric, "<=", None, 0.0)
    match = _CONSTRAINT.match(str(text))
    if match is None:  # refused by the validator
        raise ConfigError("is not a constraint", where=f"select.subject_to.{metric}", got=text)
    offset = (match["offset"] or "0").replace(" ", "")
    return Constraint(metric, match[1], match["name"], float(match["number"] or offset))
