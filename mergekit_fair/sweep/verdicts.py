"""May a group's vector be injected? A verdict for every candidate, from the transfer matrix.

A verdict is about the model's own predictions on rows like these: no deciding group's harm, the
increase of the mean of its one-vs-rest DPD and EOD, and no deciding group's loss of accuracy is
above the tolerance. Where there are scores it rests on soft rates (`transfer_effects`), and
predictions must not contradict them:

    unsafe    a lower end is above the tolerance, of soft rates or of predictions
    safe      every upper end is within it, and predictions show no harm at all: no lower end of
              theirs, at a level at which all hold together, is above 0
    unproven  neither; or a rate is undefined, or the predictions are (nearly) constant

`benchmarks/safe_injection.py` counts how often that is right where the truth is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any, Literal

import numpy as np

from mergekit_fair.errors import MeasurementError
from mergekit_fair.sweep.results import Harm, TransferRecord, Verdict
from mergekit_fair.sweep.transfer_matrix import Changes, Transfer

Status = Literal["safe", "unsafe", "unproven"]
Rates = Literal["soft", "hard"]

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
    status, reason, worst = _judge(transfer, number, tolerance)
    return Verdict(group=transfer.injected[number], status=status, reason=reason, worst=worst)


def _judge(transfer: Transfer, number: int, tolerance: float) -> tuple[Status, str, Harm | None]:
    harms = list(_harms(transfer, transfer.change, number))
    if not harms:
        return "unproven", "no group decides; lower min_group_size or exclude fewer groups", None
    own = [] if transfer.hard is None else list(_harms(transfer, transfer.hard, number))
    shown = [harm for harm in (*harms, *own) if _low(harm) > tolerance]
    if shown:
        worst = max(shown, key=_low)
        return "unsafe", f"{worst}, harm of more than {tolerance:g}", worst
    unknown = [harm for harm in harms if harm.high is None]
    if unknown:
        reason = (
            f"{unknown[0].metric} is undefined, for want of rows of one label, of other groups or "
            "of answers, and what is unknown is not safe"
        )
        return "unproven", reason, unknown[0]
    worst = max(harms, key=_high)
    if transfer.degenerate[number]:
        reason = "predictions are (nearly) constant, so that small gaps say nothing"
        return "unproven", reason, worst
    if _high(worst) > tolerance:
        reason = (
            f"{worst}; harm of more than {tolerance:g} is not ruled out: it takes more rows of "
            f"{worst.group} or a larger tolerance"
        )
        return "unproven", reason, worst
    contrary = [harm for harm in own if _low(harm) > 0]
    if contrary:
        worst = max(contrary, key=_low)
        reason = f"{worst}, harm that soft rates, within {tolerance:g}, do not see"
        return "unproven", reason, worst
    return "safe", f"at worst {worst}, within {tolerance:g}", worst


def _harms(transfer: Transfer, changes: Changes, number: int) -> Iterator[Harm]:
    """Both kinds of harm of every deciding group."""
    rates: Rates = "soft" if changes is transfer.change and transfer.hard else "hard"
    for at in np.flatnonzero(transfer.deciding):
        name = transfer.groups[at]
        for kind, sign in _SIGNS.items():
            if kind == "harm" and not transfer.deciding_gaps[at]:
                continue
            parts = (changes.value[kind], changes.low[kind], changes.high[kind])
            value, low, high = (sign * float(part[number, at]) for part in parts)
            low, high = (low, high) if sign > 0 else (high, low)
            yield Harm(
                group=name,
                kind=kind,
                rates=rates,
                value=_or_none(value),
                low=_or_none(low),
                high=_or_none(high),
            )


def _low(harm: Harm) -> float:
    return -1.0 if harm.low is None else harm.low


def _high(harm: Harm) -> float:
    return 1.0 if harm.high is None else harm.high


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value + 0.0  # no −0.0
