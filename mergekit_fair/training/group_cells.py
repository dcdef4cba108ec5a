"""What training baselines know of groups: a column for each, and the weight of every row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import TrainingError

if TYPE_CHECKING:
    from mergekit_fair.data import Rows

REST = "(no group)"


def group_members(rows: Rows) -> dict[str, NDArray[np.bool_]]:
    """Group → bool (n,), its rows; what has no group of its own is a group, too.

    Groups without a meaning (`excluded`) and without rows are left out, so that every row is in one
    at least.

    Raises:
        TrainingError: fewer than two groups.
    """
    members = {
        name: rows.membership[:, column]
        for column, name in enumerate(rows.group_names)
        if name not in rows.excluded and rows.membership[:, column].any()
    }
    rest = ~np.any([np.zeros(len(rows), bool), *members.values()], axis=0)
    if rest.any():
        members[REST] = rest
    if len(members) < 2:
        raise TrainingError(
            "training rows of two groups or more are needed to weigh groups against each other",
            where=rows.name,
            got=list(members),
            fix="leave `reweight` and `dro` out, or describe groups",
        )
    return members


def reweighing(rows: Rows) -> NDArray[np.float64]:
    """Weights under which label and group are independent: w(g, y) = P(g) P(y) / P(g, y), (n, L).

    P(y) stays what it is: so does how often a model that fits the weighted rows says yes. A group
    is here a row's whole pattern of groups, so that the label is independent of each of several
    overlapping groups, too. Of several labels each has weights of its own (L of them, else 1). The
    mean is 1; where a pattern has one label only, nothing can make up for what it lacks.

    Raises:
        TrainingError: fewer than two groups.

    Source: Kamiran and Calders, "Data preprocessing techniques for classification without
    discrimination", 2012.

    >>> from mergekit_fair.data import Rows
    >>> inside = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1]], bool)
    >>> rows = Rows("r", "text", ("",) * 6, np.array([1, 1, 1, 0, 1, 0], np.int8), ("a", "b"),
    ...             frozenset(), inside, np.array(["train"] * 6), np.arange(6))
    >>> w = reweighing(rows)[:, 0]
    >>> [round(float(w[:4][rows.labels[:4] == y].sum() / 4), 3) for y in (0, 1)]  # P(y) of a
    [0.333, 0.667]
    >>> [round(float(w[4:][rows.labels[4:] == y].sum() / 2), 3) for y in (0, 1)]  # and of b
    [0.333, 0.667]
    """
    members = np.stack(list(group_members(rows).values()), axis=1)
    pattern = np.unique(members, axis=0, return_inverse=True)[1].ravel()
    labels = rows.labels if rows.labels.ndim == 2 else rows.labels[:, None]
    return np.stack([_independent(pattern, column) for column in labels.T], axis=1)


def _independent(pattern: NDArray[np.int64], labels: NDArray[np.int8]) -> NDArray[np.float64]:
    """P(g) P(y) / P(g, y) of every row, with a mean of 1."""
    label = np.unique(labels, return_inverse=True)[1]
    counts = np.zeros((pattern.max() + 1, label.max() + 1))
    np.add.at(counts, (pattern, label), 1)
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / len(label)
    weights = (expected / np.maximum(counts, 1))[pattern, label]
    return np.asarray(weights / weights.mean())
