"""The worst-served group of an evaluation."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mergekit_fair.errors import MeasurementError


def worst_group(
    evaluation: dict[str, Any],
    *,
    candidates: Collection[str],
    excluded: Collection[str] = (),
    min_group_size: int = 1,
) -> tuple[str, dict[str, float]]:
    """The group with the largest mean of one-vs-rest DPD and EOD, and that mean for every group.

    Source: arXiv 2505.24262 (worst group under FFT). Semantically empty groups (`excluded`),
    groups below `min_group_size` and groups without a defined value do not take part; of equals,
    the first name wins.

    Args:
        evaluation: of the fully fine-tuned model, on the validation split.
        candidates: the groups that have a model to inject.
        excluded: groups such as "other".

    Raises:
        MeasurementError: no candidate has a defined DPD or EOD.
    """
    harms: dict[str, float] = {}
    for name, gaps in sorted(evaluation["one_vs_rest"]["groups"].items()):
        values = [gaps[key] for key in ("dpd", "eod") if gaps[key] is not None]
        is_large = evaluation["groups"][name]["n"] >= min_group_size
        if name in candidates and name not in excluded and is_large and values:
            harms[name] = sum(values) / len(values)
    if not harms:
        raise MeasurementError(
            "no candidate group has a defined DPD or EOD", allowed=sorted(candidates)
        )
    return max(harms, key=lambda name: harms[name]), harms
