"""The baseline that merging has to beat: thresholds by group on a model's scores.

They cost no forward pass, and need to know the groups of everybody they decide on, which a merged
model does not (`evaluation.group_thresholds`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.group_thresholds import CONSTRAINTS, VERSION, fit, remarks
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.schema import digest_of_json
from mergekit_fair.sweep.differences import differences
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.record import PlannedPoint, PointResult
from mergekit_fair.sweep.rescored import Decision, Rescored
from mergekit_fair.sweep.results import DifferenceRecord, ThresholdsRecord
from mergekit_fair.sweep.sweep_config import SweepConfig

NOTE = "group thresholds need the group label of every row at prediction time; merged models do not"


@dataclass(frozen=True, eq=False)
class ThresholdedBaseline:
    """A baseline with thresholds by group, for each gap; nothing where the sweep asks for none.

    Attributes:
        points: their points.
        source: the baseline; None without.
        gaps: label → the gap that they are fitted to make smaller.
        warnings: what they need, how they treat rows of several groups and groups that are too
            small, and why there are none for a gap.
    """

    points: Rescored
    source: PointResult | None = None
    gaps: Mapping[str, Literal["dpd", "eod"]] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @classmethod
    def fit(
        cls, config: SweepConfig, runner: PointRunner, baselines: Mapping[str, PointResult]
    ) -> ThresholdedBaseline:
        """Thresholds on the scores of `config.thresholds`, fitted on the selection's rows."""
        name = config.thresholds
        if name is None:
            return cls(Rescored.none(runner))
        source, settings = baselines[name], runner.settings
        rows = runner.binary(source.id)
        decisions, gaps, said = {}, {}, [NOTE]
        for gap in CONSTRAINTS:
            label = f"{name} + thresholds ({gap})"
            try:
                thresholds = fit(gap, rows, settings)
            except MeasurementError as error:
                said.append(f"{label} is left out: {error}")
                continue
            point = _planned(label, source.id, gap, settings.excluding(rows.excluded))
            decisions[label], gaps[label] = Decision(point, thresholds), gap
            said += remarks(label, name, thresholds, rows)
        return cls(Rescored(runner, source.id, decisions), source, gaps, said)

    def records(self, splits: Collection[str]) -> dict[str, ThresholdsRecord]:
        """Label → whose scores, and what the thresholds have changed, on these splits."""
        if self.source is None:
            return {}
        runner = self.points.runner
        changes: dict[str, dict[str, dict[str, DifferenceRecord]]] = {
            label: {} for label in self.gaps
        }
        for split in sorted(splits, reverse=True):  # validation first
            own = runner.binary(self.source.id, split)
            for label, predictions in self.points.predictions(split).items():
                changes[label][split] = change_of(own, predictions, runner.settings)
        return {
            label: ThresholdsRecord(source=self.source.label, gap=gap, change=changes[label])
            for label, gap in self.gaps.items()
        }


def change_of(
    source: Predictions, thresholded: Predictions, settings: MetricSettings
) -> dict[str, DifferenceRecord]:
    """Thresholds minus their own source on the same rows, paired: metric → difference."""
    return differences(thresholded, {"source": source}, settings).judged["source"]


def _planned(label: str, source: str, gap: str, settings: MetricSettings) -> PlannedPoint:
    """Its id comes from that of the source's point and all that a fit may depend on."""
    fit = (settings.reference, settings.min_group_size, sorted(settings.exclude), settings.seed)
    return PlannedPoint(
        id=digest_of_json([source, gap, *fit, VERSION])[:16],
        kind="thresholds",
        label=label,
        settings={},
        lambda_=None,
        lambda_eff=None,
    )
