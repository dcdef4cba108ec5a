"""From labels, predictions and groups to metrics with intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.fairness import metrics
from mergekit_fair.fairness.counts import Counts, CountTable, group_counts, total
from mergekit_fair.fairness.gaps import (
    DPD_RATES,
    EOD_RATES,
    Rate,
    check_reference,
    deviations,
    dpd_against_rest,
    eod_against_rest,
    gap,
)
from mergekit_fair.fairness.intervals import (
    Interval,
    around,
    check_settings,
    conservative,
    conservative_minimum,
    percentile,
    replicates,
    undefined_to_none,
    wilson,
)
from mergekit_fair.fairness.measurement import Gaps, GroupRates, Measurement, Summary
from mergekit_fair.fairness.metrics import Mask, Values
from mergekit_fair.fairness.notes import group_notes, interval_notes, table_notes
from mergekit_fair.fairness.usable import usable_groups


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
    draws: int = 2000,
) -> Measurement:
    """Measure accuracy, DPD, EOD and their intervals for binary predictions.

    Args:
        y_true: shape (n,), labels, integers or booleans 0 and 1.
        y_pred: shape (n,), predictions, likewise; probabilities are refused.
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

    Source: METHODS §1 (arXiv 2505.24262); intervals: :mod:`mergekit_fair.fairness.intervals`.
    """
    return measure_table(
        CountTable.tally(y_true, y_pred, groups),
        reference=reference,
        confidence=confidence,
        min_group_size=min_group_size,
        exclude=exclude,
        seed=seed,
        draws=draws,
    )


def measure_table(
    table: CountTable,
    *,
    reference: str = "between_groups",
    confidence: float = 0.95,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int = 2000,
) -> Measurement:
    """Measure rows that are already counted; otherwise as :func:`measure`."""
    check_reference(reference)
    check_settings(confidence, draws)
    groups, overall = group_counts(table.cells, table.patterns), total(table.cells)
    usable = usable_groups(table.groups, groups, min_group_size, exclude)
    drawn = replicates(table.cells, draws, seed)
    intervals = _intervals(table, drawn, usable, reference, confidence)

    def gaps(of: str) -> Gaps:
        return Gaps(*(_gap(rates, groups, overall, usable, of) for rates in (DPD_RATES, EOD_RATES)))

    return Measurement(
        n=table.n,
        reference=reference,
        confidence=confidence,
        degenerate=bool(metrics.is_degenerate(overall)),
        metrics=intervals,
        between_groups=gaps("between_groups"),
        to_overall=gaps("to_overall"),
        one_vs_rest={
            "dpd": _summary(DPD_RATES, table.groups, groups, overall, usable),
            "eod": _summary(EOD_RATES, table.groups, groups, overall, usable),
        },
        base_rate=undefined_to_none(float(metrics.base_rate(overall))),
        label_dpd=_gap((metrics.base_rate,), groups, overall, usable, reference),
        groups=_group_rates(table.groups, groups, overall),
        warnings=(
            *table_notes(groups, overall, usable, reference),
            *group_notes(table.groups, groups, overall, min_group_size),
            *interval_notes(intervals),
        ),
    )


def _intervals(
    table: CountTable, drawn: Counts, usable: Mask, reference: str, confidence: float
) -> dict[str, Interval]:
    groups, overall = group_counts(table.cells, table.patterns), total(table.cells)
    drawn_groups, drawn_overall = group_counts(drawn, table.patterns), total(drawn)

    def gap_interval(rates: Sequence[Rate]) -> Interval:
        estimate = deviations(rates, groups, overall, usable, reference)
        sample = deviations(rates, drawn_groups, drawn_overall, usable, reference)
        samples = gap(sample, reference), gap(sample - estimate, reference)
        return around(float(gap(estimate, reference)), samples, conservative, confidence)

    return {
        "acc": _proportion(int(overall[0, 0] + overall[1, 1]), table.n, confidence),
        "dpd": gap_interval(DPD_RATES),
        "eod": gap_interval(EOD_RATES),
        "bal_acc": around(
            float(metrics.balanced_accuracy(overall)),
            (metrics.balanced_accuracy(drawn_overall),),
            percentile,
            confidence,
        ),
        "worst_group_acc": _worst_accuracy(groups, drawn_groups, usable, confidence),
        "selection_rate": _proportion(int(overall[:, 1].sum()), table.n, confidence),
    }


def _proportion(successes: int, n: int, confidence: float) -> Interval:
    return Interval(successes / n, *wilson(successes, n, confidence))


def _worst_accuracy(groups: Counts, drawn: Counts, usable: Mask, confidence: float) -> Interval:
    losses = metrics.accuracy(groups) - metrics.accuracy(drawn)
    samples = (
        metrics.worst_group_accuracy(drawn, usable),
        metrics.largest(np.where(usable, losses, np.nan)),
    )
    value = float(metrics.worst_group_accuracy(groups, usable))
    return around(value, samples, conservative_minimum, confidence)


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
    worst = undefined_to_none(float(metrics.largest(per_group)))
    return Summary(
        macro=undefined_to_none(float(metrics.mean(per_group))),
        worst=worst,
        worst_group=None if worst is None else names[int(np.nanargmax(per_group))],
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
        (Gaps(dpd, eod) for dpd, eod in against_rest),
        strict=True,
    )
    return {name: GroupRates(*row) for name, row in zip(names, rows, strict=True)}
