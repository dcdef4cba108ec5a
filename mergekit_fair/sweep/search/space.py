"""The box of λs that a search looks in."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import ConfigError

Coordinates = tuple[float, ...]
Array = NDArray[np.float64]

# Sobol points drawn before a small space counts as exhausted, as a power of 2.
_LARGEST_DRAW = 14


@dataclass(frozen=True)
class Space:
    """low_g ≤ λ_g ≤ high_g for G settings, on multiples of ``step`` and the two ends.

    Attributes:
        names: the G settings, such as ``weight.Female``.
        low, high: ends of each range, both included.
        step: resolution, so that λs are short decimals in recipes.

    Raises:
        ConfigError: no or repeated names, lengths that differ, an end that is not finite,
            low ≥ high, or a step that is not a positive number.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    step: float = 0.01

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ConfigError("a search needs settings, each named once", got=self.names)
        if not len(self.names) == len(self.low) == len(self.high):
            raise ConfigError(
                f"{len(self.names)} settings need as many ranges", got=(self.low, self.high)
            )
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(
                    "is not a range", where=name, got=(low, high), allowed="finite low < high"
                )
        if not (math.isfinite(self.step) and self.step > 0):
            raise ConfigError("must be above 0", where="step", got=self.step)

    @property
    def dimensions(self) -> int:
        """G, the number of settings."""
        return len(self.names)

    def snapped(self, point: ArrayLike) -> Coordinates:
        """The nearest point of the space, as short decimals: (G,) -> G floats."""
        return self.points(np.asarray(point, dtype=np.float64)[np.newaxis])[0]

    def points(self, array: ArrayLike) -> list[Coordinates]:
        """Every row's nearest point: (n, G) -> n points, in order, repeats included."""
        steps = np.rint(np.asarray(array, dtype=np.float64) / self.step)
        # Adding 0 turns −0.0 into 0.0, which recipes would show.
        inside = np.clip(np.round(steps * self.step, 10), self.low, self.high) + 0.0
        return [tuple(row) for row in inside.tolist()]

    def scaled(self, points: ArrayLike) -> Array:
        """Points (n, G) in units of the ranges, [−1, 1]."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return 2 * (np.asarray(points, dtype=np.float64).reshape(-1, len(low)) - low) / (
            high - low
        ) - np.asarray(1.0)

    def unscaled(self, unit: ArrayLike) -> Array:
        """(n, G) in [0, 1] -> λ."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return np.asarray(low + np.asarray(unit, dtype=np.float64) * (high - low))

    def random(self, count: int, rng: np.random.Generator) -> list[Coordinates]:
        """``count`` uniform points, repeats included."""
        return self.points(self.unscaled(rng.random((count, self.dimensions))))

    def sobol(self, count: int, seed: int) -> list[Coordinates]:
        """The first ``count`` distinct points of a scrambled Sobol sequence.

        A longer call begins with a shorter one's points. Fewer come back when the space has
        fewer. Source: Owen 1998, scipy.stats.qmc.Sobol.
        """
        from scipy.stats import qmc

        exponent = max(count, 2).bit_length()
        while True:
            rng = np.random.default_rng(seed)
            unit = qmc.Sobol(self.dimensions, scramble=True, seed=rng).random_base2(exponent)
            found = distinct(self.points(self.unscaled(unit)))
            if len(found) >= count or exponent >= _LARGEST_DRAW:
                return found[:count]
            exponent += 2


def distinct(points: Iterable[Coordinates], but: Collection[Coordinates] = ()) -> list[Coordinates]:
    """Points in order, each once, without those in ``but``."""
    left_out = set(but)
    return [point for point in dict.fromkeys(points) if point not in left_out]
