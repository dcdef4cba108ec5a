"""The second stage: group vectors on a baseline."""

from __future__ import annotations

from collections.abc import Mapping

from mergekit_fair.fairness.eligible_groups import worst_group
from mergekit_fair.sweep.injection.safe_injection import Injected, inject_safely
from mergekit_fair.sweep.lines import Line
from mergekit_fair.sweep.measurer import Measurer
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.sweep_config import Sweep


def inject(
    sweep: Sweep, planner: Planner, measurer: Measurer, baselines: Mapping[str, Line]
) -> Injected:
    """Measure the injections that the sweep file asks for.

    Raises:
        MeasurementError: no group can be called the worst one.
    """
    config = sweep.config.inject
    if config is None:
        return Injected()
    if config.groups == "safe":
        return inject_safely(sweep, planner, measurer, baselines)
    if isinstance(config.groups, list):
        points = planner.injections(config.groups, sweep.inject_grid)
        measurer.measure(points)
        return Injected(points)
    worst, harms = worst_group(
        baselines[config.target]["evaluation"],
        candidates=sweep.recipe.groups(),
        excluded=measurer.sheet.excluded,
        min_group_size=measurer.settings.min_group_size,
    )
    measurer.progress.say(f"worst-served group of {config.target}: {worst} ({harms[worst]:.3f})")
    points = planner.injections([worst], sweep.inject_grid)
    measurer.measure(points)
    named = {"name": worst, "mean_of_dpd_and_eod": harms}
    return Injected(points, {"worst_group": named, "transfer": None})
