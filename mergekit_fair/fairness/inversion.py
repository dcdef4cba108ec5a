"""The difference of two extremes of the same rows: interval and p-value by inverting a test.

T = D_b − D_a, where D is the largest of many contrasts of rates (`extremes`): a DPD, an EOD, a
lowest accuracy. Its estimate is biased, and by how much depends on what is unknown: a gap near 0 is
overestimated by the noise of the rates, a large one is not, and a model that selects few people
has less noise. So percentiles of the paired bootstrap cover far too seldom, and call gains between
models without any gap significant.

A pair of values (d_a, d_b) is tested by rates θ with just these extremes:

    τ = P(D(θ_b + e_b) − D(θ_a + e_a) ≥ T̂), or P(… ≤ T̂) for the other limit
    π = how plausible the rates are at all
    p = 2 min(τ, π)

The interval spans d_b − d_a of all pairs with p > 1 − confidence, a limit from each τ; the p-value
is the largest p of a pair with d_a = d_b, or beyond. Both are the same test, so that p ≤ 1 −
confidence exactly where the interval leaves out 0.

e_a, e_b: the bootstrap errors of both models' rates, drawn together, from a table with about one
row more a group, label and answer. The rates θ stand for everything that has the extreme d and is
near what was seen (`Extreme.closest`):

- through the contrast that is the largest in the data, and through that among the plausible ones
  (at most `PLAUSIBLE` standard errors below d, of the rates that have it) whose error, less that of
  the other model's contrast, varies most;
- with errors as large as a share of θ has, and as one of θ pulled towards ½ by a row of each kind.

π is the smallest of three chances: that each of the two models' own estimates comes from its d, and
that rates' differences b − a lie as far from those seen. Differences are known far better than
rates, which is what pairing is for. At 95 % pairs are left out whose π is below 0.025, as nuisance
parameters are in Berger & Boos (1994), and contrasts that would have been estimated lower than they
were with no larger chance: were more of them left out, a small group would be taken to have no gap
wherever it shows none by luck.

Tests of extremes by least favourable slacks: Romano, Shaikh & Wolf (2014), Andrews & Soares (2010);
of directionally differentiable functions: Fang & Santos (2019). How often the intervals are right,
and how wide they are: `benchmarks/intervals.py`, docs/measurement.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.extremes import Extreme, Index, contrasts_of
from mergekit_fair.fairness.rates import Mask, Values

PLAUSIBLE = 1.96  # beyond it lie 2.5 %, like the pairs that are left out
_SIDE = 6  # values of d on either side of the estimate; between them, interpolation
_PLACES = 2 * _SIDE + 1
_FINER = 4
_REACH = 2.0  # how far they go, in 99.5 % quantiles of the errors of contrasts
_NEVER = 1e-6  # a π that nobody looks at
_SAME = 1e-12  # of rates that are equal but for rounding
_FEW, _FREEDOM = 10, 20.0
_AT_ONCE = 2**16  # errors in memory at once

Test = tuple[float, float, float]  # low, high, p-value


@dataclass(frozen=True, eq=False)
class ExtremeEstimate:
    """One model's M numbers, whose extreme is looked at.

    Attributes:
        extreme: the statistic.
        values: (M,).
        errors: (M, draws), of the numbers, with mean 0, drawn together with the other model's.
        rates: (M,), the smoothed rates that the numbers belong to, inside (0, 1).
        origin: (M,), rates minus numbers: what a deviation is measured from.
    """

    extreme: Extreme
    values: Values
    errors: Values
    rates: Values
    origin: Values

    @cached_property
    def cov(self) -> Values:
        """(M, M), of the errors."""
        return np.asarray(self.errors @ self.errors.T / self.errors.shape[1])

    @cached_property
    def value(self) -> float:
        """D of the data."""
        return float(self.extreme.of(self.values))

    @cached_property
    def contrasts(self) -> Values:
        """(C,), of the data."""
        return contrasts_of(self.values, self.extreme)

    @property
    def largest(self) -> int:
        """Which contrast D is."""
        return int(self.contrasts.argmax())

    @property
    def its_error(self) -> Values:
        """(draws,), the error of that contrast."""
        up, down = self.extreme.contrasts
        return _one(self.errors, up[self.largest], down[self.largest])

    @property
    def places(self) -> Values:
        """(`_PLACES`,), values of d around the estimate, closest beside it."""
        reach = _REACH * float(np.quantile(self.extreme.reach(self.errors), 0.995))
        low, high = self.extreme.bounds
        out = (np.arange(1, _SIDE + 1) / _SIDE) ** 1.5
        below = self.value - min(reach, self.value - low) * out
        above = self.value + min(reach, high - self.value) * out
        return np.concatenate([below[::-1], [self.value], above])

    def most_varying(self, d: Values, other: Values) -> Index:
        """For each d (P,) the plausible contrast whose error less `other` (draws,) varies most."""
        up, down = self.extreme.contrasts
        cov, with_other = np.pad(self.cov, (0, 1)), np.pad(self.errors @ other, (0, 1))
        of_one, shared = np.diag(cov), with_other / self.errors.shape[1]
        variance = of_one[up] + of_one[down] - 2 * cov[up, down]
        together = variance - 2 * (shared[up] - shared[down])
        far = [one - PLAUSIBLE * self._errors_at(one) for one in d]
        chosen = np.where(self.contrasts >= np.stack(far), together, -np.inf)
        is_any = np.isfinite(chosen.max(axis=1))
        return np.where(is_any, chosen.argmax(axis=1), self.largest)

    def _errors_at(self, d: float) -> Values:
        """(C,), of every contrast the standard error where it is d: each of its two rates has moved
        by its share of the way, as least squares would; the larger one of both `scales`."""
        ends, cov = self.extreme.contrasts, np.pad(self.cov, (0, 1))
        shared = cov[ends]
        own = [cov[end, end] for end in ends]
        spread = own[0] + own[1] - 2 * shared
        step = np.divide(d - self.contrasts, spread, out=np.zeros_like(spread), where=spread > 0)
        theta = np.pad(self.values + self.origin, (0, 1))
        up, down = (
            np.maximum(*self.scales(theta[end] + sign * step * (variance - shared), end))
            for sign, end, variance in zip((1, -1), ends, own, strict=True)
        )
        variance = up**2 * own[0] + down**2 * own[1] - 2 * up * down * shared
        return np.asarray(np.sqrt(np.maximum(variance, 0)))

    def scales(self, theta: Values, which: Index | None = None) -> Iterator[Values]:
        """What errors are multiplied with where rates are theta, in two ways, shaped like it.

        Args:
            theta: (P, M), or (C,), of the numbers `which` (C,), of which M is "nothing".
        """
        rates, variance = self.rates, np.diag(self.cov)
        if which is not None:
            rates, variance = np.append(rates, 0.5)[which], np.append(variance, 0.0)[which]
        share = rates * (1 - rates)
        rows = share / np.maximum(variance, _SAME)
        inside = np.clip(theta, 0.0, 1.0)
        for rate in (inside, (inside * rows + 1) / (rows + 2)):
            yield np.sqrt(rate * (1 - rate) / share)


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Rates that one model may have in truth, for each of P values of d.

    Attributes:
        d: (P,).
        values: (K, P, M), through K contrasts.
        drawn: (S, P, draws), what D would be estimated as: S / K sizes of errors for each of them.
        plausible: (S, P), the chance of the estimate that was seen.
    """

    d: Values
    values: Values
    drawn: Values
    plausible: Values

    @classmethod
    def of(cls, model: ExtremeEstimate, other: Values) -> _Candidates:
        """Of a model, beside the error (draws,) of the other's largest contrast."""
        extreme, d = model.extreme, model.places
        up, down = extreme.contrasts
        values, drawn, chances = [], [], []
        for which in (np.full(len(d), model.largest), model.most_varying(d, other)):
            pairs = up[which], down[which]
            near = extreme.closest(model.values, model.cov, d, *pairs)
            values.append(near)
            for scale in model.scales(near + model.origin):
                of_d, chance = _estimated(model, near, scale, d, *pairs)
                drawn.append(of_d)
                chances.append(chance)
        return cls(d, np.stack(values), np.stack(drawn), np.stack(chances))

    def beyond(self, bounds: tuple[float, float]) -> tuple[float, float]:
        """How plausible a d is below all of these, and one above; 0 outside the bounds."""
        ends = zip(self.plausible.max(axis=0)[[0, -1]], self.d[[0, -1]], bounds, strict=True)
        below, above = (0.0 if d == bound else float(chance) for chance, d, bound in ends)
        return below, above


def inverted(first: ExtremeEstimate, second: ExtremeEstimate, confidence: float) -> Test:
    """Limits and p-value of the second's extreme minus the first's.

    Args:
        first, second: two models on the same rows, with draws in common.
        confidence: of the interval.

    Returns:
        low, high, and the two-sided p-value in (0, 1] of "there is no difference".
    """
    a, b = _Candidates.of(first, second.its_error), _Candidates.of(second, first.its_error)
    own = np.minimum(a.plausible[:, :, np.newaxis, np.newaxis], b.plausible)
    apart = _apart(first, second, a.values, b.values)
    for axis in (0, 2):  # whatever the size of errors
        apart = np.repeat(apart, own.shape[axis] // apart.shape[axis], axis=axis)
    plausible = np.minimum(own, apart)
    found, level = second.value - first.value, 1 - confidence
    of_pairs = _refined(plausible)
    above, below = (
        2 * np.minimum(_refined(tail), of_pairs).max(axis=(0, 2))
        for tail in _tails(a.drawn, b.drawn, found, plausible > _NEVER)
    )
    d_a, d_b = _between() @ a.d, _between() @ b.d
    differences = d_b - d_a[:, np.newaxis]
    (a_below, a_above), (b_below, b_above) = (each.beyond(first.extreme.bounds) for each in (a, b))
    p_above = max(
        _along(above, d_a, d_b),
        np.max(above, where=differences <= 0, initial=0.0),
        2 * max(a_above, b_below),
    )
    p_below = max(
        _along(below, d_a, d_b),
        np.max(below, where=differences >= 0, initial=0.0),
        2 * max(a_below, b_above),
    )
    low = float(np.min(differences, where=above > level, initial=found))
    high = float(np.max(differences, where=below > level, initial=found))
    # To the last draw the limits say what the p-value says.
    low = min(low, 0.0) if p_above > level else max(low, _SAME) if found > 0 else low
    high = max(high, 0.0) if p_below > level else min(high, -_SAME) if found < 0 else high
    p_value = 1.0 if abs(found) < _SAME else min(1.0, p_above, p_below)  # none seen, none shown
    return low, high, p_value


def shifted(value: float, errors: Values, confidence: float) -> Test:
    """The same of a difference whose errors (draws,) do not depend on it: [value − q(e)].

    >>> low, high, p_value = shifted(0.5, np.linspace(-1.0, 1.0, 2000), 0.95)
    >>> round(low, 2), round(high, 2), round(p_value, 2)
    (-0.45, 1.45, 0.5)
    """
    draws, half = len(errors), (1 - confidence) / 2
    beyond = min(int(half * (1 + draws)), draws - 1)  # how many errors a limit leaves out
    ordered = np.sort(errors)
    limits = value - ordered[draws - 1 - beyond], value - ordered[beyond]
    above, below = float(upper_tail(errors, value)), float(upper_tail(-errors, -value))
    # Limits and p-value are one test, to the last draw.
    low = min(float(limits[0]), 0.0) if above > half else float(limits[0])
    high = max(float(limits[1]), 0.0) if below > half else float(limits[1])
    return low, high, min(1.0, 2 * min(above, below))


def upper_tail(drawn: Values, found: Values | float) -> Values:
    """The chance of a draw (..., draws) to be at least as large as found (...): above 0.

    (1 + k) / (1 + draws) where k ≥ `_FEW` draws are. Below that the tail of Student's t with
    `_FREEDOM` degrees of freedom through the draws' mean and standard deviation, but no more than
    `_FEW` draws and no less than k: so p-values that are corrected for many tests need no more
    draws. The tails of t are the heavier ones: 11 times the normal's at four deviations.
    """
    from scipy.special import stdtr  # slow to import

    draws = drawn.shape[-1]
    count = np.count_nonzero(drawn >= np.asarray(found)[..., np.newaxis] - _SAME, axis=-1)
    tail = np.asarray((1 + count) / (1 + draws))
    few = count < _FEW
    if few.any():
        of_few, seen = drawn[few], np.broadcast_to(found, few.shape)[few]
        away = (seen - of_few.mean(axis=-1)) / np.maximum(of_few.std(axis=-1), _SAME)
        most = (1 + _FEW) / (1 + draws)
        tail[few] = np.clip(stdtr(_FREEDOM, -away), count[few] / draws, most)
    return tail


def _estimated(
    model: ExtremeEstimate, near: Values, scale: Values, d: Values, up: Index, down: Index
) -> tuple[Values, Values]:
    """What D is estimated as where the rates are `near`, and the chance of what was seen.

    Args:
        model: whose errors are drawn.
        near, scale: (P, M), rates, and what errors are multiplied with.
        d, up, down: (P,), the value of D and the contrast that has it.

    Returns:
        (P, draws) and (P,).
    """
    draws, at_once = model.errors.shape[1], max(1, _AT_ONCE // model.errors.size)
    of_d = np.empty((len(d), draws))
    for start in range(0, len(d), at_once):
        part = slice(start, start + at_once)
        rates = near[part].T[..., np.newaxis]
        of_d[part] = model.extreme.of(
            rates + model.errors[:, np.newaxis] * scale[part].T[..., None]
        )
    padded, factors = np.pad(model.errors, ((0, 1), (0, 0))), np.pad(scale, ((0, 0), (0, 1)))
    every = np.arange(len(d))
    error = padded[up] * factors[every, up][:, None] - padded[down] * factors[every, down][:, None]
    # D is never estimated below what its own contrast is estimated as.
    too_large = upper_tail(-d[:, np.newaxis] - error, -model.value)
    return of_d, np.minimum(upper_tail(of_d, model.value), too_large)


def _apart(first: ExtremeEstimate, second: ExtremeEstimate, a: Values, b: Values) -> Values:
    """(K, P, K, P): the chance that differences lie as far from candidates' as those seen.

    Of the largest size over numbers, in standard errors.
    """
    if first.values.shape != second.values.shape:  # a rate that one model alone has
        return np.ones((*a.shape[:2], *b.shape[:2]))
    errors = (second.errors - first.errors).T
    sizes = np.sqrt(np.maximum((errors**2).mean(axis=0), _SAME))

    def size(x: Values) -> Values:
        centred = first.extreme.centred(x, sizes**-2.0)
        return np.asarray(np.abs(centred / sizes).max(axis=-1))

    drawn = np.sort(size(errors))
    seen = size(second.values - first.values - b + a[:, :, np.newaxis, np.newaxis])
    share = 1 - np.searchsorted(drawn, seen - _SAME) / len(drawn)
    return np.asarray(np.where(share * len(drawn) >= _FEW, share, _beyond(drawn, seen)))


def _beyond(drawn: Values, seen: Values) -> Values:
    """The chance of a size (...) above nearly all of draws (draws,), which are sorted."""
    from scipy.special import stdtr

    edge = drawn[-min(_FEW, len(drawn))]
    at_edge = stdtr(_FREEDOM, -edge)
    return np.asarray(_FEW / len(drawn) * stdtr(_FREEDOM, -np.maximum(seen, edge)) / at_edge)


def _tails(a: Values, b: Values, found: float, looked_at: Mask) -> tuple[Values, Values]:
    """(S, P, S, P): chances of a difference of draws at least, and at most, as found.

    0 where nobody looks at them.
    """
    above, below = np.zeros(looked_at.shape), np.zeros(looked_at.shape)
    for place in np.ndindex(a.shape[:2]):
        chosen = looked_at[place]
        differences = b[chosen] - a[place]
        above[place][chosen] = upper_tail(differences, found)
        below[place][chosen] = upper_tail(-differences, -found)
    return above, below


def _along(tail: Values, d_a: Values, d_b: Values) -> float:
    """The largest tail where d_a = d_b exactly."""
    inside = (d_a >= d_b[0]) & (d_a <= d_b[-1])
    return max(
        (float(np.interp(d, d_b, tail[n])) for n, d in enumerate(d_a) if inside[n]), default=0.0
    )


def _between() -> NDArray[np.float64]:
    """(finer, `_PLACES`): the matrix that interpolates between places."""
    at = np.linspace(0, _PLACES - 1, (_PLACES - 1) * _FINER + 1)
    return np.maximum(1 - np.abs(at[:, np.newaxis] - np.arange(_PLACES)), 0.0)


def _refined(chances: Values) -> Values:
    """(S, P, S, P) interpolated along both P, as normal deviates."""
    from scipy.special import ndtr, ndtri

    deviates = ndtri(np.clip(chances, 1e-12, 1 - 1e-12))
    finer = _between()
    return np.asarray(ndtr(np.einsum("ip,sptq,jq->sitj", finer, deviates, finer, optimize=True)))


def _one(errors: Values, up: int, down: int) -> Values:
    """(draws,), the error of one contrast of errors (M, draws)."""
    padded = np.pad(errors, ((0, 1), (0, 0)))
    return np.asarray(padded[up] - padded[down])
