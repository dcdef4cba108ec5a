"""Transfer matrices of arrays: what a sweep makes of points' answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.sweep.transfer_matrix import Transfer, transfer_matrix


def answers(y: Any, groups: Any, *, weights: Any = None, exclude: Any = ()) -> Predictions:
    """Rows of which nothing is predicted."""
    members = Groups.of(groups, len(y))
    return Predictions(
        task="rows",
        keys=tuple(range(len(y))),
        labels=np.asarray(y, dtype=np.int8),
        predicted=np.full(len(y), 2, dtype=np.int8),
        groups={name: members.membership[:, at] for at, name in enumerate(members.names)},
        excluded=tuple(exclude),
        weights=weights,
    )


def scored(predicted: Any) -> Any:
    """Predictions 0, 1 and 2 as scores of a model that says nothing else; scores as they are."""
    values = np.asarray(predicted)
    if values.dtype.kind == "O":
        values = np.array([2 if value is None else value for value in values])
    if values.dtype.kind == "f":
        return values
    return np.where(values > 1, np.nan, np.where(values == 1, np.inf, -np.inf))


def matrix(
    y: Any,
    target: Any,
    stepped: Mapping[str, Any],
    groups: Any,
    *,
    step: float,
    weights: Any = None,
    exclude: Any = (),
    **settings: Any,
) -> Transfer:
    """`transfer_matrix` of predictions (integers) or of scores (floats)."""
    rows = answers(y, groups, weights=weights, exclude=exclude)
    after = {name: rows.with_scores(scored(each)) for name, each in stepped.items()}
    before = rows.with_scores(scored(target))
    return transfer_matrix(before, after, MetricSettings(**settings), step=step)
