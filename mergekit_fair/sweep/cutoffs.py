"""The control that asks whether a merge did more than move a threshold.

The reference baseline's own scores with another threshold, one for everybody: no forward pass, no
group label, neither to set it nor to predict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mergekit_fair.evaluation.levels import level_threshold
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.schema import digest_of_json
from mergekit_fair.sweep.global_threshold import SOURCE, THRESHOLD, GlobalThreshold
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.record import PlannedPoint, PointResult
from mergekit_fair.sweep.rescored import Decision, Rescored
from mergekit_fair.sweep.selection import reference_of
from mergekit_fair.sweep.sweep_config import SweepConfig

# Odds of being selected, as multiples of the baseline's own.
FACTORS = tuple(2.0 ** (step / 2) for step in (-4, -3, -2, -1, 1, 2, 3, 4))


@dataclass(frozen=True, eq=False)
class Cutoffs:
    """A baseline with other global thresholds; nothing where the sweep asks for none.

    Thresholds are set on the rows that are selected on.

    Attributes:
        grid: at selection rates around the baseline's own.
        level: at the chosen point's selection rate; the only one that report rows are opened for.
        warnings: why there are none.
    """

    grid: Rescored
    level: Rescored
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        config: SweepConfig,
        runner: PointRunner,
        baselines: Mapping[str, PointResult],
        chosen: PointResult | None,
    ) -> Cutoffs:
        """On the scores of the reference baseline.

        Args:
            config: of the sweep.
            runner: that has measured the baselines.
            baselines: name → result, on the split that is selected on.
            chosen: likewise; None where nothing is chosen.
        """
        none, name = Rescored.none(runner), reference_of(baselines)
        if "threshold" not in config.controls or name is None:
            return cls(none, none)
        source, rows = baselines[name], runner.binary(baselines[name].id)
        own = source.value("selection_rate")
        if rows.logit_gaps is None or np.isnan(rows.logit_gaps).all():
            return cls(none, none, (f"controls: threshold: {name} has no scores to put one on",))
        if own is None or not 0 < own < 1:
            text = f"controls: threshold: {name} predicts one class alone, and has no odds to vary"
            return cls(none, none, (text,))
        wanted = None if chosen is None else chosen.value("selection_rate")
        level = dict(_planned(source, rows, [] if wanted is None else [wanted]))
        odds = own / (1 - own)
        grid = dict(_planned(source, rows, [f * odds / (1 + f * odds) for f in FACTORS]))
        apart = {label: each for label, each in grid.items() if label not in level}
        return cls(Rescored(runner, source.id, apart), Rescored(runner, source.id, level))

    def results(self, split: str) -> list[PointResult]:
        """Measured on the split that is selected on: all, from the highest threshold down."""
        found = [*self.grid.results(split), *self.level.results(split)]
        return sorted(found, key=lambda point: -float(point.settings[THRESHOLD]))


def _planned(
    source: PointResult, rows: Predictions, rates: list[float]
) -> Iterator[tuple[str, Decision]]:
    for rate in rates:
        t = level_threshold(rows, rate)
        label = f"{source.label} at score ≥ {t:.4g}"
        planned = PlannedPoint(
            id=digest_of_json([source.id, THRESHOLD, t])[:16],
            kind="cutoff",
            label=label,
            settings={SOURCE: source.label, THRESHOLD: t},
            lambda_=None,
            lambda_eff=None,
        )
        yield label, Decision(planned, GlobalThreshold(t))
