"""May a group's vector be injected? A verdict for every candidate, from the transfer matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np

from mergekit_fair.errors import MeasurementError
from mergekit_fair.sweep.injection.transfer_matrix import Transfer

Status = Literal["safe", "unsafe", "unproven"]

_WORDS = {"harm": "mean of one-vs-rest DPD and EOD", "acc": "accuracy"}


@dataclass(frozen=True)
class Harm:
    """What an injection does to one group, in metric units at the measured step; > 0 is worse.

    Attributes:
        group: h.
        kind: `harm`, the increase of (DPD_h + EOD_h) / 2, or `acc`, the decrease of accuracy.
        value, low, high: None where undefined.
    """

    group: str
    kind: str
    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """The metric's own change: of accuracy, a loss has a minus."""
        parts = (self.value, self.low, self.high)
        if self.kind == "acc":
            parts = (self.value, self.high, self.low)
        sign = -1.0 if self.kind == "acc" else 1.0
        value, low, high = ("–" if x is None else f"{sign * x:+.3f}" for x in parts)
        return f"the {_WORDS[self.kind]} of {self.group} changes by {value} [{low}, {high}]"


@dataclass(frozen=True)
class Verdict:
    """Whether one group's vector may be injected at the measured step.

    Attributes:
        group: the injected g.
        status: `safe`: for every deciding group, the upper ends of both harms are within
            tolerance; `unsafe`: a lower end is above it, so harm is shown; `unproven`: neither, or
            a rate is undefined.
        reason: one sentence that names the worst group, its value and interval.
        worst: the effect that decides: of shown harms the one with the largest lower end, else
            the largest upper end, else what is undefined; None if no group decides.
    """

    group: str
    status: Status
    reason: str
    worst: Harm | None

    def to_dict(self) -> dict[str, Any]:
        """JSON: `group`, `status`, `reason`, and `worst` with `group`, `kind`, `value`, `low`,
        `high`, or None."""
        worst = self.worst
        return {
            "group": self.group,
            "status": self.status,
            "reason": self.reason,
            "worst": None if worst is None else dict(vars(worst)),
        }


def verdicts(transfer: Transfer, tolerance: float) -> list[Verdict]:
    """Judge every injected group, in the order of the transfer matrix.

    Args:
        transfer: measured on validation rows.
        tolerance: how much worse any group may get, in metric units (0.01 is one point of DPD,
            EOD and accuracy); 0 or more. The same for both kinds of harm.

    Raises:
        MeasurementError: a tolerance that is negative or not finite.
    """
    if not isfinite(tolerance) or tolerance < 0:
        raise MeasurementError(
            "must be a number of metric units, 0 or more",
            where="tolerance",
            got=tolerance,
            fix="use 0.01 to allow one point of DPD, EOD or accuracy",
        )
    return [_verdict(transfer, number, tolerance) for number in range(len(transfer.injected))]


def judged(transfer: Transfer, tolerance: float) -> dict[str, Any]:
    """The JSON of a transfer matrix with `tolerance` and `verdicts`: what tables and pictures
    read."""
    found = [verdict.to_dict() for verdict in verdicts(transfer, tolerance)]
    return {**transfer.to_dict(), "tolerance": tolerance, "verdicts": found}


def _verdict(transfer: Transfer, number: int, tolerance: float) -> Verdict:
    group = transfer.injected[number]
    harms = list(_harms(transfer, number))
    step = f"{group} at {transfer.step:g}"
    if not harms:
        reason = f"{step}: no group decides; lower min_group_size or exclude fewer groups"
        return Verdict(group, "unproven", reason, None)
    shown = [harm for harm in harms if harm.low is not None and harm.low > tolerance]
    if shown:
        worst = max(shown, key=lambda harm: harm.low or 0.0)
        return Verdict(group, "unsafe", f"{step}: {worst}, harm of more than {tolerance:g}", worst)
    unknown = [harm for harm in harms if harm.low is None or harm.high is None]
    if unknown:
        reason = f"{step}: {_why_unknown(unknown[0])}, and what is unknown is not safe"
        return Verdict(group, "unproven", reason, unknown[0])
    worst = max(harms, key=lambda harm: harm.high or 0.0)
    if transfer.degenerate[number]:
        reason = f"{step}: predictions are (nearly) constant, so that small gaps say nothing"
        return Verdict(group, "unproven", reason, worst)
    if (worst.high or 0.0) <= tolerance:
        return Verdict(group, "safe", f"{step}: at worst {worst}, within {tolerance:g}", worst)
    reason = (
        f"{step}: {worst}; harm of more than {tolerance:g} is not ruled out: it takes more rows of "
        f"{worst.group} or a larger tolerance"
    )
    return Verdict(group, "unproven", reason, worst)


def _harms(transfer: Transfer, number: int) -> Iterator[Harm]:
    """Both kinds of harm of every deciding group."""
    for at in np.flatnonzero(transfer.deciding):
        name = transfer.groups[at]
        for kind, sign in (("harm", 1.0), ("acc", -1.0)):
            parts = (transfer.value[kind], transfer.low[kind], transfer.high[kind])
            value, low, high = (sign * float(part[number, at]) for part in parts)
            ends = (low, high) if sign > 0 else (high, low)
            yield Harm(name, kind, *(None if np.isnan(x) else x + 0.0 for x in (value, *ends)))


def _why_unknown(harm: Harm) -> str:
    if harm.value is not None:
        return (
            f"the {_WORDS[harm.kind]} of {harm.group} is undefined in too many bootstrap draws "
            "for an interval, because it has too few rows of one label"
        )
    return (
        f"the {_WORDS[harm.kind]} of {harm.group} is undefined, for want of rows of one label, of "
        "other groups or of answers"
    )
