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


STEP = 0.2


class TransferRows:
    """Two large groups, a small one and a rest; a target that is right for 85 % of each."""

    def __init__(self, n=4000, small=0.05, seed=0):
        self.rng = np.random.default_rng(seed)
        label = self.rng.choice(4, n, p=[0.4, 0.4, small, 0.2 - small])
        self.y = self.rng.integers(0, 2, n).astype(np.int8)
        self.groups = {name: label == at for at, name in enumerate(("A", "B", "C"))}
        self.target = np.where(self.rng.random(n) < 0.85, self.y, 1 - self.y).astype(np.int8)

    def harmed(self, name, share=0.4):
        """Rows of a group are predicted 1 more often."""
        found = self.target.copy()
        found[self.groups[name] & (self.rng.random(len(self.y)) < share)] = 1
        return found

    def helped(self, share=0.8):
        """Most errors are mended, in every group."""
        found = self.target.copy()
        mended = (found != self.y) & (self.rng.random(len(self.y)) < share)
        found[mended] = self.y[mended]
        return found

    def matrix(self, stepped, **options):
        target = options.pop("target", self.target)
        return matrix(self.y, target, stepped, self.groups, step=STEP, **options)
