"""Choosing a point by the sweep file's rule, from figures of one split only."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mergekit_fair.errors import SweepError
from mergekit_fair.sweep.lines import Line, evaluations_of
from mergekit_fair.sweep.rule import SATURATED, Constraint, Select

# (the best, others) → the ids of those whose objective cannot be told from the best's.
Tied = Callable[[Line, Sequence[Line]], Collection[str]]

_CANDIDATES = ("merge", "search", "injection")
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
        best: label of the point with the highest value, where a tie went to another one.
        ties: labels of the points that could not be told from the best, the best included.
    """

    id: str | None
    feasible: bool
    rule: str
    reason: str
    candidates: tuple[int, int]
    best: str | None = None
    ties: tuple[str, ...] = ()


def metric(line: Line, name: str) -> float | None:
    """The value of a metric such as `acc`, `level_matched.eod` or `task/acc`; None if undefined.

    `saturated` is 1 or 0.
    """
    task, _, name = name.rpartition("/")
    evaluation = evaluations_of(line)[task] if task else line["evaluation"]
    if name == SATURATED:
        return None if SATURATED not in evaluation else float(evaluation[SATURATED])
    block, _, key = name.rpartition(".")
    found = evaluation.get(block, {}) if block else evaluation["metrics"]
    value = found.get(key, {}).get("value")
    return None if value is None else float(value)


def choose(
    lines: Sequence[Line],
    baselines: Mapping[str, Line],
    rule: Select,
    *,
    tied: Tied | None = None,
) -> Choice:
    """The candidate with the largest `maximize` among those that satisfy `subject_to`.

    Candidates are merges and injections that add something (λ ≠ 0), are not degenerate and
    have every metric of the rule defined. Of those that cannot be told from the best, the one
    with the smallest Σ|λ| is chosen. If no candidate satisfies the constraints, the one with the
    smallest total violation is returned, marked.

    Args:
        lines: finished points on the rule's split, in plan order.
        baselines: name → its line, for constraints such as `<= fft`.
        rule: from the sweep file.
        tied: says which points are within noise of the best; None: only equal values are.

    Raises:
        SweepError: a baseline's metric is undefined, or a line of another split is given.
    """
    if any(line["split"] != rule.split for line in lines):
        raise SweepError(f"a selection may read the {rule.split} split only")
    limits = [(c, limit_of(c, baselines)) for c in rule.constraints()]
    text = _in_words(rule, limits)
    candidates = [line for line in lines if _is_candidate(line, rule, limits)]
    if not candidates:
        reason = "no point can be chosen: all are degenerate, failed, or have an undefined metric"
        return Choice(None, False, text, reason, (0, 0))
    violations = {line["id"]: _violation(line, limits) for line in candidates}
    fitting = [line for line in candidates if violations[line["id"]] == 0]
    top, ties = None, tuple[str, ...]()
    if fitting:
        top = min(fitting, key=lambda line: (-_value(line, rule.maximize), _size(line)))
        best, ties = _smallest(top, fitting, rule.maximize, tied)
        reason = _reason(best, top, ties, rule, len(fitting))
    else:
        best = min(candidates, key=lambda line: (violations[line["id"]], _size(line)))
        reason = (
            f"no point satisfies the rule; {best['label']} misses it least, "
            f"by {violations[best['id']]:.3f} in all"
        )
    if best["evaluation"].get("saturated"):
        reason += "; it is saturated: read its gaps at the reference's selection rate"
    counts = (len(candidates), len(fitting))
    other = top["label"] if top is not None and top is not best else None
    return Choice(best["id"], bool(fitting), text, reason, counts, other, ties)


def _smallest(
    top: Line, fitting: Sequence[Line], maximize: str, tied: Tied | None
) -> tuple[Line, tuple[str, ...]]:
    """Of the points within noise of the top, the one with the smallest Σ|λ|; and all of them."""
    others = [line for line in fitting if line is not top]
    within = set(tied(top, others)) if tied is not None and others else set()
    alike = [line for line in fitting if line is top or line["id"] in within]
    best = min(alike, key=lambda line: (_size(line), -_value(line, maximize)))
    return best, tuple(line["label"] for line in alike) if len(alike) > 1 else ()


def _reason(best: Line, top: Line, ties: tuple[str, ...], rule: Select, fitting: int) -> str:
    value = f"{_value(best, rule.maximize):.3f}"
    if best is top:
        found = f"has the highest {rule.maximize} on {rule.split}, {value}, "
        others = f"{len(ties) - 1} other{'s' if len(ties) > 2 else ''} within noise of it"
        end = f"; {others}, none with a smaller λ" if ties else ""
        return f"{best['label']} {found}of {fitting} points that satisfy the rule{end}"
    return (
        f"{best['label']} ({rule.maximize} {value} on {rule.split}) is the smallest λ of "
        f"{len(ties)} points that cannot be told from the best, {top['label']} "
        f"({_value(top, rule.maximize):.3f}), of {fitting} that satisfy the rule"
    )


def _is_candidate(line: Line, rule: Select, limits: list[tuple[Constraint, float]]) -> bool:
    if line["kind"] not in _CANDIDATES or "evaluation" not in line:
        return False
    evaluation = line["evaluation"]
    needed = [rule.maximize, *(constraint.metric for constraint, _ in limits)]
    return (
        not line["adds_nothing"]
        and not evaluation["degenerate"]
        and all(metric(line, name) is not None for name in needed)
    )


def rank(line: Line, baselines: Mapping[str, Line], rule: Select) -> tuple[float, float]:
    """(total violation, −objective): the smaller, the better."""
    limits = [(c, limit_of(c, baselines)) for c in rule.constraints()]
    return _violation(line, limits), -_value(line, rule.maximize)


def limit_of(constraint: Constraint, baselines: Mapping[str, Line]) -> float:
    """A constraint's limit as a number.

    Raises:
        SweepError: the baseline's metric is undefined.
    """
    if constraint.baseline is None:
        return constraint.number
    value = metric(baselines[constraint.baseline], constraint.metric)
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
    value = metric(line, name)
    if value is None:  # `_is_candidate` has left these out
        raise SweepError(f"{name} is undefined", where=line["label"])
    return value


def _size(line: Line) -> float:
    for size in (line.get("size"), line["lambda_eff"], line["lambda"]):
        if size is not None:
            return abs(float(size))
    return 0.0


def _in_words(rule: Select, limits: list[tuple[Constraint, float]]) -> str:
    parts = [
        f"{constraint} ({limit:.3f})" if constraint.baseline else str(constraint)
        for constraint, limit in limits
    ]
    subject = f", subject to {' and '.join(parts)}" if parts else ""
    return f"maximise {rule.maximize}{subject}, on {rule.split} rows; not degenerate"
