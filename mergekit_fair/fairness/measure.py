"""From labels, predictions and groups to metrics with intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.fairness.against import differences_against
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.deciding import deciding_groups
from mergekit_fair.fairness.eligible_groups import EligibleGroups
from mergekit_fair.fairness.intervals import Samples, undefined_to_none
from mergekit_fair.fairness.measure_warnings import measurement_warnings
from mergekit_fair.fairness.measurement import (
    Gaps,
    GapSummary,
    GroupRates,
    LabelRates,
    Measurement,
    OneVsRest,
)
from mergekit_fair.fairness.metrics import GROUP_RATES, HEADLINE_GAPS, METRICS, metric_values
from mergekit_fair.fairness.rates import (
    Rate,
    Values,
    against_rest,
    base_rate,
    deviations,
    gap,
    gap_of,
    is_degenerate,
    largest,
    mean,
)
from mergekit_fair.fairness.settings import DRAWS, MetricSettings
from mergekit_fair.fairness.uncertainty import gap_uncertainty


def measure(
    y_true: ArrayLike,
    y_pred: ArrayLike,
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
    against: str | None = None,
) -> Measurement:
    """Measure accuracy, DPD, EOD and their intervals for binary predictions.

    Rows are taken to be independent unless `clusters` says otherwise: copies of an example, such as
    translations, several prompts or fillings of a template, make every interval too narrow.

    Args:
        y_true: shape (n,), labels, integers or booleans 0 and 1.
        y_pred: shape (n,), predictions, likewise; probabilities are refused. None and NaN mean
            that there is no usable prediction: an error for accuracy, left out of rates, counted
            per group; where they are more than 5 % of a deciding group, gaps are undefined.
        groups: one label per row, or a collection of labels per row (empty or None = in no
            group), or a mapping name -> boolean mask (n,). Groups may overlap.
        weights: shape (n,), what each row counts for, such as the weights of a survey: finite,
            >= 0; None: all alike. Rates are shares of weight, and rows are resampled with their
            weights. `n` and `min_group_size` count rows. A row of weight 0 is left out.
        clusters: shape (n,), what each row belongs to that is sampled as a whole: the template, the
            author; texts or numbers, None for a row of its own. Whole clusters are resampled. With
            few of them, or few in a group, limits are those of Student's t; there is a warning.
        reference: what `metrics["dpd"]` and `["eod"]` compare with: `between_groups`
            (max − min), `one_vs_rest` (its worst group) or `to_overall`. The other
            references are reported too, without intervals.
        confidence: of the intervals, in (0, 1).
        min_group_size: groups with fewer rows are reported but decide no maximum.
        exclude: names of groups ("other") that are reported but decide no maximum.
        seed: of the bootstrap; the same rows, in any order, give the same result.
        draws: number of bootstrap replicates.
        against: name of a group: the result also has every other group's rates minus those of this
            one, with their signs.

    Returns:
        A `Measurement`; rates lie in [0, 1], None means undefined, with the reason under
        `warnings`.

    Raises:
        MeasurementError: input that no metric is defined on, or an unknown setting.

    Source: METHODS §1 (arXiv 2505.24262); intervals: `mergekit_fair.fairness.intervals`,
    `mergekit_fair.fairness.uncertainty`.

    >>> y_true = [0, 0, 0, 1, 1, 1] * 20
    >>> y_pred = [0, 0, 1, 1, 1, 0] * 20
    >>> groups = ["a", "a", "b", "a", "b", "b"] * 20
    >>> result = measure(y_true, y_pred, groups)
    >>> result.metrics["dpd"]
    Interval(value=0.3333333333333333, low=0.14009837280369772, high=0.5066683501683502)
    >>> result.groups["b"].tpr, result.degenerate, result.warnings
    (0.5, False, ())
    >>> measure([1, 1], [1, None], ["a", "b"], draws=100).metrics["fpr"].value is None
    True
    """
    settings = MetricSettings(reference, confidence, min_group_size, exclude, seed, draws, against)
    table = CountTable.tally(y_true, y_pred, groups, weights, clusters)
    return measure_table(table, settings)


def measure_table(table: CountTable, settings: MetricSettings | None = None) -> Measurement:
    """Measure rows that are already counted; otherwise as `measure`.

    >>> cells = np.array([[[40, 10], [10, 40]], [[20, 20], [5, 15]]])  # by group, y and ŷ
    >>> table = CountTable(("a", "b"), np.eye(2, dtype=bool), cells)
    >>> measure_table(table, MetricSettings(confidence=0.9)).metrics["eod"]
    Interval(value=0.3, low=0.06304048666771814, high=0.455565011820331)
    """
    settings = settings or MetricSettings()
    samples = Samples.of(table, settings)
    overall = samples.counts.overall
    intervals = {
        name: metric.interval(samples) for name, metric in METRICS.items() if not metric.is_point
    }
    return Measurement(
        n=table.n,
        n_pos=int(samples.rows.overall[1].sum()),
        weighted=table.weights is not None,
        clusters=None if table.clusters is None else len(table.clusters),
        unanswered=int(samples.rows.overall[..., 2].sum()),
        reference=settings.reference,
        confidence=float(settings.confidence),
        degenerate=bool(is_degenerate(overall)),
        metrics=intervals,
        uncertainty={
            name: gap_uncertainty(metric, samples, intervals[name])
            for name, metric in HEADLINE_GAPS.items()
        },
        between_groups=_gaps(samples, "between_groups"),
        one_vs_rest=_one_vs_rest(samples),
        to_overall=_gaps(samples, "to_overall"),
        labels=LabelRates(
            base_rate=undefined_to_none(float(base_rate(overall))),
            dpd=_gap_of_labels(samples),
        ),
        groups=_group_rates(samples),
        deciding=deciding_groups(samples),
        against=(
            None if settings.against is None else differences_against(samples, settings.against)
        ),
        warnings=tuple(measurement_warnings(samples, intervals)),
    )


def estimate(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: Any,
    *,
    weights: ArrayLike | None = None,
    reference: str = "between_groups",
    min_group_size: int = 1,
    exclude: Collection[str] = (),
) -> dict[str, float]:
    """Point values of every metric, without intervals; arguments as in `measure`.

    Returns:
        Name → value, for every metric of `METRICS` in its order: floats in [0, 1], NaN where
        undefined.

    Raises:
        MeasurementError: input that no metric is defined on, or an unknown setting.

    >>> values = estimate([0, 0, 1, 1], [0, 1, 1, 1], ["a", "a", "b", "b"])
    >>> values["acc"], values["dpd"], values["eod"]
    (0.75, 0.5, nan)
    """
    settings = MetricSettings(reference, min_group_size=min_group_size, exclude=exclude)
    table = CountTable.tally(y_true, y_pred, groups, weights)
    return estimate_table(table, settings)


def estimate_table(table: CountTable, settings: MetricSettings | None = None) -> dict[str, float]:
    """Point values of rows that are already counted; otherwise as `estimate`."""
    settings = settings or MetricSettings()
    values = metric_values(table.counts, EligibleGroups.of(table, settings), settings.reference)
    return {name: float(value) for name, value in values.items()}


def _gap_of_labels(samples: Samples) -> float | None:
    """The labels have one, however many predictions are missing."""
    rates, reference = (base_rate,), samples.reference
    decides = samples.eligible.sizes.deciding(rates, reference)
    return undefined_to_none(float(gap_of(rates, samples.counts, decides, reference)))


def _gaps(samples: Samples, reference: str) -> Gaps:
    values = {
        name: float(metric.values(samples.counts, samples.eligible, reference))
        for name, metric in HEADLINE_GAPS.items()
    }
    return Gaps(**{name: undefined_to_none(value) for name, value in values.items()})


def _one_vs_rest(samples: Samples) -> OneVsRest:
    """Every group's gap to its rest; mean and maximum over the groups that may decide.

    A group without a TPR has no EOD of its own and takes no part in the mean; its FPR still decides
    the maximum, as it does between groups.
    """
    names = samples.table.groups
    by_group = {
        name: _column(against_rest(metric.rates, samples.counts))
        for name, metric in HEADLINE_GAPS.items()
    }
    return OneVsRest(
        **{name: _summary(metric.rates, samples) for name, metric in HEADLINE_GAPS.items()},
        groups={
            group: Gaps(**{name: column[row] for name, column in by_group.items()})
            for row, group in enumerate(names)
        },
    )


def _summary(rates: Sequence[Rate], samples: Samples) -> GapSummary:
    reference = "one_vs_rest"
    decides = samples.eligible.comparable(rates, reference)
    deviation = np.abs(deviations(rates, samples.counts, decides, reference))
    worst = gap(deviation, reference)
    # Two groups that share out the rows always tie: the first name wins, in any order of groups.
    names = zip(samples.table.groups, largest(deviation.swapaxes(-1, -2)), strict=True)
    return GapSummary(
        macro=undefined_to_none(float(mean(deviation.max(axis=-2)))),
        worst=undefined_to_none(float(worst)),
        worst_group=min((name for name, size in names if size == worst), default=None),
    )


def _group_rates(samples: Samples) -> dict[str, GroupRates]:
    names, rows, counts = samples.table.groups, samples.rows.groups, samples.counts.groups
    columns: dict[str, list[Any]] = {
        "n": rows.sum(axis=(-2, -1)).tolist(),
        "n_pos": rows[:, 1].sum(axis=-1).tolist(),
        **{name: _column(rate.function(counts)) for name, rate in GROUP_RATES.items()},
        "unanswered": rows[..., 2].sum(axis=-1).tolist(),
    }
    return {
        name: GroupRates(**dict(zip(columns, row, strict=True)))
        for name, row in zip(names, zip(*columns.values(), strict=True), strict=True)
    }


def _column(values: Values) -> list[float | None]:
    return [undefined_to_none(value) for value in values.tolist()]
