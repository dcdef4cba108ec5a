"""What rows count for: weights, read and checked.

Weights are sampling weights: a row of weight w stands for w rows of the population. Rates are
shares of weight, and the bootstrap resamples rows together with their weights. Only ratios of
weights matter, so they are divided by a power of two, which changes no ratio and keeps their
squares in range. A row of weight 0 stands for nobody: it is left out, as if it were not there.
Equal weights are none.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.labels import unmasked

Weights = NDArray[np.float64]
_LEAST = 1e-100  # of the largest weight: squares of smaller ones are 0


class Weighted(NamedTuple):
    """Which rows count, and for how much.

    Attributes:
        rows: what picks the m rows that count from arrays (n, ...): indices, or all of them.
        weights: (m,), in (0, 1); None if all are equal.
        weightless: n − m, the rows of weight 0.
    """

    rows: NDArray[np.intp] | slice
    weights: Weights | None
    weightless: int

    @classmethod
    def of(cls, weights: ArrayLike | None, n: int) -> Weighted:
        """Read the weights of n rows; None for none.

        Raises:
            MeasurementError: as `row_weights`, or weights that are too far apart.

        >>> Weighted.of([3.0, 0.0, 1.5], 3)
        Weighted(rows=array([0, 2]), weights=array([0.75 , 0.375]), weightless=1)
        >>> Weighted.of([2, 2], 2).weights is None
        True
        """
        if weights is None:
            return cls(slice(None), None, 0)
        values = row_weights(weights, n)
        rows = np.flatnonzero(values)
        counting = values[rows]
        weightless = n - len(rows)
        picked = rows if weightless else slice(None)
        if (counting == counting[0]).all():
            return cls(picked, None, weightless)
        if counting.min() < _LEAST * counting.max():
            raise MeasurementError(
                "are too far apart for sums of them",
                where="weights",
                got=f"{counting.min():g} and {counting.max():g}",
                allowed=f"a smallest one of at least {_LEAST:g} of the largest; or 0",
            )
        exponent = np.frexp(counting.max())[1]
        return cls(picked, np.ldexp(counting, -exponent), weightless)


def row_weights(weights: ArrayLike, n: int) -> Weights:
    """Weights as float64 (n,).

    Args:
        weights: numbers, one a row: finite, none below 0, not all 0.
        n: number of rows.

    Raises:
        MeasurementError: anything else, with the first row that is wrong.
    """
    array = np.asarray(unmasked(weights))
    if array.dtype.kind == "O":
        array = _from_objects(array)
    if array.dtype.kind not in "iuf":  # neither text nor truth values are weights
        raise MeasurementError(
            "must be numbers", where="weights", got=f"dtype {array.dtype}", allowed="numbers >= 0"
        )
    if array.shape != (n,):
        raise MeasurementError(
            "needs one number per row",
            where="weights",
            got=f"shape {array.shape}",
            allowed=f"shape ({n},)",
            fix="pass the weights of the same rows as y_true, in the same order",
        )
    values = array.astype(np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise MeasurementError(
            f"row {row} has no weight that a row can have",
            where="weights",
            got=float(values[row]),
            allowed="finite numbers >= 0",
            fix="complete or drop the row; a row of weight 0 is left out",
        )
    if not values.any():
        raise MeasurementError("are all 0", where="weights", fix="give rows that count a weight")
    return values


def _from_objects(array: NDArray[Any]) -> NDArray[Any]:
    """Numbers of an object array, which pandas makes; None becomes NaN, for the check of rows."""
    if any(isinstance(value, str | bytes | bool | np.bool_ | complex) for value in array.ravel()):
        return array
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        missing = [None if type(value).__name__ == "NAType" else value for value in array.ravel()]
        try:
            return np.array(missing, dtype=np.float64).reshape(array.shape)
        except (TypeError, ValueError):
            return array
