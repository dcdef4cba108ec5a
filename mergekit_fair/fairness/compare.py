"""Two predictors, or many against one, on the same rows: paired differences with intervals."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.holm import holm
from mergekit_fair.fairness.paired import Comparison, Paired
from mergekit_fair.fairness.settings import DRAWS, MetricSettings

HEADLINE = ("acc", "dpd", "eod")  # what a winner is declared on


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
            :func:`measure`.

    Returns:
        A :class:`Comparison`; a difference is undefined (None) where either metric is.

    Raises:
        MeasurementError: input that no metric is defined on, or an unknown setting.
    """
    settings = MetricSettings(reference, confidence, min_group_size, exclude, seed, draws)
    paired = Paired.of(y_true, {"y_pred_a": y_pred_a, "y_pred_b": y_pred_b}, groups, settings)
    return paired.difference("y_pred_a", "y_pred_b")


@dataclass(frozen=True)
class Comparisons:
    """Many predictors against one, on the same rows.

    Attributes:
        baseline: whose metrics are subtracted.
        differences: name → :class:`Comparison` with the baseline as a.
        adjusted: (name, metric) → Holm-adjusted p-value, for ``acc``, ``dpd`` and ``eod`` of every
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
        """Return ``{name: {metric: {"value", "low", "high", "p_value", "adjusted_p_value"}}}``."""
        return {
            name: {
                metric: {**entry, "adjusted_p_value": self.adjusted.get((name, metric))}
                for metric, entry in comparison.to_dict().items()
            }
            for name, comparison in self.differences.items()
        }


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
        predictions: name → predictions (n,) as in :func:`compare`; at least two.
        baseline: the name that the others are compared with.
        y_true, groups, reference, confidence, min_group_size, exclude, seed: as in
            :func:`compare`.
        draws: number of bootstrap replicates. Default: 2000, and more where so many tests are
            made that no corrected p-value could be small (10 · tests / (1 − confidence)).

    Raises:
        MeasurementError: an unknown baseline, nothing to compare, or as :func:`compare`.
    """
    least = DRAWS if draws is None else draws
    settings = MetricSettings(reference, confidence, min_group_size, exclude, seed, least)
    if draws is None:
        settings = settings.for_tests(len(HEADLINE) * (len(predictions) - 1))
    return compare_all(y_true, predictions, groups, baseline, settings)


def compare_all(
    y_true: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    groups: Any,
    baseline: str,
    settings: MetricSettings,
) -> Comparisons:
    """As :func:`compare_many`, with the draws that the settings ask for."""
    if baseline not in predictions or len(predictions) < 2:
        raise MeasurementError(
            "needs the baseline and at least one other predictor",
            where="predictions",
            got=f"baseline {baseline!r}",
            allowed=list(predictions),
        )
    paired = Paired.of(y_true, predictions, groups, settings)
    differences = {
        name: paired.difference(baseline, name) for name in predictions if name != baseline
    }
    p_values = {
        (name, metric): p_value
        for name, comparison in differences.items()
        for metric in HEADLINE
        if (p_value := comparison.p_values[metric]) is not None
    }
    few = tuple(_too_few(len(p_values), settings.draws, settings.confidence))
    return Comparisons(baseline, differences, holm(p_values), settings.confidence, few)


def _too_few(tests: int, draws: int, confidence: float) -> Iterator[str]:
    """Warn where Holm's correction leaves no p-value of these draws significant."""
    smallest = min(1.0, 2 * tests / (draws + 1))
    if smallest > 1 - confidence:
        yield (
            f"{draws} bootstrap draws are too few for {tests} tests: no adjusted p-value can be "
            f"below {smallest:.2g}, so that nothing is significant; leave `draws` out"
        )
