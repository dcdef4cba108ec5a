"""Which groups may decide a maximum: present, large enough, and not excluded."""

from __future__ import annotations

import numpy as np

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import Counts
from mergekit_fair.fairness.metrics import Mask
from mergekit_fair.fairness.settings import MetricSettings


def usable_groups(names: tuple[str, ...], groups: Counts, settings: MetricSettings) -> Mask:
    """Mark the groups that may decide DPD, EOD and worst-group accuracy.

    Args:
        names: the G group names.
        groups: counts (G, 2, 3).
        settings: ``min_group_size`` and ``exclude``.

    Returns:
        bool (G,).

    Raises:
        MeasurementError: an unknown name in ``exclude``.
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
    large = groups.sum(axis=(-2, -1)) >= settings.min_group_size
    excluded = np.isin(np.asarray(names, dtype=str), list(settings.exclude))
    return np.asarray(large & ~excluded)
