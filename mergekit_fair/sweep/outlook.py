"""What safe injection can be expected to show with the rows at hand, before a step is measured.

A step of λ is taken to move every row's score by λ times the spread of scores, up or down alike:
as far as group vectors at λ = 1 typically move scores, and without any effect on a group. Then

    half-width of h = z · se     se of the contrast of h with the largest error (`transfer_effects`)
    least tolerance = (z + 2) · se

which leaves room for what is added by chance over several groups whose gaps may grow either way: in
simulations such vectors are called safe nine times in ten where the tolerance is met, and three
times in five where it is just not (`benchmarks/safe_injection.py`). Errors shrink with
n^(−0.4), as τ shrinks with n^(−0.2): the rows that a tolerance needs are
n · (least tolerance / tolerance)^2.5. Without scores yet, their density at the threshold is taken
to be 0.3 per spread, as that of a normal half to one standard deviation from its mean.
"""

from __future__ import annotations

from math import ceil, sqrt
from statistics import NormalDist

import numpy as np

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness.settings import MetricSettings
from mergekit_fair.fairness.weights import Weighted
from mergekit_fair.sweep.record import SweepRecord
from mergekit_fair.sweep.sweep_config import Inject
from mergekit_fair.sweep.transfer_effects import (
    expected_error,
    soft,
    spread_of_scores,
    temperature,
)
from mergekit_fair.sweep.transfer_matrix import paired_rows

_DENSITY = 0.3  # of scores at the threshold, per spread
_MARGIN = 2.0  # standard errors, for what chance adds
_POWER = 2.5


class GroupOutlook(SweepRecord):
    """A deciding group: its rows, the half-width to expect, and the rows the tolerance needs.

    Attributes:
        rows_needed: None where no number of rows is enough: a tolerance of 0.
    """

    n: int
    half_width: float
    rows_needed: int | None

    def __str__(self) -> str:
        needed = "no number of" if self.rows_needed is None else f"about {self.rows_needed:,}"
        return f"n={self.n} ±{self.half_width:.3f}, needs {needed} rows"


class Outlook(SweepRecord):
    """What can be expected to be shown at this step and tolerance.

    Attributes:
        groups: deciding group → its outlook; one whose rates are not defined is left out.
        least_tolerance: the smallest that all groups can be expected to be shown safe within;
            0 without a deciding group.
    """

    step: float
    tolerance: float
    groups: dict[str, GroupOutlook]
    least_tolerance: float

    @property
    def warnings(self) -> list[str]:
        """One sentence if the tolerance asks for more rows than there are."""
        short = [
            f"{name} ({group})"
            for name, group in self.groups.items()
            if group.rows_needed is None or group.rows_needed > group.n
        ]
        if not short:
            return []
        return [
            f"safe injection: a tolerance of {self.tolerance:g} can hardly be shown for "
            f"{', '.join(short)}; {self.least_tolerance:g} can, or exclude groups, or raise "
            "min_group_size"
        ]

    def __str__(self) -> str:
        groups = "; ".join(f"{name} {group}" for name, group in self.groups.items())
        return (
            f"safe injection at λ = {self.step:g}, tolerance {self.tolerance:g}, intervals of harm "
            f"to expect: {groups or 'no group decides'}. Smallest tolerance that these rows can be "
            f"expected to show: {self.least_tolerance:g}"
        )


def outlook_of(rows: Predictions, settings: MetricSettings, inject: Inject) -> Outlook:
    """The outlook of these rows: of labels alone, or of the target's scores once it has some."""
    blind = _errors(rows.without_predictions(), settings, inject.step)
    errors = blind if rows.logit_gaps is None else _errors(rows, settings, inject.step)
    deviate = NormalDist().inv_cdf((1 + settings.confidence) / 2)
    tolerance = inject.tolerance
    if tolerance == "auto":  # known before anything is measured, so that results do not move it
        tolerance = _least(blind, deviate)
    groups = {
        name: GroupOutlook(
            n=n,
            half_width=deviate * error,
            rows_needed=_rows_needed(n, (deviate + _MARGIN) * error, tolerance),
        )
        for name, (n, error) in errors.items()
    }
    return Outlook(
        step=inject.step,
        tolerance=tolerance,
        groups=groups,
        least_tolerance=_least(errors, deviate),
    )


def _errors(
    rows: Predictions, settings: MetricSettings, step: float
) -> dict[str, tuple[int, float]]:
    """Deciding group → its rows, and the standard error to expect."""
    paired = paired_rows(rows, settings)
    gaps = None
    if rows.logit_gaps is not None:
        gaps = rows.logit_gaps[Weighted.of(rows.weights, len(rows)).rows]
    spread = 0.0 if gaps is None else spread_of_scores(gaps, paired.labels)
    found = {}
    for group, name in enumerate(rows.members.names):
        n = int(paired.members[:, group].sum())
        if not (paired.deciding & paired.with_gaps)[group]:
            continue
        tau = temperature(1.0, n)
        # Of a row with p = σ(z/τ) that moves by step · spread: p (1 − p) / τ of it, ¼ / τ at most.
        moved = np.full(len(paired.labels), step * sqrt(_DENSITY / (6 * tau)))
        if gaps is not None and spread > 0:
            p = np.nan_to_num(soft(gaps, tau * spread))
            moved = step * p * (1 - p) / tau
        error = expected_error(paired, group, moved, farthest=min(step / (4 * tau), 1.0))
        if np.isfinite(error):
            found[name] = n, error
    return found


def _least(errors: dict[str, tuple[int, float]], deviate: float) -> float:
    """Rounded up to three decimals."""
    return max((ceil(1000 * (deviate + _MARGIN) * e) / 1000 for _, e in errors.values()), default=0)


def _rows_needed(n: int, least: float, tolerance: float) -> int | None:
    return ceil(n * (least / tolerance) ** _POWER) if tolerance > 0 else None
