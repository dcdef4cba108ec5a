"""Two predictors, or many against one, on the same rows: paired differences with intervals.

All predictions of a row are resampled together: the bootstrap draws over joint cells
(pattern, y, ŷ_a, ŷ_b, …). What the predictors share cancels, so a difference is known far better
than from separate intervals.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import (
    Column,
    Counts,
    CountTable,
    JointTable,
    checked_codes,
    group_counts,
    total,
)
from mergekit_fair.fairness.eligible_groups import EligibleGroups
from mergekit_fair.fairness.intervals import Interval, Number, around, percentile
from mergekit_fair.fairness.labels import (
    UNANSWERED,
    binary_labels,
    binary_predictions,
    same_length,
)
from mergekit_fair.fairness.measure_warnings import draw_warnings, interval_warnings
from mergekit_fair.fairness.metrics import COMPARED, HEADLINE, metric_values
from mergekit_fair.fairness.rates import Values
from mergekit_fair.fairness.settings import DRAWS, MetricSettings

Key = TypeVar("Key", bound=Hashable)


class Difference(Interval):
    """A difference b − a in [−1, 1] with its interval, and the p-value of "it is 0"."""

    p_value: Number = None


@dataclass(frozen=True)
class Comparison:
    """Differences b − a, each in [−1, 1].

    Attributes:
        n: number of rows.
        reference, confidence: as in a `Measurement`.
        metrics: name → `Difference`, of the metrics that are compared. A negative DPD or
            EOD says that b's gap is smaller. P-values are two-sided, from the same draws.
        warnings: why a difference is undefined or has no interval.
    """

    n: int
    reference: str
    confidence: float
    metrics: dict[str, Difference]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Return `{metric: {"value", "low", "high", "p_value"}}`; None means undefined."""
        return {name: difference.to_dict() for name, difference in self.metrics.items()}


@dataclass(frozen=True)
class Comparisons:
    """Many predictors against one, on the same rows.

    Attributes:
        baseline: whose metrics are subtracted.
        differences: name → `Comparison` with the baseline as a.
        adjusted: (name, metric) → Holm-adjusted p-value, for `acc`, `dpd` and `eod` of every
            predictor; undefined ones are absent.
        confidence: of the intervals; a difference is significant where its adjusted p-value is at
            most 1 − confidence.
        warnings: that no adjusted p-value can be that small, with so few draws.
    """

    baseline: str
    differences: dict[str, Comparison]
    adjusted: dict[tuple[str, str], float]
    confidence: float
    warnings: tuple[str, ...] = ()

    def significant(self, name: str, metric: str) -> bool:
        """Whether a difference holds although so many are looked at."""
        return self.adjusted.get((name, metric), 1.0) <= 1 - self.confidence

    def to_dict(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Return `{name: {metric: {"value", "low", "high", "p_value", "adjusted_p_value"}}}`."""
        return {
            name: {
                metric: {**entry, "adjusted_p_value": self.adjusted.get((name, metric))}
                for metric, entry in comparison.to_dict().items()
            }
            for name, comparison in self.differences.items()
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
        truth: Column,
        predictions: Mapping[str, Column],
        groups: Any,
        settings: MetricSettings,
    ) -> Paired:
        """Count, resample and measure rows whose labels and predictions are codes.

        Args:
            truth: shape (n,), integers 0 and 1.
            predictions: name → shape (n,), integers 0, 1 and `UNANSWERED`.
            groups: as in `measure`.
            settings: how to measure.

        Raises:
            MeasurementError: another code, other rows, or as `measure`.
        """
        names = sorted(predictions)  # draws must not depend on the order of a mapping
        codes = [checked_codes(truth, (0, 1), "y_true")]
        for name in names:
            codes.append(checked_codes(predictions[name], (0, 1, UNANSWERED), name))
            same_length(codes[0], codes[-1], name)
        joint = JointTable.tally(codes, groups)
        labels, *columns = joint.columns.T
        views = [(labels, predicted) for predicted in columns]
        resampled = joint.resampled(views, settings.draws, settings.seed)
        values: dict[str, dict[str, Values]] = {name: {} for name in predictions}
        drawn = dict(values)
        for name, view, cells in zip(names, views, resampled, strict=True):
            table = CountTable(joint.groups, joint.patterns, joint.cells(*view))
            eligible = EligibleGroups.of(table, settings)
            values[name], drawn[name] = (
                _metrics(counts, table, eligible, settings) for counts in (table.cells, cells)
            )
        return cls(joint.n, values, drawn, settings)

    def difference(self, a: str, b: str) -> Comparison:
        """b minus a."""
        differences = {
            name: _difference(
                float(self.values[b][name] - self.values[a][name]),
                self.drawn[b][name] - self.drawn[a][name],
                self.settings.confidence,
            )
            for name in COMPARED
        }
        undefined = [
            f"the difference in {name} is undefined"
            for name, difference in differences.items()
            if difference.value is None
        ]
        few = draw_warnings(self.settings)
        warnings = (*undefined, *interval_warnings(differences), *few)
        reference, confidence = self.settings.reference, self.settings.confidence
        return Comparison(self.n, reference, confidence, differences, warnings)

    def against(self, baseline: str) -> Comparisons:
        """Every other predictor minus the baseline, p-values corrected for their number."""
        differences = {
            name: self.difference(baseline, name) for name in self.values if name != baseline
        }
        p_values = {
            (name, metric): p_value
            for name, comparison in differences.items()
            for metric in HEADLINE
            if (p_value := comparison.metrics[metric].p_value) is not None
        }
        few = tuple(_too_few(len(p_values), self.settings))
        return Comparisons(baseline, differences, holm(p_values), self.settings.confidence, few)


def compare(
    y_true: ArrayLike,
    y_pred_a: ArrayLike,
    y_pred_b: ArrayLike,
    groups: Any,
    *,
    reference: str = "between_groups",
    confidence: float = 0.95,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int = DRAWS,
) -> Comparison:
    """Compare two predictors on the same rows, b minus a.

    Intervals are percentiles of the paired bootstrap: the upward bias of a gap is in both terms
    and largely cancels where the gaps are alike. It does not where one gap is near 0 and the other
    is not: there the difference is too small in size, and in the worst simulated population the
    interval covered 54.5 % instead of 95 % (docs/measurement.md has the table).

    Args:
        y_true: shape (n,), labels 0 and 1.
        y_pred_a, y_pred_b: shape (n,), predictions 0 and 1 of the same rows in the same order;
            None or NaN where there is none.
        groups, reference, confidence, min_group_size, exclude, seed, draws: as in
            `measure`.

    Returns:
        A `Comparison`; a difference is undefined (None) where either metric is.

    Raises:
        MeasurementError: input that no metric is defined on, or an unknown setting.

    >>> y_true = [0, 0, 0, 1, 1, 1] * 20
    >>> fft = [0, 0, 1, 1, 1, 0] * 20
    >>> groups = ["a", "a", "b", "a", "b", "b"] * 20
    >>> merged = [0, 1, 1, 1, 1, 0] * 20
    >>> acc = compare(y_true, fft, merged, groups).metrics["acc"]
    >>> acc.value, acc.low, acc.high, acc.p_value
    (-0.16666666666666663, -0.2333333333333334, -0.10833333333333328, 0.0009995002498750624)
    """
    settings = MetricSettings(reference, confidence, min_group_size, exclude, seed, draws)
    predictions = {"y_pred_a": y_pred_a, "y_pred_b": y_pred_b}
    return _paired(y_true, predictions, groups, settings).difference("y_pred_a", "y_pred_b")


def compare_many(
    y_true: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    groups: Any,
    *,
    baseline: str,
    reference: str = "between_groups",
    confidence: float = 0.95,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int | None = None,
) -> Comparisons:
    """Compare every predictor with one of them, each minus the baseline, on the same draws.

    Args:
        predictions: name → predictions (n,) as in `compare`; at least two.
        baseline: the name that the others are compared with.
        y_true, groups, reference, confidence, min_group_size, exclude, seed: as in
            `compare`.
        draws: number of bootstrap replicates. Default: 2000, and more where so many tests are
            made that no corrected p-value could be small (10 · tests / (1 − confidence)).

    Raises:
        MeasurementError: an unknown baseline, nothing to compare, or as `compare`.

    >>> y_true = [0, 0, 0, 1, 1, 1] * 20
    >>> fft = [0, 0, 1, 1, 1, 0] * 20
    >>> groups = ["a", "a", "b", "a", "b", "b"] * 20
    >>> predictions = {"fft": fft, "merged": [0, 1, 1, 1, 1, 0] * 20, "copy": fft}
    >>> result = compare_many(y_true, predictions, groups, baseline="fft")
    >>> result.adjusted["merged", "acc"]
    0.005997001499250375
    >>> result.significant("merged", "acc"), result.significant("copy", "acc")
    (True, False)
    """
    least = DRAWS if draws is None else draws
    settings = MetricSettings(reference, confidence, min_group_size, exclude, seed, least)
    if draws is None:
        settings = settings.for_tests(len(HEADLINE) * (len(predictions) - 1))
    if baseline not in predictions or len(predictions) < 2:
        raise MeasurementError(
            "needs the baseline and at least one other predictor",
            where="predictions",
            got=f"baseline {baseline!r}",
            allowed=list(predictions),
        )
    return _paired(y_true, predictions, groups, settings).against(baseline)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Adjusted p-values: at any level α, "adjusted ≤ α" errs once or more with chance ≤ α.

    Sorted p₍₁₎ ≤ … ≤ p₍ₘ₎ become max_{j≤i} min(1, (m − j + 1) p₍ⱼ₎). Valid however the tests
    depend on each other.

    Args:
        p_values: name of a test → its p-value in [0, 1].

    >>> {name: round(p, 3) for name, p in holm({"a": 0.01, "b": 0.04, "c": 0.03}).items()}
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted, highest = {}, 0.0
    ordered = sorted(p_values, key=lambda key: p_values[key])
    for rank, key in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * p_values[key]))
        adjusted[key] = highest
    return {key: adjusted[key] for key in p_values}


def _paired(
    y_true: ArrayLike, predictions: Mapping[str, ArrayLike], groups: Any, settings: MetricSettings
) -> Paired:
    truth = binary_labels(y_true, "y_true")
    codes = {name: binary_predictions(predicted, name) for name, predicted in predictions.items()}
    return Paired.of(truth, codes, groups, settings)


def _metrics(
    cells: Counts, table: CountTable, eligible: EligibleGroups, settings: MetricSettings
) -> dict[str, Values]:
    counts = group_counts(cells, table.patterns), total(cells)
    return metric_values(*counts, eligible, settings.reference, COMPARED)


def _difference(value: float, drawn: Values, confidence: float) -> Difference:
    interval = around(value, (drawn,), percentile, confidence, (-1.0, 1.0))
    known = interval.low is not None
    p_value = _two_sided(drawn[np.isfinite(drawn)]) if known else None
    return Difference(**dict(interval), p_value=p_value)


def _two_sided(drawn: Values) -> float:
    """Twice the smaller tail at 0 of the replicates, at least 2 / (draws + 1): in (0, 1]."""
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + drawn.size))


def _too_few(tests: int, settings: MetricSettings) -> Iterator[str]:
    """Warn where Holm's correction leaves no p-value of these draws significant."""
    smallest = min(1.0, 2 * tests / (settings.draws + 1))
    if smallest > 1 - settings.confidence:
        yield (
            f"{settings.draws} bootstrap draws are too few for {tests} tests: no adjusted p-value "
            f"can be below {smallest:.2g}, so that nothing is significant; leave `draws` out"
        )
