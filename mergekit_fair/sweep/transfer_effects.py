"""Changes of every group's rates between two models of the same rows, with paired intervals.

**Harm** of a group h is the increase of D = (DPD_h + EOD_h) / 2, of h against all other rows. With
d = (d₀, d₁, d₂), how far selection rate, TPR and FPR of h lie from those of the others,

    D(d) = (|d₀| + max(|d₁|, |d₂|)) / 2 = max_c c·d      over eight contrasts c, as (1, 0, −1)/2

For the contrasts c that are largest after (b) and before (a) the step, and m = b − a,

    c_a·m ≤ D(b) − D(a) ≤ c_b·m              c_b·b − D(a) ≤ D(b) − D(a) ≤ D(b) − c_a·a

so that a size is bounded by *linear* changes of paired rates, whose error is small however large
that of a gap itself is. Which contrast is c_b is unknown: every one takes part that the data do
not show to be smaller than the largest, and the upper end is the highest of their upper ends; the
lower end likewise, with c_a. Where gaps are far from 0, one contrast is left, and the interval is
that of a difference of rates; where they are near 0 it covers growth in either direction, unless
the second pair of bounds, of which only the largest contrast and a quarter of the tail are asked,
is the sharper one: where a large gap grows out of a small one. (Two steps: Romano, Shaikh, Wolf
2014. Plain percentiles of |b*| − |a*| lie too low near 0: for a fair target and a step that harms,
true harm lay above them in 24 % of samples instead of 2.5 %.)

**Errors** are sums of squares of the rows' influence values w (x − rate) / Σw, of clusters of rows
where rows are not independent; no draws. To every group, label and direction one row is added
that nobody has seen, and that moves as far as any row of the data does: thirty rows whose
predictions all stay prove little about the next one.

**Soft rates**, where models have scores: each row counts σ(z / τ) instead of 1[z > 0], which is
the mean of its predictions over thresholds near the model's own, logistic with scale τ. A small
step moves every score a little and few predictions at all, so that hard rates tell of a few rows
near the threshold and soft rates of many: their errors are 2 to 4 times smaller. The price is that
a rate is smoothed over the threshold's neighbourhood: what a step does at the threshold alone is
diluted. Hence

    τ_h = 0.4 · n_h^(−1/5) · s      n_h rows of h, s the spread of the target's scores by label

0.7 times Silverman's (1986) bandwidth for a density at the threshold, which is what a change of a
rate estimates: it shrinks as rows grow. Nothing else is fitted, and τ reads the target alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.rates import Mask, Values

METRICS = ("harm", "acc", "selection_rate", "tpr", "fpr")
N_RATES = 3  # selection rate, TPR, FPR

Ends = tuple[float, float, float]  # value, low, high; NaN where undefined

_BANDWIDTH = 0.4  # times n^(−1/5) and the spread
_NORMAL_QUARTILES = 1.349  # between the quartiles of a normal, in standard deviations

# (8, 3): (|d₀| + max(|d₁|, |d₂|)) / 2 is the largest of these contrasts of d.
_CONTRASTS = np.array(
    [[s, t * (at == 1), t * (at == 2)] for at, s, t in product((1, 2), (1, -1), (1, -1))]
) / 2.0  # fmt: skip
_CHANGE = np.hstack([-np.eye(N_RATES), np.eye(N_RATES)])  # of rates before and after
_REST = 0.25  # of the tail, for a second bound that hardly ever decides


@dataclass(frozen=True, eq=False)
class PairedRows:
    """n rows that two models have answered.

    Attributes:
        labels: int8 (n,), 0 or 1.
        members: bool (n, H).
        weights: (n,), what each row counts for.
        clusters: int (n,), which cluster each row is of: 0, 1, …; None: all rows are independent.
        deciding: bool (H,), the groups that a verdict rests on.
        usable: bool (3, H): whether selection rate, TPR and FPR of a group take part in its gaps.
    """

    labels: NDArray[np.int8]
    members: Mask
    weights: Values
    clusters: NDArray[np.intp] | None
    deciding: Mask
    usable: Mask

    @property
    def with_gaps(self) -> Mask:
        """bool (H,), the groups whose DPD and EOD can be judged."""
        return np.asarray(self.usable[0] & self.usable[1:].any(axis=0))

    def counted(self, rows: NDArray[np.intp], answers: Values) -> tuple[Values, Values]:
        """What each row counts for in selection rate, TPR and FPR of these rows, and in all.

        Returns:
            (3, rows), weights, 0 without an answer, and their sums (3,).
        """
        answered, positive = ~np.isnan(answers[rows]), self.labels[rows] == 1
        weights = self.weights[rows] * np.stack(
            [answered, answered & positive, answered & ~positive]
        )
        return weights, weights.sum(axis=1)

    def summed(self, rows: NDArray[np.intp], influence: Values) -> Values:
        """Influence values (k, rows) added up by cluster: (k, C), or themselves."""
        if self.clusters is None:
            return influence
        size = int(self.clusters.max()) + 1
        code = self.clusters[rows]
        return np.stack([np.bincount(code, line, minlength=size) for line in influence])

    def effective(self, rows: NDArray[np.intp], shares: Values) -> Values:
        """(Σw)² / Σ(cluster sums)² of each line of weights (k, rows): a number of rows (Kish)."""
        squares = (self.summed(rows, shares) ** 2).sum(axis=1)
        totals = shares.sum(axis=1) ** 2
        return np.divide(totals, squares, out=np.full(len(totals), np.nan), where=squares > 0)


@dataclass(frozen=True, eq=False)
class Side:
    """The rows of a group, or all others: rates before and after, and what their errors are of.

    Attributes:
        rates: (6,): selection rate, TPR, FPR before, then after; NaN where undefined.
        influence: (6, rows or clusters).
        unseen: (2, 3): what a row of label 0 or 1 that moves from 0 to 1 adds to each rate.
    """

    rates: Values
    influence: Values
    unseen: Values

    @classmethod
    def of(cls, rows: PairedRows, inside: Mask, answers: Answers) -> Side:
        at, lines, means = np.flatnonzero(inside), [], []
        for said in (answers.before, answers.after):
            weights, totals = rows.counted(at, said)
            known = np.nan_to_num(said[at])
            # Sums first: those of whole weights and predictions are exact.
            rates = _ratio(weights @ known, totals, np.nan)
            shares = _ratio(weights, totals[:, np.newaxis], 0.0)
            lines.append(shares * (known - rates[:, np.newaxis]))
            means.append(rates)
        influence = rows.summed(at, np.concatenate(lines))
        return cls(np.concatenate(means), influence, _unseen(rows, at, shares))

    @classmethod
    def of_moves(cls, rows: PairedRows, inside: Mask, moved: Values) -> Side:
        """As if every row had moved so far, in a direction of its own; in a cluster, in one."""
        at = np.flatnonzero(inside)
        weights, totals = rows.counted(at, np.zeros(len(moved)))
        shares = _ratio(weights, totals[:, np.newaxis], 0.0)
        influence = rows.summed(at, shares * moved[at])
        return cls(np.zeros(N_RATES), influence, _unseen(rows, at, shares))


@dataclass(frozen=True, eq=False)
class Answers:
    """What two models say about the same n rows.

    Attributes:
        before, after: (n,), in [0, 1]: a prediction, or σ(z / τ); NaN without an answer.
        farthest: how far an answer may move that nobody has seen.
    """

    before: Values
    after: Values
    farthest: float

    @classmethod
    def hard(cls, before: NDArray[np.int8], after: NDArray[np.int8]) -> Answers:
        """Predictions 0, 1 and 2 (unanswered): they move by 1 or not at all."""
        known = [np.where(x > 1, np.nan, x.astype(np.float64)) for x in (before, after)]
        return cls(known[0], known[1], 1.0)

    @classmethod
    def soft(cls, before: Values, after: Values, temperature: float) -> Answers:
        """Logit gaps, of which none moves farther than the farthest of them."""
        first, second = soft(before, temperature), soft(after, temperature)
        moved = np.abs(np.nan_to_num(second) - np.nan_to_num(first))
        return cls(first, second, float(moved.max(initial=0.0)))


def effects(rows: PairedRows, group: int, answers: Answers, confidence: float) -> dict[str, Ends]:
    """What the second model changes for one group: metric of METRICS → value, low, high.

    Args:
        rows: that both have answered.
        group: h, a column of the members.
        answers: of both.
        confidence: of each interval, by itself.
    """
    inside = rows.members[:, group]
    own, others = (Side.of(rows, mask, answers) for mask in (inside, ~inside))
    apart = own.rates - others.rates, _errors(rows, [own, others], answers.farthest)
    deviate = _deviate(confidence)
    spread = _spreads(_CHANGE, _errors(rows, [own], answers.farthest))
    return {
        "harm": _harm(*apart, rows.usable[:, group], confidence),
        "acc": _accuracy(rows, np.flatnonzero(inside), answers, deviate),
        **{
            metric: _ends(change, error, deviate)
            for metric, change, error in zip(METRICS[2:], _CHANGE @ own.rates, spread, strict=True)
        },
    }


def soft(gaps: Values, temperature: float) -> Values:
    """σ(z / τ) of logit gaps (n,), NaN where they are.

    >>> soft(np.array([0.0, 1e9, np.nan]), 0.5)
    array([0.5, 1. , nan])
    """
    return np.asarray((1 + np.tanh(gaps / (2 * temperature))) / 2)


def spread_of_scores(gaps: Values, labels: NDArray[np.int8]) -> float:
    """How far scores of one label lie apart: the root mean square over labels.

    Of a label it is the smaller of standard deviation and interquartile range / 1.349, so that a
    few scores far out do not count. 0 where scores do not differ: there are no soft rates then.
    """
    known = ~np.isnan(gaps)
    parts = [gaps[known & (labels == label)] for label in (0, 1)]
    spreads = [min(part.std(), _quartiles(part) / _NORMAL_QUARTILES) for part in parts if len(part)]
    return float(np.sqrt(np.mean(np.square(spreads)))) if spreads else 0.0


def temperature(spread: float, rows: int) -> float:
    """τ_h of a group of so many rows, in units of the scores.

    >>> temperature(1.0, 100_000)
    0.04
    """
    return _BANDWIDTH * spread / max(rows, 1) ** 0.2


def expected_error(rows: PairedRows, group: int, moved: Values, farthest: float) -> float:
    """The standard error of a group's harm, or of its accuracy, whichever is larger.

    Args:
        rows: as in `effects`.
        group: h.
        moved: (n,), how far each row's answer moves (root mean square), up or down alike.
        farthest: as in `Answers`.

    Returns:
        Of the contrast with the largest error; NaN where none is defined.
    """
    inside = rows.members[:, group]
    own, others = (Side.of_moves(rows, mask, moved) for mask in (inside, ~inside))
    contrasts = _taking_part(rows.usable[:, group])
    if not len(contrasts):
        return float("nan")
    apart, alone = (_errors(rows, sides, farthest) for sides in ([own, others], [own]))
    return float(max(_spreads(contrasts, apart).max(), np.sqrt(alone[0, 0])))


def _harm(values: Values, errors: Values, usable: Mask, confidence: float) -> Ends:
    """Of deviations before and after (6,), with the covariance of their errors (6, 6)."""
    contrasts = _taking_part(usable)
    if not len(contrasts) or np.isnan(values[np.append(usable, usable)]).any():
        return (np.nan, np.nan, np.nan)
    nothing = np.zeros_like(contrasts)
    before, after = np.hstack([contrasts, nothing]), np.hstack([nothing, contrasts])
    early, late = (_maybe_largest(each, values, errors, confidence) for each in (before, after))
    first, last = (each[np.nanargmax(_times(each, values))] for each in (before, after))

    def ends(forms: Values, level: float) -> tuple[Values, Values]:
        middle, error = _times(forms, values), _deviate(level) * _spreads(forms, errors)
        return middle - error, middle + error

    rest = 1 - (1 - confidence) * _REST
    low = max(
        ends((after - before)[early], confidence)[0].min(),
        ends(last - before[early], rest)[0].min(),
    )
    high = min(
        ends((after - before)[late], confidence)[1].max(), ends(after[late] - first, rest)[1].max()
    )
    value = float(_times(last - first, values))
    return value, min(max(float(low), -1.0), value), max(min(float(high), 1.0), value)


def _maybe_largest(forms: Values, values: Values, errors: Values, confidence: float) -> Mask:
    """Which linear forms (k, 6) are not shown to be smaller than the largest in the data."""
    sizes = _times(forms, values)
    top = int(sizes.argmax())
    noise = _deviate(confidence) * _spreads(forms[top] - forms, errors)
    return np.asarray(sizes[top] - sizes <= noise + 1e-12)


def _taking_part(usable: Mask) -> Values:
    """The contrasts of a group's usable rates; none without its selection rate, TPR or FPR."""
    if not usable[0] or not usable[1:].any():
        return np.empty((0, N_RATES))
    return np.asarray(_CONTRASTS[~_CONTRASTS[:, ~usable].any(axis=1)])


def _accuracy(rows: PairedRows, at: NDArray[np.intp], answers: Answers, deviate: float) -> Ends:
    """Of the rows at these places; of those without an answer none is right."""
    if not len(at):
        return (np.nan, np.nan, np.nan)
    positive = rows.labels[at] == 1
    before, after = (
        np.nan_to_num(np.where(positive, said[at], 1 - said[at]))
        for said in (answers.before, answers.after)
    )
    weights = rows.weights[at]
    shares = (weights / weights.sum())[np.newaxis]
    value = float(weights @ (after - before) / weights.sum())
    influence = rows.summed(at, shares * (after - before - value))[0]
    unseen = answers.farthest / rows.effective(at, shares)[0]
    return _ends(value, np.sqrt(influence @ influence + 4 * unseen**2), deviate)  # of a label two


def _errors(rows: PairedRows, sides: list[Side], farthest: float) -> Values:
    """Covariance of the errors of rates, or of how far those of two sides lie apart.

    The rows that nobody has seen move after the step: of every side and label one up, one down.
    """
    own, *others = (side.influence for side in sides)
    if rows.clusters is None or not others:  # no row is on both sides
        errors = own @ own.T + sum(each @ each.T for each in others)
    else:
        errors = (own - others[0]) @ (own - others[0]).T
    unseen = farthest * np.concatenate([side.unseen for side in sides])
    errors[-N_RATES:, -N_RATES:] += 2 * unseen.T @ unseen
    return np.asarray(errors)


def _unseen(rows: PairedRows, at: NDArray[np.intp], shares: Values) -> Values:
    """(2, 3): what one row of each label adds to selection rate, TPR and FPR."""
    of_any, of_positive, of_negative = 1 / rows.effective(at, shares)
    return np.array([[of_any, 0.0, of_negative], [of_any, of_positive, 0.0]])


def _ratio(part: Values, whole: Values, without: float) -> Values:
    """part / whole, and `without` where there is no whole."""
    return np.divide(part, whole, out=np.full(part.shape, without), where=whole > 0)


def _times(forms: Values, values: Values) -> Values:
    """Linear forms (..., k) of values (k,); what a form leaves out may be undefined."""
    return np.asarray(np.where(forms == 0, 0.0, forms * values).sum(axis=-1))


def _spreads(forms: Values, errors: Values) -> Values:
    """Standard errors of linear forms (m, k): (m,)."""
    used = forms != 0
    known = np.where(used[:, :, np.newaxis] & used[:, np.newaxis], errors, 0.0)
    return np.sqrt(np.maximum(np.einsum("ij,ijk,ik->i", forms, known, forms), 0.0))


def _deviate(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _ends(value: float, error: float, deviate: float) -> Ends:
    low, high = value - deviate * error, value + deviate * error
    return float(value), float(np.maximum(low, -1.0)), float(np.minimum(high, 1.0))


def _quartiles(values: Values) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low)
