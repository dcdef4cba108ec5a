"""Predictors on the same rows: their metrics on the same draws, and differences of these.

All predictions of a row are resampled together: the bootstrap draws over joint cells
(pattern, y, ŷ_a, ŷ_b, …). What the predictors share cancels, so a difference is known far better
than from separate intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.fairness.counts import Counts, CountTable, group_counts, total
from mergekit_fair.fairness.intervals import Interval, around, percentile
from mergekit_fair.fairness.joint import JointTable
from mergekit_fair.fairness.labels import binary_labels, binary_predictions, same_length
from mergekit_fair.fairness.measure_warnings import draw_notes, interval_notes
from mergekit_fair.fairness.metrics import Values
from mergekit_fair.fairness.point_metrics import Deciding, statistics
from mergekit_fair.fairness.settings import MetricSettings

COMPARED = ("acc", "dpd", "eod", "bal_acc", "worst_group_acc", "selection_rate")


@dataclass(frozen=True)
class Comparison:
    """Differences b − a, each in [−1, 1].

    Attributes:
        n: number of rows.
        reference, confidence: as in a :class:`Measurement`.
        metrics: ``acc``, ``dpd``, ``eod``, ``bal_acc``, ``worst_group_acc``, ``selection_rate``.
            A negative DPD or EOD says that b's gap is smaller.
        p_values: of "the difference is 0", two-sided, from the same draws; None where undefined.
        warnings: why a difference is undefined or has no interval.
    """

    n: int
    reference: str
    confidence: float
    metrics: dict[str, Interval]
    p_values: dict[str, float | None]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Return ``{metric: {"value", "low", "high", "p_value"}}``; None means undefined."""
        return {
            name: {**interval.to_dict(), "p_value": self.p_values[name]}
            for name, interval in self.metrics.items()
        }


@dataclass(frozen=True, eq=False)
class Paired:
    """Metrics of several predictors of the same rows, each on the same bootstrap draws.

    Attributes:
        n: number of rows.
        values: predictor → metric → value ().
        drawn: predictor → metric → replicates (draws,).
        settings: how they were measured.
    """

    n: int
    values: dict[str, dict[str, Values]]
    drawn: dict[str, dict[str, Values]]
    settings: MetricSettings

    @classmethod
    def of(
        cls,
        y_true: ArrayLike,
        predictions: Mapping[str, ArrayLike],
        groups: Any,
        settings: MetricSettings,
    ) -> Paired:
        """Count, resample and measure; arguments as in :func:`compare_many`.

        Raises:
            MeasurementError: as :func:`compare`.
        """
        joint = _joint(y_true, predictions, groups)
        truth, *columns = joint.columns.T
        views = [(truth, predicted) for predicted in columns]
        values, drawn = {}, {}
        for name, view, resampled in zip(
            sorted(predictions),
            views,
            joint.resampled(views, settings.draws, settings.seed),
            strict=True,
        ):
            table = CountTable(joint.groups, joint.patterns, joint.cells(*view))
            deciding = Deciding.of(table, settings)
            values[name], drawn[name] = (
                _metrics(cells, table, deciding, settings.reference)
                for cells in (table.cells, resampled)
            )
        return cls(joint.n, values, drawn, settings)

    def difference(self, a: str, b: str) -> Comparison:
        """b minus a."""
        reference, confidence = self.settings.reference, self.settings.confidence
        intervals, p_values = {}, {}
        for name in COMPARED:
            value = float(self.values[b][name] - self.values[a][name])
            drawn = self.drawn[b][name] - self.drawn[a][name]
            intervals[name] = around(value, (drawn,), percentile, confidence, (-1.0, 1.0))
            known = intervals[name].low is not None
            p_values[name] = _two_sided(drawn[np.isfinite(drawn)]) if known else None
        undefined = [
            f"the difference in {name} is undefined"
            for name, interval in intervals.items()
            if interval.value is None
        ]
        few = draw_notes(self.settings)
        warnings = (*undefined, *interval_notes(intervals), *few)
        return Comparison(self.n, reference, confidence, intervals, p_values, warnings)


def _joint(y_true: ArrayLike, predictions: Mapping[str, ArrayLike], groups: Any) -> JointTable:
    """Labels and predictions, in the order of names: draws must not depend on that of a mapping."""
    truth = binary_labels(y_true, "y_true")
    columns = [truth]
    for name in sorted(predictions):
        columns.append(binary_predictions(predictions[name], name))
        same_length(truth, columns[-1], name)
    return JointTable.tally(columns, groups)


def _metrics(
    cells: Counts, table: CountTable, deciding: Deciding, reference: str
) -> dict[str, Values]:
    found = statistics(group_counts(cells, table.patterns), total(cells), deciding, reference)
    return {name: found[name] for name in COMPARED}


def _two_sided(drawn: Values) -> float:
    """Twice the smaller tail at 0 of the replicates, at least 2 / (draws + 1): in (0, 1]."""
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + drawn.size))
