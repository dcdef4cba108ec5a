"""Statistics that are the largest of many contrasts, and rates that give them a wanted value.

DPD, EOD, their one-vs-rest and to-overall kinds and worst-group accuracy are all of one form,

    D(x) = max over contrasts c of c·x,    c·x = x[up] − x[down],

over a vector x of M numbers: rates of groups, or their deviations; "nothing", the item M, is 0.

    RateRange      range of each of several rates, the largest of them     c = i − j
    Magnitude   largest size of a deviation                             c = ±i
    Shortfall   the negative of the lowest rate                         c = −i

`Extreme.closest(x, d, contrast)` is the question that a test of "D = d" asks: which x might the
truth be if its statistic is d, and this contrast is the one that has it?
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness.rates import Values

Index = NDArray[np.intp]
_PLACES = 41  # where a band of a given width may lie among the rates


@dataclass(frozen=True, eq=False)
class Extreme(ABC):
    """A statistic of M numbers, which come from one rate or, in blocks, from several.

    Attributes:
        sizes: how many numbers each rate has; they add up to M.
    """

    sizes: tuple[int, ...]
    bounds = (0.0, 1.0)  # of the statistic

    @property
    def slices(self) -> list[slice]:
        """Where each rate's numbers stand."""
        ends = np.cumsum(self.sizes)
        return [
            slice(int(end - size), int(end)) for end, size in zip(ends, self.sizes, strict=True)
        ]

    @property
    def length(self) -> int:
        """M."""
        return sum(self.sizes)

    @cached_property
    def contrasts(self) -> tuple[Index, Index]:
        """`up` and `down`, each (C,), indices of 0 … M."""
        return self._contrasts()

    @abstractmethod
    def _contrasts(self) -> tuple[Index, Index]: ...

    @abstractmethod
    def of(self, x: Values) -> Values:
        """D of numbers (M, ...): (...)."""

    @abstractmethod
    def within(self, x: Values, errors: Values, d: Values) -> Values:
        """The numbers (n, M) with D ≤ d that are near x, by least squares in units of `errors`.

        Args:
            x: (M,).
            errors: (M,), standard errors, above 0.
            d: (n,), in `bounds`.
        """

    @abstractmethod
    def held(self, x: Values, up: Index, down: Index, d: Values) -> Values:
        """x (n, M), in which the contrasts (up, down) are d, cut off where another exceeds it."""

    def reach(self, errors: Values) -> Values:
        """The largest size of a contrast of errors (M, ...): (...)."""
        return self.of(errors)

    def centred(self, x: Values, weights: Values) -> Values:
        """x (..., M) less what does not change D, for comparison with errors."""
        del weights
        return x

    def closest(self, x: Values, cov: Values, d: Values, up: Index, down: Index) -> Values:
        """Numbers (n, M) near x whose statistic is d, through contrasts (up, down), each (n,).

        First the nearest with D ≤ d; then along the covariance of the errors, as least squares
        would, until the contrast is d; then cut off where another contrast exceeds it.

        Args:
            x: (M,).
            cov: (M, M), covariances of its errors.
            d: (n,), in `bounds`.
        """
        errors = np.sqrt(np.maximum(np.diag(cov), 1e-12))
        near = self.within(x, errors, d)
        along = _padded(cov, 0)[up] - _padded(cov, 0)[down]
        spread = contrast(along, up, down)
        step = np.divide(
            d - contrast(near, up, down), spread, out=np.zeros(len(d)), where=spread > 0
        )
        return self.held(near + along * step[:, np.newaxis], up, down, d)


class RateRange(Extreme):
    """max over rates of (max − min)."""

    def _contrasts(self) -> tuple[Index, Index]:
        pairs = [
            np.stack(np.divmod(np.arange(size * size), size)) + part.start
            for part, size in zip(self.slices, self.sizes, strict=True)
        ]
        up, down = np.concatenate(pairs, axis=1)
        return up[up != down], down[up != down]

    def of(self, x: Values) -> Values:
        ranges = [x[part].max(axis=0) - x[part].min(axis=0) for part in self.slices]
        return np.asarray(np.max(ranges, axis=0))

    def within(self, x: Values, errors: Values, d: Values) -> Values:
        near = np.empty((len(d), self.length))
        for part in self.slices:
            low = _best_band(x[part], errors[part], d)[:, np.newaxis]
            near[:, part] = np.clip(x[part], low, low + d[:, np.newaxis])
        return near

    def held(self, x: Values, up: Index, down: Index, d: Values) -> Values:
        held, rows = np.empty_like(x), np.arange(len(x))
        tops, bottoms = x[rows, up], x[rows, down]
        for part in self.slices:
            is_here = (up >= part.start) & (up < part.stop)
            high, low = x[:, part].max(axis=1), x[:, part].min(axis=1)
            excess = np.maximum(high - low - d, 0) / 2
            low = np.where(is_here, bottoms, low + excess)
            high = np.where(is_here, tops, high - excess)
            held[:, part] = np.clip(x[:, part], low[:, np.newaxis], high[:, np.newaxis])
        return held

    def centred(self, x: Values, weights: Values) -> Values:
        parts = [x[..., part] - _mean(x[..., part], weights[part]) for part in self.slices]
        return np.concatenate(parts, axis=-1)


class Magnitude(Extreme):
    """max |x|."""

    def _contrasts(self) -> tuple[Index, Index]:
        every, nothing = np.arange(self.length), np.full(self.length, self.length)
        return np.concatenate([every, nothing]), np.concatenate([nothing, every])

    def of(self, x: Values) -> Values:
        return np.asarray(np.abs(x).max(axis=0))

    def within(self, x: Values, errors: Values, d: Values) -> Values:
        del errors
        return np.clip(x, -d[:, np.newaxis], d[:, np.newaxis])

    def held(self, x: Values, up: Index, down: Index, d: Values) -> Values:
        del up, down
        return np.clip(x, -d[:, np.newaxis], d[:, np.newaxis])


class Shortfall(Extreme):
    """−min x."""

    bounds = (-1.0, 0.0)

    def reach(self, errors: Values) -> Values:
        return np.asarray(np.abs(errors).max(axis=0))

    def _contrasts(self) -> tuple[Index, Index]:
        every = np.arange(self.length)
        return np.full(self.length, self.length), every

    def of(self, x: Values) -> Values:
        return np.asarray(-x.min(axis=0))

    def within(self, x: Values, errors: Values, d: Values) -> Values:
        del errors
        return np.maximum(x, -d[:, np.newaxis])

    def held(self, x: Values, up: Index, down: Index, d: Values) -> Values:
        del up, down
        return np.maximum(x, -d[:, np.newaxis])


def contrast(x: Values, up: Index, down: Index) -> Values:
    """x[up] − x[down] of numbers (n, M), one contrast a row: (n,)."""
    padded, rows = _padded(x, 1), np.arange(len(x))
    return np.asarray(padded[rows, up] - padded[rows, down])


def contrasts_of(x: Values, extreme: Extreme) -> Values:
    """All contrasts of numbers (M, ...): (C, ...)."""
    padded = _padded(x, 0)
    up, down = extreme.contrasts
    return np.asarray(padded[up] - padded[down])


def _padded(x: Values, axis: int) -> Values:
    """With the item "nothing", which is 0 without error, at the end of an axis."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, 1)
    return np.pad(x, widths)


def _best_band(x: Values, errors: Values, d: Values) -> Values:
    """(n,), where a band of each width d begins that lies nearest to x, of `_PLACES` places."""
    low, high = x.min(), x.max()
    places = np.minimum(np.linspace(low, high, _PLACES), np.maximum(high - d, low)[:, np.newaxis])
    below = np.maximum(places[..., np.newaxis] - x, 0)
    above = np.maximum(x - places[..., np.newaxis] - d[:, np.newaxis, np.newaxis], 0)
    loss = ((below**2 + above**2) / errors**2).sum(axis=-1)
    return np.asarray(places[np.arange(len(d)), loss.argmin(axis=1)])


def _mean(x: Values, weights: Values) -> Values:
    return np.asarray((x * weights).sum(axis=-1, keepdims=True) / weights.sum())
