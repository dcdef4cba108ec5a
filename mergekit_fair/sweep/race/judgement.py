"""The sweep's rule applied in many draws of the full validation split at once."""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import SweepError
from mergekit_fair.fairness import matching_threshold, metrics
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.fairness.metrics import Mask
from mergekit_fair.fairness.statistics import MAX_UNANSWERED, Deciding, statistics
from mergekit_fair.fairness.usable import usable_groups
from mergekit_fair.sweep.race.predictive import (
    Course,
    Floats,
    Rows,
    draw_weights,
    resampled,
    tabulate,
)
from mergekit_fair.sweep.rule import METRICS, SATURATED, Constraint

DRAWS = 400
_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_MATCHED = "level_matched"
_STRICT = 1e-12  # a strict inequality missed by equality, as in `select`
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Terms:
    """The rule, with its limits as numbers, and how its metrics are measured.

    Attributes:
        maximize: a metric.
        limits: constraints, each with its limit's value on all rows.
        reference, confidence, min_group_size, saturation: as in `Measuring`.
        exclude: names of groups that decide no maximum.
        level: selection rate for `level_matched.*` and `saturated`; None: those are undefined.

    Raises:
        SweepError: a metric of another task.
    """

    maximize: str
    limits: tuple[tuple[Constraint, float], ...] = ()
    reference: str = "between_groups"
    confidence: float = 0.95
    min_group_size: int = 1
    exclude: Collection[str] = ()
    level: float | None = None
    saturation: float = 0.1

    def __post_init__(self) -> None:
        for name in self.needed:
            if name not in (*METRICS, SATURATED):
                raise SweepError(
                    "a race knows the rows of one task only",
                    where="select",
                    got=name,
                    allowed=(*METRICS, SATURATED),
                    fix="set race: false, or leave this metric out of the rule",
                )

    @property
    def needed(self) -> tuple[str, ...]:
        """Every metric that the rule reads."""
        return (self.maximize, *(constraint.metric for constraint, _ in self.limits))


@dataclass(frozen=True, eq=False)
class Judgement:
    """B draws of what the full evaluation says of P points, and what the rule makes of it.

    Attributes:
        objective: (B, P), NaN where undefined.
        violation: (B, P), total violation; 0 where the constraints are satisfied.
        candidate: bool (B, P): not degenerate, and every metric of the rule is defined.
        margin: (P, P), by how much the row's point must lead the column's not to be tied with it.
        sizes: (P,), Σ|λ|.
    """

    objective: Floats
    violation: Floats
    candidate: Mask
    margin: Floats
    sizes: Floats

    def decide(self, among: Mask) -> tuple[Rows, Rows]:
        """(chosen, best) in every draw, both (B,); −1 where nothing can be chosen.

        Of the points that satisfy the constraints the one with the highest objective is best; of
        those that it does not lead by `margin`, the smallest is chosen. Where no point satisfies
        the constraints, the one with the smallest violation is both.

        Args:
            among: bool (P,), the points that take part.
        """
        draws = np.arange(len(self.objective))
        present = self.candidate & among
        fitting = present & (self.violation == 0)
        best = self._first(fitting, -self.objective, np.broadcast_to(self.sizes, present.shape))
        lead = self.objective[draws, best][:, np.newaxis] - self.objective
        alike = fitting & (lead <= self.margin[best] + _ROUNDING)
        alike[draws, best] |= fitting[draws, best]
        sizes = np.broadcast_to(self.sizes, present.shape)
        chosen = self._first(alike, sizes, -self.objective)
        nearest = self._first(present, self.violation, sizes)
        some = fitting.any(axis=1)
        found = np.where(some, chosen, nearest)
        nothing = ~present.any(axis=1)
        return np.where(nothing, -1, found), np.where(nothing, -1, np.where(some, best, nearest))

    @staticmethod
    def _first(among: Mask, key: Floats, then: Floats) -> Rows:
        """Place of the smallest (key, then) of each row (B, P) -> (B,); 0 among none."""
        keys = np.where(among, key, np.inf)
        lowest = among & (keys == keys.min(axis=1, keepdims=True))
        return np.asarray(np.where(lowest, then, np.inf).argmin(axis=1))


def judgement(
    course: Course,
    terms: Terms,
    seen: Rows,
    margins: NDArray[np.floating],
    sizes: Floats,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Judgement:
    """Predict the full evaluation.

    Args:
        course: what is known of all N rows.
        terms: the rule.
        seen: int (m,), distinct numbers of the measured rows.
        margins: (P, m), log p(1) − log p(0) of every point on them; NaN where unanswered, ±inf
            where only the answer is known (then `level_matched.*` is undefined).
        sizes: (P,), Σ|λ| of every point.
        draws: B.
        seed: of the draws; the same points in the same order give the same judgement.
    """
    weights = draw_weights(course, seen, draws, np.random.default_rng(seed))
    views = _views(margins, terms)
    again = objective_draws(course, terms, seen, margins, mean=weights.mean, draws=draws, seed=seed)
    values: dict[str, Floats] = {}
    for view, answers in views.items():
        counts = tabulate(course, seen, weights, answers)
        values |= _values(counts, course, terms, view)
        if not view:
            candidate = ~metrics.is_degenerate(counts[:, :, -1])
    candidate = candidate & np.all([np.isfinite(values[name]) for name in terms.needed], axis=0)
    return Judgement(
        values[terms.maximize],
        _violations(values, terms),
        candidate,
        _tie_margins(again, terms.confidence),
        sizes,
    )


def objective_draws(
    course: Course,
    terms: Terms,
    seen: Rows,
    margins: NDArray[np.floating],
    *,
    mean: Floats,
    draws: int,
    seed: int,
) -> Floats:
    """Objective of every point on bootstrap draws of all N rows, the same for all: (draws, P).

    Args:
        mean: (m,), how many of the N rows a seen row is expected to stand for.
    """
    view, _, _ = terms.maximize.rpartition(".")
    answers = _views(margins, terms)[view]
    # Rows that agree in everything are drawn together: exact, and several times as fast.
    alike = np.vstack([course.cell[seen], answers])
    _, first, of_row = np.unique(alike, axis=1, return_index=True, return_inverse=True)
    expected = np.bincount(of_row.reshape(-1), mean).astype(np.float64)
    weights = resampled(expected, course.n, draws, seed + 1)
    counts = tabulate(course, seen[first], weights, answers[:, first])
    return _values(counts, course, terms, view)[terms.maximize]


def _views(margins: NDArray[np.floating], terms: Terms) -> dict[str, NDArray[np.int8]]:
    """Predictions (P, m) at the models' own threshold, and at the level's if the rule asks."""
    found = {"": _decided(margins)}
    if any(name.startswith(_MATCHED) for name in terms.needed):
        found[_MATCHED] = _matched(margins, terms.level)
    return found


def _decided(margins: NDArray[np.floating]) -> NDArray[np.int8]:
    return np.where(np.isnan(margins), UNANSWERED, margins > 0).astype(np.int8)


def _matched(margins: NDArray[np.floating], level: float | None) -> NDArray[np.int8]:
    """Predictions (P, m) at the threshold that gives the level; unanswered without one."""
    found = np.full(margins.shape, UNANSWERED, dtype=np.int8)
    for mine, given in zip(found, margins, strict=True):
        answered = ~np.isnan(given)
        if level is not None and answered.any() and not np.isinf(given).any():
            threshold = matching_threshold(given[answered], level)
            mine[answered] = given[answered] >= threshold
    return found


def _values(counts: Floats, course: Course, terms: Terms, view: str) -> dict[str, Floats]:
    """Metric → (B, P) from counts (B, P, G + 1, 2, 3)."""
    groups, overall = counts[..., :-1, :, :], counts[..., -1, :, :]
    sizes = np.zeros((len(course.groups.names), 2, 3))
    sizes[:, 0, 0] = course.groups.membership.sum(axis=0)
    usable = usable_groups(course.groups.names, sizes, terms.min_group_size, terms.exclude)
    found = statistics(groups, overall, Deciding(usable, usable), terms.reference)
    silent = metrics.unanswered_rate(overall) > MAX_UNANSWERED
    silent |= (metrics.unanswered_rate(groups)[..., usable] > MAX_UNANSWERED).any(axis=-1)
    for gap in ("dpd", "eod"):
        found[gap] = np.where(silent, np.nan, found[gap])
    if view:
        return {f"{view}.{name}": value for name, value in found.items()}
    if terms.level is not None:
        far = np.abs(found["selection_rate"] - terms.level) > terms.saturation
        found[SATURATED] = far.astype(np.float64)
    else:
        found[SATURATED] = np.full(overall.shape[:2], np.nan)
    return found


def _violations(values: dict[str, Floats], terms: Terms) -> Floats:
    """(B, P), as in `select.choose`."""
    total = np.zeros_like(values[terms.maximize])
    for constraint, limit in terms.limits:
        value = values[constraint.metric]
        missed = ~_OPERATORS[constraint.operator](value, limit)
        total += np.where(missed, np.maximum(np.abs(value - limit), _STRICT), 0.0)
    return total


def _tie_margins(drawn: Floats, confidence: float) -> Floats:
    """(P, P): z · standard error of the difference of two points' objectives, from (B, P) draws.

    Normal approximation of "the lower end of the paired percentile interval is at most 0".
    """
    defined = np.isfinite(drawn)
    centre = np.where(defined, drawn, 0).sum(axis=0) / np.maximum(1, defined.sum(axis=0))
    away = np.where(defined, drawn - centre, 0.0)
    both = away.T @ away / max(1, len(away) - 1)
    own = np.diag(both)
    spread = np.sqrt(np.maximum(0.0, own[:, np.newaxis] + own - 2 * both))
    return np.asarray(NormalDist().inv_cdf((1 + confidence) / 2) * spread)
