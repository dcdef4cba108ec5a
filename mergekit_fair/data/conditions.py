"""Which rows of the table are used at all: those that meet every condition of `keep`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from mergekit_fair.data.blocks import Text, Threshold, Values
from mergekit_fair.data.cells import column, listed, missing, numbers, texts
from mergekit_fair.data.label_column import COMPARE
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


class Condition(Threshold):
    """One condition on one column: named values, all but named values, or a threshold."""

    column: Text
    is_: Values | None = Field(default=None, alias="is")
    not_: Values | None = Field(default=None, alias="not")

    @model_validator(mode="after")
    def _one_rule(self) -> Condition:
        given = [self.is_, self.not_, self.bound]
        if sum(rule is not None for rule in given) != 1:
            raise ValueError("needs exactly one of is, not, ge, gt, le and lt")
        return self


def kept_rows(frame: pd.DataFrame, conditions: tuple[Condition, ...], where: str) -> np.ndarray:
    """Bool (n,): the rows that meet every condition. A missing cell meets no threshold.

    Raises:
        DataError: unknown column, a value beside a threshold that is no number, or no row is left.
    """
    kept = np.ones(len(frame), dtype=bool)
    for index, condition in enumerate(conditions):
        kept &= _meets(frame, condition, f"{where}, keep.{index}")
        if not kept.any():
            raise DataError(
                "no row is left",
                where=f"{where}, keep.{index} (column {condition.column!r})",
                fix="check the condition against the column's values",
            )
    return kept


def _meets(frame: pd.DataFrame, condition: Condition, where: str) -> np.ndarray:
    cells = column(frame, condition.column, f"{where}.column")
    if condition.bound is None:
        named = condition.is_ if condition.is_ is not None else condition.not_
        inside = np.array([value in (named or ()) for value in texts(cells)], dtype=bool)
        return inside if condition.is_ is not None else ~inside
    name, bound = condition.bound
    scores, gaps = numbers(cells), missing(cells)
    if (bad := np.flatnonzero(np.isnan(scores) & ~gaps)).size:
        raise DataError(
            f"{bad.size} of {len(cells)} values are not numbers: {listed(texts(cells), bad)}",
            where=f"{where}, column {condition.column!r}",
        )
    return np.asarray(~gaps & COMPARE[name](scores, bound))
