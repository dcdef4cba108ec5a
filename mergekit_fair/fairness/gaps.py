"""DPD, EOD and equal opportunity: how far groups lie apart, under three references.

    between_groups  max_g r_g − min_g r_g                   fairlearn's default
    one_vs_rest     |r_g − r_{not g}| per group             macro = mean, worst = max over g
    to_overall      max_g |r_g − r|                         fairlearn's method="to_overall"

with r the selection rate (DPD), the TPR (equal opportunity), or TPR and FPR (EOD, the larger of
their two gaps). Ratios min_g r_g / max_g r_g compare groups with each other only. "Not g" and
"overall" run over all rows, those in no group included, so groups may overlap. Source: METHODS §1
(arXiv 2505.24262); equal to fairlearn when the groups partition the data and all rates are
defined. Where fairlearn gives a group without positives a TPR of 0, it is left out here.

Common arguments:
    groups: counts (..., G, 2, 3).
    overall: counts (..., 2, 3) over all rows; ``between_groups`` does not read it.
    usable: bool (G,), the groups that may decide a maximum or enter a mean. It belongs to the
        data set, and stays fixed over bootstrap replicates.
    reference: one of REFERENCES; ``one_vs_rest`` stands for its worst group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mergekit_fair.fairness.counts import Counts
from mergekit_fair.fairness.metrics import (
    Mask,
    Values,
    false_positive_rate,
    largest,
    ratio,
    selection_rate,
    smallest,
    spread,
    true_positive_rate,
)
from mergekit_fair.fairness.settings import check_reference

Rate = Callable[[Counts], Values]
DPD_RATES: tuple[Rate, ...] = (selection_rate,)
EOD_RATES: tuple[Rate, ...] = (true_positive_rate, false_positive_rate)
OPPORTUNITY_RATES: tuple[Rate, ...] = (true_positive_rate,)


def demographic_parity_difference(
    groups: Counts, overall: Counts, usable: Mask, *, reference: str = "between_groups"
) -> Values:
    """Gap of the selection rates P(ŷ = 1 | g).

    Returns:
        (...), in [0, 1], 0 means parity; NaN with fewer than two usable groups that have rows.

    Raises:
        MeasurementError: an unknown reference.
    """
    return gap(deviations(DPD_RATES, groups, overall, usable, reference), reference)


def equalized_odds_difference(
    groups: Counts, overall: Counts, usable: Mask, *, reference: str = "between_groups"
) -> Values:
    """The larger of the TPR gap and the FPR gap.

    Returns:
        (...), in [0, 1], 0 means equal odds. A part with fewer than two defined rates is left
        out; NaN when both parts are.

    Raises:
        MeasurementError: an unknown reference.
    """
    return gap(deviations(EOD_RATES, groups, overall, usable, reference), reference)


def equal_opportunity_difference(
    groups: Counts, overall: Counts, usable: Mask, *, reference: str = "between_groups"
) -> Values:
    """Gap of the TPR alone (Hardt et al. 2016, arXiv 1610.02413).

    Returns:
        (...), in [0, 1], 0 means equal opportunity; NaN with fewer than two defined TPRs.

    Raises:
        MeasurementError: an unknown reference.
    """
    return gap(deviations(OPPORTUNITY_RATES, groups, overall, usable, reference), reference)


def demographic_parity_ratio(groups: Counts, usable: Mask) -> Values:
    """min_g SR_g / max_g SR_g: (...), in [0, 1], 1 means parity ("four-fifths rule": ≥ 0.8).

    NaN with fewer than two usable groups that have rows, or when no row of any is selected.
    """
    return ratio(np.where(usable, selection_rate(groups), np.nan))


def equalized_odds_ratio(groups: Counts, usable: Mask) -> Values:
    """The smaller of the ratios of TPR and of FPR: (...), in [0, 1], 1 means equal odds.

    A part that is undefined (fewer than two defined rates, or all of them 0) is left out; NaN when
    both parts are.
    """
    rates = np.stack([rate(groups) for rate in EOD_RATES], axis=-2)
    return smallest(ratio(np.where(usable, rates, np.nan)))


def dpd_against_rest(groups: Counts, overall: Counts) -> Values:
    """|SR_g − SR_{not g}| per group: (..., G), NaN where g or its rest has no rows."""
    return np.abs(_against_rest(selection_rate, groups, overall))


def eod_against_rest(groups: Counts, overall: Counts) -> Values:
    """max(|TPR_g − TPR_{not g}|, |FPR_g − FPR_{not g}|) per group: (..., G).

    A part that is undefined for g or for its rest is left out; NaN where both are.
    """
    return np.fmax(
        np.abs(_against_rest(true_positive_rate, groups, overall)),
        np.abs(_against_rest(false_positive_rate, groups, overall)),
    )


def deviations(
    rates: Sequence[Rate], groups: Counts, overall: Counts, usable: Mask, reference: str
) -> Values:
    """The signed numbers that a gap is the size of.

    Rates themselves for ``between_groups``, else rates minus those of the rest or of all rows.

    Returns:
        (..., R, G), one line per rate. NaN for unusable groups and undefined rates, and for a
        whole line where fewer than two usable groups have the rate.
    """
    check_reference(reference)
    return np.stack(
        [_deviation(rate, groups, overall, usable, reference) for rate in rates], axis=-2
    )


def gap(deviation: Values, reference: str) -> Values:
    """Size of deviations (..., R, G) -> (...): the largest over rates of range or magnitude."""
    lines = spread(deviation) if reference == "between_groups" else largest(np.abs(deviation))
    return largest(lines)


def _deviation(rate: Rate, groups: Counts, overall: Counts, usable: Mask, reference: str) -> Values:
    rates = rate(groups)
    deviation = rates
    if reference == "one_vs_rest":
        deviation = _against_rest(rate, groups, overall)
    elif reference == "to_overall":
        deviation = rates - rate(overall)[..., np.newaxis]
    enough = (np.isfinite(rates) & usable).sum(axis=-1, keepdims=True) >= 2
    return np.where(usable & enough, deviation, np.nan)


def _against_rest(rate: Rate, groups: Counts, overall: Counts) -> Values:
    rest = overall[..., np.newaxis, :, :] - groups
    return rate(groups) - rate(rest)
