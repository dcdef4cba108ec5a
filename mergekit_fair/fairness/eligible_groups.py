"""Which groups may decide a maximum: present, large enough, and not excluded."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import Counts
from mergekit_fair.fairness.metrics import Mask


def usable_groups(
    names: tuple[str, ...], groups: Counts, min_group_size: int, exclude: Collection[str]
) -> Mask:
    """Mark the groups that may decide DPD, EOD and worst-group accuracy.

    Args:
        names: the G group names.
        groups: counts (G, 2, 3).
        min_group_size: smallest number of rows of a group that decides.
        exclude: names of semantically empty groups ("other"): reported, never deciding. Compared
            as strings, like the labels of groups.

    Returns:
        bool (G,).

    Raises:
        MeasurementError: ``min_group_size`` below 1, or an unknown name in ``exclude``.
    """
    if min_group_size < 1:
        raise MeasurementError("must be at least 1", where="min_group_size", got=min_group_size)
    left_out = [exclude] if isinstance(exclude, str) else [str(name) for name in exclude]
    for name in left_out:
        if name not in names:
            raise MeasurementError(
                "no such group",
                where="exclude",
                got=name,
                allowed=names,
                fix="name groups as they are named in the data",
            )
    large = groups.sum(axis=(-2, -1)) >= min_group_size
    excluded = np.isin(np.asarray(names, dtype=str), left_out)
    return np.asarray(large & ~excluded)
