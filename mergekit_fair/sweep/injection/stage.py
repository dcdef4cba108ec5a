"""The second stage: group vectors on a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mergekit_fair.fairness.worst_group import worst_group
from mergekit_fair.sweep.config import Sweep
from mergekit_fair.sweep.lines import Line
from mergekit_fair.sweep.measurer import Measurer
from mergekit_fair.sweep.plan import Planner, Point


@dataclass(frozen=True)
class Injected:
    """What the stage has found.

    Attributes:
        points: that take part in the choice.
        results: what it adds to results.json.
        refused: point id → why it may not be chosen although it was measured.
        warnings: for its reader.
    """

    points: list[Point] = field(default_factory=list)
    results: Mapping[str, Any] = field(
        default_factory=lambda: {"worst_group": None, "transfer": None}
    )
    refused: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


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
        from mergekit_fair.sweep.injection.safe import inject_safely

        return inject_safely(sweep, planner, measurer, baselines)
    if isinstance(config.groups, list):
        points = planner.injections(config.groups, sweep.inject_grid)
        measurer.measure(points)
        return Injected(points)
    worst, harms = worst_group(
        baselines[config.target]["evaluation"],
        candidates=sweep.recipe.groups(),
        excluded=measurer.sheet.excluded,
        min_group_size=measurer.how.min_group_size,
    )
    measurer.progress.say(f"worst-served group of {config.target}: {worst} ({harms[worst]:.3f})")
    points = planner.injections([worst], sweep.inject_grid)
    measurer.measure(points)
    named = {"name": worst, "mean_of_dpd_and_eod": harms}
    return Injected(points, {"worst_group": named, "transfer": None})
