"""Checks that labels and predictions are binary integers before anything is counted.

String labels, probabilities and NaN labels are refused: fairlearn takes all three in silence and
answers with a DPD of 0.0. A prediction may be missing (None, NaN, pandas.NA, masked): a score that
is not a number, an answer that cannot be parsed. It is counted as missing, never as a 0. Because a
column of integers becomes one of floats as soon as a value is missing, predictions, unlike labels,
may be the floats 0.0 and 1.0.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError

_ALLOWED = (0, 1)
UNANSWERED = 2  # what a missing prediction becomes


def binary_labels(values: ArrayLike, name: str) -> NDArray[np.int8]:
    """Return `values` as 0/1 labels of shape (n,).

    Args:
        values: shape (n,), integers or booleans that are 0 or 1.
        name: what the caller calls them (`y_true`, `y_pred`), for messages.

    Raises:
        MeasurementError: a value is not a 0/1 integer, there are no rows, or there is more than one
            dimension.
    """
    array = _as_array(values, name)
    if array.ndim != 1:
        raise MeasurementError(
            "needs one value per row",
            where=name,
            got=f"shape {array.shape}",
            allowed="shape (n,)",
            fix="for class scores, take the predicted class of every row first",
        )
    if array.size == 0:
        raise MeasurementError(
            "there are no rows", where=name, fix="check the split and the filters of the data"
        )
    if array.dtype == object:
        array = _from_objects(array, name)
    if array.dtype.kind == "f":
        _refuse_floats(array, name)
    if array.dtype.kind not in "biu":
        raise _not_binary(name, array[0].item())
    wrong = (array != 0) & (array != 1)
    if wrong.any():
        raise _not_binary(name, array[wrong][0].item())
    return array.astype(np.int8)


def binary_predictions(values: ArrayLike, name: str) -> NDArray[np.int8]:
    """Return `values` as predictions of shape (n,): 0, 1, or UNANSWERED for None and NaN.

    Args:
        values: shape (n,), integers, booleans or whole floats that are 0 or 1; None, NaN,
            pandas.NA or masked where there is no usable prediction.
        name: what the caller calls them, for messages.

    Raises:
        MeasurementError: as `binary_labels`, missing values and whole floats excepted.
    """
    array = _as_array(values, name)
    if array.dtype.kind not in "fO" or array.ndim != 1 or not array.size:
        return binary_labels(array, name)
    missing = _missing_values(array)
    codes = np.full(array.shape, UNANSWERED, dtype=np.int8)
    if not missing.all():
        codes[~missing] = binary_labels(_whole(array[~missing]), name)
    return codes


def same_length(y_true: NDArray[Any], other: NDArray[Any], name: str) -> None:
    """Raise MeasurementError unless `other` has one value for every row of `y_true`."""
    if len(y_true) != len(other):
        raise MeasurementError(
            "differs in length from y_true",
            where=name,
            got=len(other),
            allowed=len(y_true),
            fix="pass one value per row, in the same order",
        )


def _as_array(values: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(unmasked(values))
    except ValueError as error:
        raise MeasurementError(
            "rows differ in length", where=name, allowed="one 0 or 1 per row"
        ) from error


def _missing_values(array: NDArray[Any]) -> NDArray[np.bool_]:
    if array.dtype.kind == "f":
        return np.asarray(np.isnan(array))
    return np.array([value is None or is_nan(value) for value in array], dtype=bool)


def _whole(array: NDArray[Any]) -> NDArray[Any]:
    """Turn the floats 0.0 and 1.0 into integers; leave everything else for the checks."""
    if array.dtype.kind == "f":
        return array.astype(np.int8) if np.isin(array, _ALLOWED).all() else array
    whole = array.copy()
    for row, value in enumerate(array):
        if isinstance(value, float | np.floating) and value in _ALLOWED:
            whole[row] = int(value)
    return whole


def unmasked(values: Any) -> Any:
    """Return a masked array with None where it is masked; anything else as it is.

    np.asarray alone would show what the mask hides.
    """
    if not isinstance(values, np.ma.MaskedArray):
        return values
    shown = np.array(values.data, dtype=object)
    shown[np.ma.getmaskarray(values)] = None
    return shown


def is_nan(value: object) -> bool:
    """Whether a value is NaN, NaT or pandas.NA: only these are not plainly equal to themselves."""
    try:
        return not bool(value == value)
    except (TypeError, ValueError):  # pandas.NA refuses to be a truth value; arrays have many
        return type(value).__name__ == "NAType"


def _from_objects(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Turn an object array (pandas makes them) into numbers, without parsing strings."""
    for row, value in enumerate(array):
        if value is None or is_nan(value):
            raise _missing(name, row)
        if isinstance(value, float | np.floating):
            raise _not_integer(name, float(value))
        integer = isinstance(value, bool | int | np.bool_ | np.integer)
        if not integer or value not in _ALLOWED:  # before astype, which a huge int overflows
            raise _not_binary(name, value)
    return array.astype(np.int8)


def _refuse_floats(array: NDArray[Any], name: str) -> NoReturn:
    missing = np.isnan(array)
    if missing.any():
        raise _missing(name, int(missing.argmax()))
    fractional = (array != 0) & (array != 1)
    # Of probabilities show one that looks like one, not a rounded 0.0.
    raise _not_integer(name, float(array[fractional.argmax()]))


def _missing(name: str, row: int) -> MeasurementError:
    return MeasurementError(
        f"missing value (NaN) in row {row}",
        where=name,
        allowed=_ALLOWED,
        fix="drop or complete rows without a value; NaN never counts as a negative",
    )


def _not_integer(name: str, got: float) -> MeasurementError:
    return MeasurementError(
        "probabilities are not predictions",
        where=name,
        got=got,
        allowed="the integers 0 and 1",
        fix="threshold scores with predict_at(scores, threshold), or cast labels with astype(int)",
    )


def _not_binary(name: str, got: object) -> MeasurementError:
    return MeasurementError(
        "labels must be binary integers",
        where=name,
        got=got,
        allowed=_ALLOWED,
        fix="map the classes to 1 (the positive class) and 0 first",
    )
