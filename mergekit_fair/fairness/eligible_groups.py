"""Which groups may decide a maximum: present, large enough, and not excluded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.rates import Mask
from mergekit_fair.fairness.settings import MetricSettings

MAX_UNANSWERED = 0.05  # largest share of rows of a group whose prediction may be missing


@dataclass(frozen=True, eq=False)
class EligibleGroups:
    """Which groups decide; it belongs to the data set and stays fixed over bootstrap draws.

    Attributes:
        deciding: bool (G,), the groups that may decide a minimum such as worst-group accuracy.
        comparable: bool (G,), those that may decide a gap: the same, or none at all if
            predictions are missing for more than `MAX_UNANSWERED` of a deciding group or of all
            rows. To leave out only that group would let a model hide whom it treats worst.
    """

    deciding: Mask
    comparable: Mask

    @classmethod
    def of(cls, table: CountTable, settings: MetricSettings) -> EligibleGroups:
        """Of a table of counts; raises MeasurementError as `eligible_groups`.

        `min_group_size` counts rows, whatever they count for; shares are shares of weight.
        """
        sizes = table.rows.groups.sum(axis=(-2, -1))
        deciding = eligible_groups(table.groups, sizes, settings)
        counts = table.counts
        decides = counts.groups[deciding]
        answered = is_answered(
            np.append(decides[..., 2].sum(axis=-1), counts.overall[..., 2].sum()),
            np.append(decides.sum(axis=(-2, -1)), counts.overall.sum()),
        )
        return cls(deciding, deciding & answered)


def eligible_groups(names: Sequence[str], sizes: ArrayLike, settings: MetricSettings) -> Mask:
    """Mark the groups that may decide a maximum or a minimum over groups.

    Args:
        names: the G group names.
        sizes: their numbers of rows, (G,).
        settings: `min_group_size`, and `exclude`, the names of semantically empty groups
            ("other"): reported, never deciding.

    Returns:
        bool (G,).

    Raises:
        MeasurementError: an unknown name is excluded.

    >>> eligible_groups(("a", "b", "other"), [90, 4, 50], MetricSettings(min_group_size=5))
    array([ True, False,  True])
    """
    for name in settings.exclude:
        if name not in names:
            raise MeasurementError(
                "no such group",
                where="exclude",
                got=name,
                allowed=names,
                fix="name groups as they are named in the data",
            )
    large = np.asarray(sizes) >= settings.min_group_size
    excluded = np.isin(np.asarray(names, dtype=str), list(settings.exclude))
    return np.asarray(large & ~excluded)


def is_answered(missing: ArrayLike, sizes: ArrayLike) -> bool:
    """Whether few enough predictions are missing in each of several sets of rows, none empty."""
    shares = np.asarray(missing) / np.asarray(sizes)
    return not bool((shares > MAX_UNANSWERED).any())


def worst_group(
    evaluation: Mapping[str, Any],
    *,
    candidates: Collection[str],
    excluded: Collection[str] = (),
    min_group_size: int = 1,
) -> tuple[str, dict[str, float]]:
    """The group with the largest mean of one-vs-rest DPD and EOD, and that mean for every group.

    Source: arXiv 2505.24262 (worst group under FFT). Excluded groups, groups below
    `min_group_size` and groups whose DPD or EOD is undefined do not take part; of equals, the first
    name wins.

    Args:
        evaluation: of the fully fine-tuned model, on the validation split.
        candidates: the groups that have a model to inject.
        excluded: semantically empty groups such as "other".

    Raises:
        MeasurementError: no candidate has a defined DPD and EOD.
    """
    gaps = evaluation["one_vs_rest"]["groups"]
    names = sorted(gaps)
    sizes = [evaluation["groups"][name]["n"] for name in names]
    present = [name for name in excluded if name in names]
    settings = MetricSettings(min_group_size=min_group_size, exclude=present)
    harms: dict[str, float] = {}
    for name, eligible in zip(names, eligible_groups(names, sizes, settings), strict=True):
        values = [gaps[name][key] for key in ("dpd", "eod")]
        if name in candidates and eligible and None not in values:
            harms[name] = sum(values) / len(values)
    if not harms:
        raise MeasurementError(
            "no candidate group has a defined DPD and EOD", allowed=sorted(candidates)
        )
    return max(harms, key=lambda name: harms[name]), harms
