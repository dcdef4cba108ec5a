"""The rule with numbers for limits: it chooses a point or keeps the baseline, and aims searches.

`sweep.limits` reads it from a sweep file. It works on arrays over points, measured or predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.levels import AnyLevel, MultiLevel
from mergekit_fair.fairness.metrics import HEADLINE_GAPS
from mergekit_fair.sweep.limits import HAS_INTERVAL, Array, Limit, Select, lower_is_better
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import BudgetRecord, Choice

# (the best, others) → the ids of those whose objective cannot be told from the best's.
Tied = Callable[[PointResult, Sequence[PointResult]], Collection[str]]


@dataclass(frozen=True)
class Nearness:
    """How far points lie from the reference baseline.

    Attributes:
        distances: point id → its distance, ≥ 0; empty where nothing tells one.
        words: what the nearest one is, to be followed by `of 3 points`.
    """

    distances: Mapping[str, float]
    words: str

    @classmethod
    def by_size(cls, points: Sequence[PointResult], why: str = "") -> Nearness:
        """By Σ|λ| of what is added, where the distance itself is not known."""
        sizes = {point.id: _size(point) for point in points}
        known = {point: size for point, size in sizes.items() if size is not None}
        because = f" ({why})" if why else ""
        if len(known) < len(points):
            return cls({}, f"comes first by its own figures{because}")
        return cls(known, f"has the smallest Σ|λ|{because}")


# What a search makes smaller where the rule names no gap of classes or labels.
_MEAN_GAPS = ("macro_dpd", "macro_eod")

# Points that are tied → how far each is from the reference.
Measure = Callable[[Sequence[PointResult]], Nearness]

_CANDIDATES = ("merge", "search", "injection", "candidate", "head")


def reference_of(baselines: Collection[str]) -> str | None:
    """The baseline that levels are matched to and that merges must not be worse than."""
    return "fft" if "fft" in baselines else next(iter(baselines), None)


@dataclass(frozen=True)
class Rule:
    """A selection with numbers for limits; every method works on all points at once.

    Attributes:
        objective: the metric that decides among points within the limits.
        limits: what must hold.
        gaps: what a search improves beside the objective.
        split: whose rows are read.
        is_minimised: the smallest value of the objective is the best.
        reference: the baseline that is kept unless a merge is at least as good; None without one.
        select: the rule in the words of the sweep file.

    >>> rule = Rule("acc", (Limit("dpd", "<=", 0.25),))
    >>> rule.violation({"acc": np.array([0.75, 0.875]), "dpd": np.array([0.5, 0.125])})
    array([0.25, 0.  ])
    """

    objective: str = "acc"
    limits: tuple[Limit, ...] = ()
    gaps: tuple[str, ...] = tuple(HEADLINE_GAPS)
    split: str = "validation"
    is_minimised: bool = False
    reference: str | None = None
    select: Select | None = None

    @classmethod
    def of(cls, select: Select, baselines: Mapping[str, PointResult]) -> Rule:
        """A sweep file's rule, its limits resolved against measured baselines.

        Raises:
            SweepError: a baseline's metric is undefined.
        """
        limits = [constraint.resolved(baselines) for constraint in select.constraints()]
        limits += [Limit(name, "<=", 0.0) for name in select.unsaturated()]
        return cls(
            select.objective,
            tuple(limits),
            split=select.split,
            is_minimised=select.minimize is not None,
            reference=reference_of(baselines),
            select=select,
        )

    def for_search(self, level: AnyLevel | None = None) -> Rule:
        """What proposers aim at: limits of the deciding task alone, gaps at equal levels where
        the rule reads them there. The choice itself looks at everything.

        Of classes or labels: the gaps that the rule reads; a saturated point misses it by 1.

        Args:
            level: what selection rates must be near to, if saturated points cannot win.
        """
        own = [limit for limit in self.limits if "/" not in limit.metric]
        if isinstance(level, MultiLevel):
            read = [self.objective, *(limit.metric for limit in own)]
            found = tuple(dict.fromkeys(name for name in read if lower_is_better(name)))
            return replace(self, limits=tuple(own), gaps=found or _MEAN_GAPS)
        limits = tuple(limit for limit in own if not limit.is_of_saturation)
        gaps = tuple(x.metric for x in limits if lower_is_better(x.metric) and "." in x.metric)
        if level is not None and len(limits) < len(own):
            limits += (
                Limit("selection_rate", ">=", level.rate - level.saturation),
                Limit("selection_rate", "<=", level.rate + level.saturation),
            )
        return replace(self, limits=limits, gaps=gaps or tuple(HEADLINE_GAPS))

    @property
    def objectives(self) -> tuple[str, ...]:
        """What a search improves, each once."""
        return tuple(dict.fromkeys([self.objective, *self.gaps]))

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the choice looks at, each once."""
        return tuple(dict.fromkeys([self.objective, *(limit.metric for limit in self.limits)]))

    def table(self, points: Sequence[PointResult]) -> dict[str, Array]:
        """Metric → values (P,) of measured points, NaN where undefined."""
        names = dict.fromkeys([*self.metrics, *self.objectives])
        return {name: np.array([_or_nan(p.value(name)) for p in points]) for name in names}

    def to_minimise(self, values: Mapping[str, Array]) -> Array:
        """Objectives of metrics (...): (..., k), each in [0, 1] and better when lower.

        Gaps are taken as they are; a metric that should be high becomes 1 − metric.
        """
        parts = [
            values[name] if self.is_lower_better(name) else 1 - values[name]
            for name in self.objectives
        ]
        return np.stack(parts, axis=-1)

    def is_lower_better(self, name: str) -> bool:
        """Of the objective or of a gap."""
        return self.is_minimised if name == self.objective else lower_is_better(name)

    def violation(self, values: Mapping[str, Array]) -> Array:
        """Sum over limits of how far metrics (...) are beyond them: (...), 0 if all hold."""
        total = np.zeros(np.shape(values[self.objective]))
        for limit in self.limits:
            total = total + limit.missed_by(values[limit.metric])
        return total

    def can_be_judged(self, point: PointResult) -> bool:
        """It was measured, is not degenerate, and has every metric of the rule."""
        return (
            point.evaluation is not None
            and not point.evaluation.degenerate
            and all(point.value(name) is not None for name in self.metrics)
        )

    def candidates(self, points: Sequence[PointResult]) -> list[PointResult]:
        """Merges and injections that add something and can be judged."""
        return [
            point
            for point in points
            if point.kind in _CANDIDATES and not point.is_identity and self.can_be_judged(point)
        ]

    def rank(self, point: PointResult) -> tuple[float, float]:
        """(total violation, the objective or minus it): the smaller, the better."""
        values = self.table([point])
        objective = float(values[self.objective][0])
        sign = 1.0 if self.is_minimised else -1.0
        return float(self.violation(values)[0]), sign * objective

    def best(
        self, points: Sequence[PointResult], *, tied: Tied | None = None
    ) -> PointResult | None:
        """The candidate that comes first, whether or not it may be chosen.

        Of those that satisfy the rule the one with the smallest Σ|λ| that cannot be told from the
        best; where none does, the one that misses it least.
        """
        candidates = self.candidates(points)
        alike = self._alike([p for p in candidates if self.rank(p)[0] == 0], None, tied)
        if alike:
            return min(alike, key=lambda point: (_size(point) or 0.0, self.rank(point)))
        return min(
            candidates, key=lambda point: (self.rank(point)[0], _size(point) or 0.0), default=None
        )

    def choose(
        self,
        points: Sequence[PointResult],
        *,
        tied: Tied | None = None,
        measure: Measure = Nearness.by_size,
        budget: BudgetRecord | None = None,
    ) -> Choice:
        """The best candidate within the limits, or the reference baseline.

        The reference is one more candidate: it is kept where no other satisfies the rule, and
        where it satisfies it and the others' objective is worse beyond noise. Of the others that
        cannot be told from the best, and are not worse than the reference beyond noise, the one
        nearest to the reference is chosen.

        Args:
            points: finished ones on the rule's split, in plan order.
            tied: says which points are within noise of a better one; None: only equal values are.
            measure: says how near tied points are to the reference.
            budget: what a budget of time has left out, without which nothing is kept.

        Raises:
            SweepError: a point of another split is given.
        """
        if any(point.split != self.split for point in points):
            raise SweepError(f"a selection may read the {self.split} split only")
        candidates = self.candidates(points)
        feasible = [point for point in candidates if self.satisfied_by(point)]
        reference = next(
            (p for p in points if p.kind == "baseline" and p.label == self.reference), None
        )
        is_rival = reference is not None and self.satisfied_by(reference)
        found = _Found(self, candidates, feasible, reference if is_rival else None)
        alike = self._alike(feasible, found.rival, tied)
        if not alike:
            return found.kept(reference, budget)
        return found.chosen(alike, measure(alike) if len(alike) > 1 else Nearness.by_size(alike))

    def satisfied_by(self, point: PointResult) -> bool:
        """Whether a point may be chosen by its own figures."""
        return self.can_be_judged(point) and self.rank(point)[0] == 0

    def _alike(
        self, feasible: Sequence[PointResult], rival: PointResult | None, tied: Tied | None
    ) -> list[PointResult]:
        """Those within noise of the best, and of the rival where that is better; none if the best
        itself is worse than the rival beyond noise."""
        alike, top = list(feasible), min(feasible, key=self.order, default=None)
        for better in (top, rival):
            if better is not None:
                worse = [p for p in alike if self.rank(p) > self.rank(better)]
                within = set(tied(better, worse)) if tied is not None and worse else set()
                beyond = {point.id for point in worse} - within
                alike = [point for point in alike if point.id not in beyond]
        return alike if any(point is top for point in alike) else []

    def missed_by(self, point: PointResult) -> list[str]:
        """The limits that a point misses, in words."""
        found = []
        for limit in self.limits:
            value = _or_nan(point.value(limit.metric))
            if limit.missed_by(np.array(value)) == 0:
                continue
            is_mark = limit.is_of_saturation
            found.append(limit.metric if is_mark else f"{value:.3f} where {limit.text} is asked")
        return found

    def order(self, point: PointResult) -> tuple[float, float]:
        """Of points that satisfy the rule: the better one is smaller, the smaller λ of equals."""
        return self.rank(point)[1], _size(point) or 0.0

    def __str__(self) -> str:
        parts = [limit.text for limit in self.limits if not limit.is_of_saturation]
        subject = f", subject to {' and '.join(parts)}" if parts else ""
        marks = [
            "not saturated" + (f" on {limit.metric.rpartition('/')[0]}" * ("/" in limit.metric))
            for limit in self.limits
            if limit.is_of_saturation
        ]
        verb = "minimise" if self.is_minimised else "maximise"
        without = ", ".join(["not degenerate", *marks])
        return f"{verb} {self.objective}{subject}, on {self.split} rows; {without}"


@dataclass(frozen=True)
class _Found:
    """What a rule has found among points, and the sentences about it.

    Attributes:
        feasible: the candidates that satisfy the rule.
        rival: the reference baseline, if it satisfies it.
    """

    rule: Rule
    candidates: Sequence[PointResult]
    feasible: Sequence[PointResult]
    rival: PointResult | None

    def chosen(self, alike: Sequence[PointResult], near: Nearness) -> Choice:
        """The nearest of those that cannot be told from the best."""
        rivals = [] if self.rival is None else [self.rival]
        top = min([*self.feasible, *rivals], key=self.rule.order)
        best = min(alike, key=lambda p: (near.distances.get(p.id, math.inf), self.rule.order(p)))
        is_tied = len(alike) > 1
        return self._choice(
            label=best.label,
            id=best.id,
            feasible=True,
            reason=self._why(best, top, alike, near),
            best=top.label if top is not best else None,
            ties=tuple(point.label for point in alike) if is_tied else (),
            nearest=near.words if is_tied else None,
            distances={p.label: near.distances[p.id] for p in alike if p.id in near.distances}
            if is_tied
            else {},
        )

    def kept(self, reference: PointResult | None, budget: BudgetRecord | None) -> Choice:
        """The reference, as far as everything was measured: no candidate is good enough."""
        first = self.rule.best(self.candidates)
        reason = self._why_none(first, reference)
        if budget is not None:
            reason = f"of what is measured, {reason}; left out: {budget.left_out_text}"
        return self._choice(
            label=None,
            id=None,
            kept=reference.label if reference is not None and budget is None else None,
            feasible=False,
            reason=reason,
            ties=(),
            best_merge=None if first is None else first.id,
        )

    def _choice(self, **fields: Any) -> Choice:
        counts = (len(self.candidates), len(self.feasible))
        select = None if self.rule.select is None else self.rule.select.words()
        return Choice(rule=str(self.rule), candidates=counts, select=select, **fields)

    def _named(self, point: PointResult) -> str:
        return f"{point.label} ({self.rule.objective} {point.value(self.rule.objective):.3f})"

    @property
    def _extreme(self) -> str:
        """`the highest acc on validation rows of all candidates that satisfy the rule`."""
        most = "lowest" if self.rule.is_minimised else "highest"
        where = f"on {self.rule.split} rows of all candidates that satisfy the rule"
        return f"the {most} {self.rule.objective} {where}"

    def _why(
        self, best: PointResult, top: PointResult, alike: Sequence[PointResult], near: Nearness
    ) -> str:
        count, rival = len(alike), self.rival
        of = f"of {len(self.feasible)} merges that do"
        but = (
            f", and not worse than {rival.label}" if rival is not None and top is not rival else ""
        )
        within = f"within noise of {self._named(top)}, {self._extreme}"
        if best is top:
            text = f"{self._named(best)} has {self._extreme}"
        else:
            text = f"{self._named(best)} is {within}"
        if len(self.feasible) == 1:
            text += ", and is the only merge that does"
        elif count == 1:
            text += f", {of}; {self._alone}"
        elif best is top:
            text += f", {of}, and {near.words} of the {count} that are within noise of it{but}"
        else:
            text = f"{self._named(best)} {near.words} of the {count} that are {within}{but}, {of}"
        if best.evaluation is not None and best.evaluation.saturated:
            text += "; it is saturated: read its gaps at the reference's selection rate"
        return text

    @property
    def _alone(self) -> str:
        if not self._has_noise:
            return f"no interval of a difference in {self.rule.objective} is known"
        return "no other is within noise of it"

    @property
    def _has_noise(self) -> bool:
        """Whether differences in the objective have an interval."""
        return self.rule.objective.rpartition("/")[2].rpartition(".")[2] in HAS_INTERVAL

    def _why_none(self, first: PointResult | None, reference: PointResult | None) -> str:
        rule = self.rule
        if first is None:
            return (
                "no merge can be judged: all are degenerate, failed, not proven safe, add nothing, "
                "or have an undefined metric"
            )
        if self.feasible and reference is not None:
            first = min(self.feasible, key=rule.order)
            text = (
                f"{self._named(reference)} satisfies the rule, and the best merge that does, "
                f"{self._named(first)}, is worse"
            )
            unknown = f" (no interval of a difference in {rule.objective} is known)"
            return text + (" beyond noise" if self._has_noise else unknown)
        nor = ""
        if reference is not None and self.rival is None:
            mark = ", which is degenerate" * ("degenerate" in reference.marks())
            nor = f", nor does {reference.label}{mark}"
        missed = "; ".join(rule.missed_by(first))
        return f"no merge satisfies the rule{nor}; {first.label} misses it least: {missed}"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _size(point: PointResult) -> float | None:
    """Σ|λ| of what is added; None where a merge has no λ."""
    for size in (point.lambda_l1, point.lambda_eff, point.lambda_):
        if size is not None:
            return abs(size)
    return None
