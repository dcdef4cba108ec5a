"""Rates of counts, and how far groups lie apart in them: pure functions, vectorised.

Counts are arrays (..., 2, 3) of rows by [y, ŷ], or (..., G, 2, 3) with one table per group, so
one call serves a data set and thousands of its bootstrap replicates. The third ŷ, "no usable
prediction", is an error for accuracy, and is left out of rates of predictions; how often it
occurs is a rate of its own. Counts (..., 2, 2) without it are taken too.

Everywhere: values lie in [0, 1]; NaN means undefined (no rows to compute a rate from, fewer than
two groups to compare), never 0. A group whose rate is undefined is left out of the range of that
rate; a gap of several rates is undefined as soon as one of them cannot be compared.

How far groups lie apart, under three references:

    between_groups  max_g r_g − min_g r_g                   fairlearn's default
    one_vs_rest     |r_g − r_{not g}| per group             macro = mean, worst = max over g
    to_overall      max_g |r_g − r|                         fairlearn's method="to_overall"

with one rate r, or the largest over several rates, all of which have to be defined. "Not g" and
"overall" run over all rows, those in no group included, so groups may overlap. Source: METHODS §1
(arXiv 2505.24262); equal to fairlearn when the groups partition the data and all rates are
defined. Where fairlearn gives a group without positives a TPR of 0, it is left out here.

Common arguments:
    counts: `Grouped`, of one table or of many. Where rows are weighted they are weights.
    eligible: bool (G,), or (R, G) with a line for each rate: the groups that may decide a maximum
        or enter a mean. It belongs to the data set, and stays fixed over bootstrap replicates.
    reference: one of `settings.REFERENCES`; `one_vs_rest` stands for its worst group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.grouped import Counts, Grouped
from mergekit_fair.fairness.settings import check_reference

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]

RARE = 0.05


@dataclass(frozen=True)
class Rate:
    """A share of rows, part / whole; NaN where there are no rows in `whole`.

    Attributes:
        symbol: what it estimates, e.g. `P(ŷ = 1 | y = 1)`.
        part, whole: numbers of rows of counts (..., 2, 3) -> (...).
        labels: of the rows that it says something about, whatever is predicted for them: their
            number decides whether a group's rate may decide a gap.

    >>> counts = np.array([[[50, 10, 0], [5, 35, 0]]])
    >>> true_positive_rate(counts)
    array([0.875])
    """

    symbol: str
    part: Callable[[Counts], NDArray[Any]]
    whole: Callable[[Counts], NDArray[Any]]
    labels: tuple[int, ...] = (0, 1)

    def __call__(self, counts: Counts) -> Values:
        return _ratio(self.part(counts), self.whole(counts))

    def pairs(self, counts: Counts, squares: Counts | None = None) -> list[tuple[float, float]]:
        """(part, whole) of every table of (G, 2, 3) that has rows in `whole`.

        With weights both are effective numbers of rows: the whole is (Σw)² / Σw² (Kish 1965), the
        part its share.

        Args:
            counts: numbers of rows, or sums of weights.
            squares: sums of squared weights; None without weights.
        """
        parts, wholes = self.part(counts), self.whole(counts)
        if squares is not None:
            shares, summed = _ratio(parts, wholes), self.whole(squares)
            sizes = np.divide(wholes**2, summed, out=np.zeros(wholes.shape), where=summed > 0)
            parts, wholes = np.where(sizes > 0, shares, 0.0) * sizes, sizes
        counted = zip(parts.tolist(), wholes.tolist(), strict=True)
        return [(part, whole) for part, whole in counted if whole]


def _size(counts: Counts) -> NDArray[Any]:
    return np.asarray(counts.sum(axis=(-2, -1)))


def _answered(counts: Counts) -> NDArray[Any]:
    # Added by hand: sums over short axes cost a bootstrap most of its time.
    return np.asarray(counts[..., 0, 0] + counts[..., 0, 1] + counts[..., 1, 0] + counts[..., 1, 1])


def _selected(counts: Counts) -> NDArray[Any]:
    return np.asarray(counts[..., 0, 1] + counts[..., 1, 1])


def _positive(counts: Counts) -> NDArray[Any]:
    return np.asarray(counts[..., 1, 0] + counts[..., 1, 1])


accuracy = Rate("P(ŷ = y)", lambda c: c[..., 0, 0] + c[..., 1, 1], _size)
unanswered_rate = Rate("P(no usable ŷ)", lambda c: _size(c) - _answered(c), _size)
base_rate = Rate("P(y = 1)", lambda c: c[..., 1, :].sum(axis=-1), _size)
selection_rate = Rate("P(ŷ = 1)", _selected, _answered)
true_positive_rate = Rate("P(ŷ = 1 | y = 1)", lambda c: c[..., 1, 1], _positive, (1,))
false_positive_rate = Rate(
    "P(ŷ = 1 | y = 0)", lambda c: c[..., 0, 1], lambda c: c[..., 0, 0] + c[..., 0, 1], (0,)
)
false_negative_rate = Rate("P(ŷ = 0 | y = 1)", lambda c: c[..., 1, 0], _positive, (1,))
positive_predictive_value = Rate("P(y = 1 | ŷ = 1)", lambda c: c[..., 1, 1], _selected)

DPD_RATES = (selection_rate,)
EOD_RATES = (true_positive_rate, false_positive_rate)


def balanced_accuracy(counts: Counts) -> Values:
    """(TPR + 1 − FPR) / 2: (..., 2, 3) -> (...); NaN unless both classes occur."""
    return (true_positive_rate(counts) + 1.0 - false_positive_rate(counts)) / 2.0


def is_degenerate(counts: Counts) -> NDArray[np.bool_]:
    """Whether predictions are constant or nearly so.

    True when a class is never predicted, or when the rarer *predicted* class is rarer than 5 %
    of the rarer *true* class: min_c P(ŷ = c) < 0.05 · min_c P(y = c). A constant predictor has
    DPD = EOD = 0, so gaps mean nothing here and must not win a selection. The rule compares with
    the labels, so a predictor of a rare class is not degenerate for predicting it rarely.

    Args:
        counts: (..., 2, 3), over all rows.
    """
    predicted = counts[..., :2].sum(axis=-2).min(axis=-1)
    true = counts.sum(axis=-1).min(axis=-1)
    return np.asarray((predicted == 0) | (predicted < RARE * true))


def deviations(rates: Sequence[Rate], counts: Grouped, eligible: Mask, reference: str) -> Values:
    """The signed numbers that a gap is the size of.

    Rates themselves for `between_groups`, else rates minus those of the rest or of all rows.

    Returns:
        (..., R, G), one line per rate. NaN for groups that may not decide and undefined rates.

    Raises:
        MeasurementError: an unknown reference.
    """
    check_reference(reference)
    lines = np.stack([_deviation(rate, counts, reference) for rate in rates], axis=-2)
    return np.where(eligible, lines, np.nan)


def gap(deviation: Values, reference: str) -> Values:
    """Size of deviations (..., R, G) -> (...): the largest over rates of range or magnitude.

    NaN where one of the rates cannot be compared: half an EOD is none.
    """
    lines = max_min_gap(deviation) if reference == "between_groups" else largest(np.abs(deviation))
    return np.asarray(lines.max(axis=-1))


def gap_of(
    rates: Sequence[Rate], counts: Grouped, eligible: Mask, reference: str = "between_groups"
) -> Values:
    """The largest gap of rates between groups: (...), in [0, 1], 0 means parity.

    NaN where one of the rates has fewer than two defined values. With `DPD_RATES` it is the
    demographic parity difference, with `EOD_RATES` the equalized odds difference, with the TPR
    alone equal opportunity (Hardt et al. 2016, arXiv 1610.02413).

    >>> groups = np.array([[[6, 4, 0], [2, 8, 0]], [[7, 3, 0], [5, 5, 0]]])
    >>> counts = Grouped(groups, groups.sum(axis=0))
    >>> float(gap_of(EOD_RATES, counts, np.array([True, True])))
    0.30000000000000004

    Raises:
        MeasurementError: an unknown reference.
    """
    return gap(deviations(rates, counts, eligible, reference), reference)


def against_rest(rates: Sequence[Rate], counts: Grouped) -> Values:
    """max over rates of |r_g − r_{not g}|, per group: (..., G).

    NaN where one of the rates is undefined for g or for its rest.
    """
    sizes = [np.abs(_against_rest(rate, counts)) for rate in rates]
    return np.asarray(np.max(sizes, axis=0))


def ratio_of(rates: Sequence[Rate], counts: Grouped, eligible: Mask) -> Values:
    """The smallest over rates of min_g r_g / max_g r_g: (...), in [0, 1], 1 means parity.

    A rate with no value above 0 is left out: nobody is selected, and equality means nothing. NaN
    when all are, and where one of the rates has fewer than two defined values.
    """
    lines = np.stack([rate(counts.groups) for rate in rates], axis=-2)
    values = np.where(eligible, lines, np.nan)
    comparable = (np.isfinite(values).sum(axis=-1) >= 2).all(axis=-1)
    return np.where(comparable, smallest(ratio(values)), np.nan)


def max_min_gap(rates: Values) -> Values:
    """max − min over the last axis, NaN left out; NaN with fewer than two defined rates."""
    highest, lowest = _ends(rates)
    return np.asarray(highest - lowest)


def ratio(rates: Values) -> Values:
    """min / max over the last axis, NaN left out, in [0, 1].

    NaN with fewer than two defined rates, and where the largest is 0: then nobody is selected,
    and equality means nothing.
    """
    highest, lowest = _ends(rates)
    return _ratio(lowest, highest)


def smallest(values: Values) -> Values:
    """min over the last axis, NaN left out; NaN when nothing is defined."""
    return -largest(-values)


def largest(gaps: Values) -> Values:
    """max over the last axis, NaN left out; NaN when nothing is defined."""
    highest = _over(gaps, np.maximum, -np.inf)
    return np.where(np.isinf(highest), np.nan, highest)


def mean(gaps: Values) -> Values:
    """Mean over the last axis, NaN left out; NaN when nothing is defined."""
    defined = np.isfinite(gaps)
    return _ratio(np.where(defined, gaps, 0.0).sum(axis=-1), defined.sum(axis=-1))


def _deviation(rate: Rate, counts: Grouped, reference: str) -> Values:
    if reference == "one_vs_rest":
        return _against_rest(rate, counts)
    rates = rate(counts.groups)
    if reference == "to_overall":
        return rates - rate(counts.overall)[..., np.newaxis]
    return rates


def _against_rest(rate: Rate, counts: Grouped) -> Values:
    return rate(counts.groups) - rate(counts.rest)


def _ends(rates: Values) -> tuple[Values, Values]:
    """Maximum and minimum over the last axis; NaN with fewer than two defined rates."""
    enough = np.isfinite(rates).sum(axis=-1) >= 2
    # Infinities stand for "nothing there" and would subtract to NaN with a warning.
    highest = np.where(enough, _over(rates, np.maximum, -np.inf), np.nan)
    lowest = np.where(enough, _over(rates, np.minimum, np.inf), np.nan)
    return highest, lowest


def _over(values: Values, ufunc: np.ufunc, nothing: float) -> Values:
    filled = np.where(np.isnan(values), nothing, values)
    return np.asarray(ufunc.reduce(filled, axis=-1, initial=nothing))


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Values:
    undefined = np.full(np.shape(whole), np.nan)
    return np.asarray(np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0))
