"""Choosing a point by the sweep file's rule, from validation figures only."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_fair.errors import SweepError
from mergekit_fair.sweep.config import Constraint, Select

Line = dict[str, Any]

_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Choice:
    """The chosen point.

    Attributes:
        id: of the point; None if there is no candidate at all.
        feasible: it satisfies every constraint; if not, no candidate does and this one comes
            nearest.
        rule: the rule in words, with the limits' values.
        reason: one sentence: why this point, or why none.
        candidates: how many points took part, and how many of those satisfied the constraints.
    """

    id: str | None
    feasible: bool
    rule: str
    reason: str
    candidates: tuple[int, int]


def metric(evaluation: dict[str, Any], name: str) -> float | None:
    """The value of a metric such as `acc` or `level_matched.eod`; None where undefined."""
    block, _, key = name.rpartition(".")
    found = evaluation.get(block, {}) if block else evaluation["metrics"]
    value = found.get(key, {}).get("value")
    return None if value is None else float(value)


def choose(lines: Sequence[Line], baselines: dict[str, Line], rule: Select) -> Choice:
    """The candidate with the largest `maximize` among those that satisfy `subject_to`.

    Candidates are merges and injections that add something (λ ≠ 0), are not degenerate and
    have every metric of the rule defined. Equal values go to the smaller λ. If no candidate
    satisfies the constraints, the one with the smallest total violation is returned, marked.

    Args:
        lines: finished points on the validation split, in plan order.
        baselines: name → its line, for constraints such as `<= fft`.
        rule: from the sweep file.

    Raises:
        SweepError: a baseline's metric is undefined, or a line of another split is given.
    """
    if any(line["split"] != "validation" for line in lines):
        raise SweepError("a selection may read the validation split only")
    limits = [(c, _limit(c, baselines)) for c in rule.constraints()]
    text = _in_words(rule, limits)
    candidates = [line for line in lines if _is_candidate(line, rule, limits)]
    if not candidates:
        reason = "no point can be chosen: all are degenerate, failed, or have an undefined metric"
        return Choice(None, False, text, reason, (0, 0))
    violations = {line["id"]: _violation(line, limits) for line in candidates}
    fitting = [line for line in candidates if violations[line["id"]] == 0]
    if fitting:
        best = min(fitting, key=lambda line: (-_value(line, rule.maximize), _size(line)))
        reason = (
            f"{best['label']} has the highest {rule.maximize} on validation, "
            f"{_value(best, rule.maximize):.3f}, of {len(fitting)} points that satisfy the rule"
        )
    else:
        best = min(candidates, key=lambda line: (violations[line["id"]], _size(line)))
        reason = (
            f"no point satisfies the rule; {best['label']} misses it least, "
            f"by {violations[best['id']]:.3f} in all"
        )
    if best["evaluation"].get("saturated"):
        reason += "; it is saturated: read its gaps at the reference's selection rate"
    return Choice(best["id"], bool(fitting), text, reason, (len(candidates), len(fitting)))


def _is_candidate(line: Line, rule: Select, limits: list[tuple[Constraint, float]]) -> bool:
    if line["kind"] not in ("merge", "injection") or "evaluation" not in line:
        return False
    evaluation = line["evaluation"]
    needed = [rule.maximize, *(constraint.metric for constraint, _ in limits)]
    return (
        not line["adds_nothing"]
        and not evaluation["degenerate"]
        and all(metric(evaluation, name) is not None for name in needed)
    )


def _limit(constraint: Constraint, baselines: dict[str, Line]) -> float:
    if constraint.baseline is None:
        return constraint.number
    value = metric(baselines[constraint.baseline]["evaluation"], constraint.metric)
    if value is None:
        raise SweepError(
            f"{constraint.metric} of baseline {constraint.baseline} is undefined",
            where=f"select.subject_to.{constraint.metric}",
            fix="use a number as the limit",
        )
    return value + constraint.number


def _violation(line: Line, limits: list[tuple[Constraint, float]]) -> float:
    total = 0.0
    for constraint, limit in limits:
        value = _value(line, constraint.metric)
        if not _OPERATORS[constraint.operator](value, limit):
            # A strict inequality missed by equality still counts as missed.
            total += abs(value - limit) or 1e-12
    return total


def _value(line: Line, name: str) -> float:
    value = metric(line["evaluation"], name)
    if value is None:  # `_is_candidate` has left these out
        raise SweepError(f"{name} is undefined", where=line["label"])
    return value


def _size(line: Line) -> float:
    size = line["lambda_eff"] if line["lambda_eff"] is not None else line["lambda"]
    return abs(size) if size is not None else 0.0


def _in_words(rule: Select, limits: list[tuple[Constraint, float]]) -> str:
    parts = [
        f"{constraint} ({limit:.3f})" if constraint.baseline else str(constraint)
        for constraint, limit in limits
    ]
    subject = f", subject to {' and '.join(parts)}" if parts else ""
    return f"maximise {rule.maximize}{subject}, on validation rows; not degenerate"
