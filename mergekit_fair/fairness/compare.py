"""Two predictors, or many against one, on the same rows: paired differences with intervals.

Both predictions of a row are resampled together: the bootstrap draws over joint cells
(pattern, y, ŷ_a, ŷ_b). What the predictors share cancels, so a difference is known far better
than from separate intervals. How draws become an interval: `pair`, and `inversion` for gaps.

Every pair is drawn by itself, in an order that the rows decide and no name does: b − a is the exact
opposite of a − b, and a third predictor changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import Column, Patterns, checked_codes, groups_of
from mergekit_fair.fairness.labels import (
    UNANSWERED,
    binary_labels,
    binary_predictions,
    same_length,
)
from mergekit_fair.fairness.measure_warnings import (
    draw_warnings,
    interval_warnings,
    nameless_warnings,
    weightless_warnings,
)
from mergekit_fair.fairness.metrics import COMPARED, HEADLINE
from mergekit_fair.fairness.pair import Difference, PairedCells
from mergekit_fair.fairness.settings import DRAWS, MetricSettings

Key = TypeVar("Key", bound=Hashable)


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
    """

    baseline: str
    differences: dict[str, Comparison]
    adjusted: dict[tuple[str, str], float]
    confidence: float

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
    """Several predictors of the same rows, any two of which can be compared.

    Attributes:
        patterns: groups and weights of the rows.
        labels: int8 (m,), of the rows that count.
        answers: predictor → int8 (m,), likewise: 0, 1 or UNANSWERED.
        settings: how they are measured.
    """

    patterns: Patterns
    labels: Column
    answers: Mapping[str, Column]
    settings: MetricSettings

    @classmethod
    def of(
        cls,
        truth: Column,
        predictions: Mapping[str, Column],
        groups: Any,
        settings: MetricSettings,
        weights: ArrayLike | None = None,
        clusters: Any = None,
    ) -> Paired:
        """Of rows whose labels and predictions are codes.

        Args:
            truth: shape (n,), integers 0 and 1.
            predictions: name → shape (n,), integers 0, 1 and `UNANSWERED`.
            groups, weights, clusters: as in `measure`.
            settings: how to measure.

        Raises:
            MeasurementError: another code, other rows, or as `measure`.
        """
        labels = checked_codes(truth, (0, 1), "y_true")
        # Of groups that tie the first decides: by name, not by how they were passed.
        members = groups_of(groups, len(labels)).by_name()
        patterns = Patterns.of(members, len(labels), weights, clusters)
        answers = {}
        for name, column in predictions.items():
            codes = checked_codes(column, (0, 1, UNANSWERED), name)
            same_length(labels, codes, name)
            answers[name] = codes[patterns.rows]
        return cls(patterns, labels[patterns.rows], answers, settings)

    def difference(self, a: str, b: str, names: Sequence[str] = COMPARED) -> Comparison:
        """b minus a, in all compared metrics or some."""
        pair = PairedCells.of(self.patterns, self.labels, self.answers[a], self.answers[b])
        differences = pair.differences(self.settings, names)
        undefined = [
            f"the difference in {name} is undefined"
            for name, difference in differences.items()
            if difference.value is None
        ]
        warnings = (
            *weightless_warnings(self.patterns.weightless),
            *nameless_warnings(self.patterns.names),
            *undefined,
            *interval_warnings(differences),
            *draw_warnings(self.settings),
        )
        reference, confidence = self.settings.reference, self.settings.confidence
        return Comparison(len(self.labels), reference, confidence, differences, warnings)

    def against(self, baseline: str) -> Comparisons:
        """Every other predictor minus the baseline, p-values corrected for their number."""
        differences = {
            name: self.difference(baseline, name) for name in self.answers if name != baseline
        }
        p_values = {
            (name, metric): p_value
            for name, comparison in differences.items()
            for metric in HEADLINE
            if (p_value := comparison.metrics[metric].p_value) is not None
        }
        return Comparisons(baseline, differences, holm(p_values), self.settings.confidence)


def compare(
    y_true: ArrayLike,
    y_pred_a: ArrayLike,
    y_pred_b: ArrayLike,
    groups: Any,
    *,
    weights: ArrayLike | None = None,
    clusters: Any = None,
    reference: str = "between_groups",
    confidence: float = 0.95,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int = DRAWS,
) -> Comparison:
    """Compare two predictors on the same rows, b minus a.

    `compare(y, a, b, …)` is the exact opposite of `compare(y, b, a, …)`: every value with the other
    sign, limits with the other sign and in the other place, the same p-values.

    A gap is overestimated where it is near 0, and the more so the more people a model selects: the
    difference of two estimates is biased unless the gaps are alike. So intervals and p-values of
    gaps come from inverting a test that knows the bias (`mergekit_fair.fairness.inversion`). In
    every simulated population they cover at least 92 % instead of 95 %, and "significant" is wrong
    in at most 5 % where there is no difference (docs/measurement.md has the tables).

    Args:
        y_true: shape (n,), labels 0 and 1.
        y_pred_a, y_pred_b: shape (n,), predictions 0 and 1 of the same rows in the same order;
            None or NaN where there is none.
        groups, weights, clusters, reference, confidence, min_group_size, exclude, seed, draws: as
            in `measure`.

    Returns:
        A `Comparison`; a difference is undefined (None) where either metric is.

    Raises:
        MeasurementError: input that no metric is defined on, or an unknown setting.

    >>> y_true = [0, 0, 0, 1, 1, 1] * 20
    >>> fft = [0, 0, 1, 1, 1, 0] * 20
    >>> groups = ["a", "a", "b", "a", "b", "b"] * 20
    >>> merged = [0, 1, 1, 1, 1, 0] * 20
    >>> acc = compare(y_true, fft, merged, groups).metrics["acc"]
    >>> round(acc.value, 3), round(acc.low, 2), round(acc.high, 2), acc.p_value < 0.001
    (-0.167, -0.23, -0.09, True)
    """
    settings = MetricSettings(reference, confidence, min_group_size, exclude, seed, draws)
    predictions = {"y_pred_a": y_pred_a, "y_pred_b": y_pred_b}
    paired = _paired(y_true, predictions, groups, settings, weights, clusters)
    return paired.difference("y_pred_a", "y_pred_b")


def compare_many(
    y_true: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    groups: Any,
    *,
    baseline: str,
    weights: ArrayLike | None = None,
    clusters: Any = None,
    reference: str = "between_groups",
    confidence: float = 0.95,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int = DRAWS,
) -> Comparisons:
    """Compare every predictor with one of them, each minus the baseline, as `compare` does.

    Args:
        predictions: name → predictions (n,) as in `compare`; at least two.
        baseline: the name that the others are compared with.
        y_true, groups, weights, clusters, reference, confidence, min_group_size, exclude, seed: as
            in `compare`.

    Raises:
        MeasurementError: an unknown baseline, nothing to compare, or as `compare`.

    >>> y_true = [0, 0, 0, 1, 1, 1] * 20
    >>> fft = [0, 0, 1, 1, 1, 0] * 20
    >>> groups = ["a", "a", "b", "a", "b", "b"] * 20
    >>> predictions = {"fft": fft, "merged": [0, 1, 1, 1, 1, 0] * 20, "copy": fft}
    >>> result = compare_many(y_true, predictions, groups, baseline="fft")
    >>> result.adjusted["merged", "acc"] < 0.01
    True
    >>> result.significant("merged", "acc"), result.significant("copy", "acc")
    (True, False)
    """
    settings = MetricSettings(reference, confidence, min_group_size, exclude, seed, draws)
    if baseline not in predictions or len(predictions) < 2:
        raise MeasurementError(
            "needs the baseline and at least one other predictor",
            where="predictions",
            got=f"baseline {baseline!r}",
            allowed=list(predictions),
        )
    return _paired(y_true, predictions, groups, settings, weights, clusters).against(baseline)


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
    y_true: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    groups: Any,
    settings: MetricSettings,
    weights: ArrayLike | None,
    clusters: Any,
) -> Paired:
    truth = binary_labels(y_true, "y_true")
    codes = {name: binary_predictions(predicted, name) for name, predicted in predictions.items()}
    return Paired.of(truth, codes, groups, settings, weights, clusters)
