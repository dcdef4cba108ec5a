"""From labels, predictions and groups to metrics with intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.fairness import metrics
from mergekit_fair.fairness.counts import Counts, CountTable
from mergekit_fair.fairness.gaps import (
    DPD_RATES,
    EOD_RATES,
    Rate,
    deviations,
    dpd_against_rest,
    eod_against_rest,
    gap,
)
from mergekit_fair.fairness.intervals import undefined_to_none
from mergekit_fair.fairness.measure_warnings import notes
from mergekit_fair.fairness.measurement import Gaps, GroupRates, Measurement, Summary
from mergekit_fair.fairness.metrics import Mask, Values
from mergekit_fair.fairness.point_metrics import Deciding
from mergekit_fair.fairness.settings import DRAWS, MetricSettings
from mergekit_fair.fairness.uncertainty import Evidence


def measure(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: Any,
    *,
    reference: str = "between_groups",
    confidence: float = 0.95,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int = DRAWS,
) -> Measurement:
    """Measure accuracy, DPD, EOD and their intervals for binary predictions.

    Rows are taken to be independent: copies of an example, such as translations or several prompts
    for it, make every interval too narrow.

    Args:
        y_true: shape (n,), labels, integers or booleans 0 and 1.
        y_pred: shape (n,), predictions, likewise; probabilities are refused. None and NaN mean
            that there is no usable prediction: an error for accuracy, left out of rates, counted
            per group; where they are more than 5 % of a deciding group, gaps are undefined.
        groups: one label per row, or a collection of labels per row (empty or None = in no
            group), or a mapping name -> boolean mask (n,). Groups may overlap.
        reference: what ``metrics["dpd"]`` and ``["eod"]`` compare with: ``between_groups``
            (max − min), ``one_vs_rest`` (its worst group) or ``to_overall``. The other
            references are reported too, without intervals.
        confidence: of the intervals, in (0, 1).
        min_group_size: groups with fewer rows are reported but decide no maximum.
        exclude: names of groups ("other") that are reported but decide no maximum.
        seed: of the bootstrap; the same rows, in any order, give the same result.
        draws: number of bootstrap replicates.

    Returns:
        A :class:`Measurement`; rates lie in [0, 1], None means undefined, with the reason under
        ``warnings``.

    Raises:
        MeasurementError: input that no metric is defined on, or an unknown setting.

    Source: METHODS §1 (arXiv 2505.24262); intervals: :mod:`mergekit_fair.fairness.intervals`,
    :mod:`mergekit_fair.fairness.wilson_band`, :mod:`mergekit_fair.fairness.permutation`.
    """
    settings = MetricSettings(reference, confidence, min_group_size, exclude, seed, draws)
    return measure_table(CountTable.tally(y_true, y_pred, groups), settings)


def measure_table(table: CountTable, settings: MetricSettings | None = None) -> Measurement:
    """Measure rows that are already counted; otherwise as :func:`measure`."""
    settings = settings or MetricSettings()
    reference = settings.reference
    deciding = Deciding.of(table, settings)
    evidence = Evidence(table, deciding, settings)
    groups, overall = evidence.counts
    usable = deciding.comparable
    intervals = evidence.intervals()

    def gaps(of: str) -> Gaps:
        return Gaps(*(_gap(rates, groups, overall, usable, of) for rates in (DPD_RATES, EOD_RATES)))

    return Measurement(
        n=table.n,
        unanswered=int(overall[..., 2].sum()),
        reference=reference,
        confidence=settings.confidence,
        degenerate=bool(metrics.is_degenerate(overall)),
        metrics=intervals,
        uncertainty={name: evidence.uncertainty(name, intervals[name]) for name in ("dpd", "eod")},
        between_groups=gaps("between_groups"),
        to_overall=gaps("to_overall"),
        one_vs_rest={
            "dpd": _summary(DPD_RATES, table.groups, groups, overall, usable),
            "eod": _summary(EOD_RATES, table.groups, groups, overall, usable),
        },
        base_rate=undefined_to_none(float(metrics.base_rate(overall))),
        label_dpd=_gap((metrics.base_rate,), groups, overall, deciding.groups, reference),
        groups=_group_rates(table.groups, groups, overall),
        warnings=tuple(notes(table.groups, groups, overall, deciding, settings, intervals)),
    )


def _gap(
    rates: Sequence[Rate], groups: Counts, overall: Counts, usable: Mask, reference: str
) -> float | None:
    deviation = deviations(rates, groups, overall, usable, reference)
    return undefined_to_none(float(gap(deviation, reference)))


def _summary(
    rates: Sequence[Rate], names: tuple[str, ...], groups: Counts, overall: Counts, usable: Mask
) -> Summary:
    """Mean and maximum over usable groups of the one-vs-rest gap."""
    deviation = deviations(rates, groups, overall, usable, "one_vs_rest")
    per_group: Values = metrics.largest(np.abs(deviation).swapaxes(-1, -2))
    worst = metrics.largest(per_group)
    # Two groups that share out the rows always tie: the first name wins, in any order of groups.
    worst_names = [name for name, of in zip(names, per_group, strict=True) if of == worst]
    return Summary(
        macro=undefined_to_none(float(metrics.mean(per_group))),
        worst=undefined_to_none(float(worst)),
        worst_group=min(worst_names, default=None),
    )


def _group_rates(names: tuple[str, ...], groups: Counts, overall: Counts) -> dict[str, GroupRates]:
    def column(rates: Values) -> list[float | None]:
        return [undefined_to_none(rate) for rate in rates.tolist()]

    against_rest = zip(
        column(dpd_against_rest(groups, overall)),
        column(eod_against_rest(groups, overall)),
        strict=True,
    )
    rows = zip(
        groups.sum(axis=(-2, -1)).tolist(),
        groups[:, 1].sum(axis=-1).tolist(),
        column(metrics.selection_rate(groups)),
        column(metrics.true_positive_rate(groups)),
        column(metrics.false_positive_rate(groups)),
        column(metrics.accuracy(groups)),
        column(metrics.balanced_accuracy(groups)),
        groups[..., 2].sum(axis=-1).tolist(),
        (Gaps(dpd, eod) for dpd, eod in against_rest),
        strict=True,
    )
    return {name: GroupRates(*row) for name, row in zip(names, rows, strict=True)}
