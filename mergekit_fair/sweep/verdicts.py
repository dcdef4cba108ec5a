"""May a group's vector be injected? A verdict for every candidate, from the transfer matrix."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any, Literal

import numpy as np

from mergekit_fair.errors import MeasurementError
from mergekit_fair.sweep.results import Harm, TransferRecord, Verdict
from mergekit_fair.sweep.transfer_matrix import Transfer

# What is worse when it grows, and what when it shrinks.
_SIGNS: dict[Literal["harm", "acc"], float] = {"harm": 1.0, "acc": -1.0}


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


def judged(transfer: Transfer, tolerance: float, **more: Any) -> TransferRecord:
    """A transfer matrix with its verdicts: what is written, and what tables and pictures read."""
    judgements = [verdict.to_dict() for verdict in verdicts(transfer, tolerance)]
    content = {**transfer.to_dict(), "tolerance": tolerance, "verdicts": judgements, **more}
    return TransferRecord.model_validate(content)


def _verdict(transfer: Transfer, number: int, tolerance: float) -> Verdict:
    group = transfer.injected[number]
    harms = list(_harms(transfer, number))
    step = f"{group} at {transfer.step:g}"
    if not harms:
        reason = f"{step}: no group decides; lower min_group_size or exclude fewer groups"
        return Verdict(group=group, status="unproven", reason=reason)
    shown = [harm for harm in harms if harm.low is not None and harm.low > tolerance]
    if shown:
        worst = max(shown, key=lambda harm: harm.low or 0.0)
        reason = f"{step}: {worst}, harm of more than {tolerance:g}"
        return Verdict(group=group, status="unsafe", reason=reason, worst=worst)
    unknown = [harm for harm in harms if harm.low is None or harm.high is None]
    if unknown:
        reason = f"{step}: {_why_unknown(unknown[0])}, and what is unknown is not safe"
        return Verdict(group=group, status="unproven", reason=reason, worst=unknown[0])
    worst = max(harms, key=lambda harm: harm.high or 0.0)
    if transfer.degenerate[number]:
        reason = f"{step}: predictions are (nearly) constant, so that small gaps say nothing"
        return Verdict(group=group, status="unproven", reason=reason, worst=worst)
    if (worst.high or 0.0) <= tolerance:
        reason = f"{step}: at worst {worst}, within {tolerance:g}"
        return Verdict(group=group, status="safe", reason=reason, worst=worst)
    reason = (
        f"{step}: {worst}; harm of more than {tolerance:g} is not ruled out: it takes more rows of "
        f"{worst.group} or a larger tolerance"
    )
    return Verdict(group=group, status="unproven", reason=reason, worst=worst)


def _harms(transfer: Transfer, number: int) -> Iterator[Harm]:
    """Both kinds of harm of every deciding group."""
    for at in np.flatnonzero(transfer.deciding):
        name = transfer.groups[at]
        for kind, sign in _SIGNS.items():
            parts = (transfer.value[kind], transfer.low[kind], transfer.high[kind])
            value, low, high = (sign * float(part[number, at]) for part in parts)
            low, high = (low, high) if sign > 0 else (high, low)
            yield Harm(
                group=name,
                kind=kind,
                value=_or_none(value),
                low=_or_none(low),
                high=_or_none(high),
            )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value + 0.0  # no −0.0


def _why_unknown(harm: Harm) -> str:
    if harm.value is not None:
        return (
            f"{harm.metric} is undefined in too many bootstrap draws "
            "for an interval, because it has too few rows of one label"
        )
    return (
        f"{harm.metric} is undefined, for want of rows of one label, of other groups or of answers"
    )
