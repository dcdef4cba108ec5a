"""Metrics that no model can have on some rows: known before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import METRICS, estimate
from mergekit_fair.sweep.limits import Select
from mergekit_fair.sweep.sweep_config import Evaluate


def require_definable(
    select: Select, tasks: Mapping[str, Predictions], evaluate: Evaluate, where: object
) -> None:
    """Every metric of the rule has a value for some predictions.

    Args:
        tasks: task → the rows that the rule is read on; the first decides.
        evaluate: reference and group size.
        where: the sweep file, for errors.

    Raises:
        SweepError: a metric has none: the rows lack a label, or groups that have both.
    """
    first = next(iter(tasks))
    known: dict[str, frozenset[str]] = {}
    for metric in select.metrics:
        task, _, name = metric.rpartition("/")
        task, name = task or first, name.rpartition(".")[2]
        if task not in known:
            known[task] = frozenset(_definable(tasks[task], evaluate))
        if name in METRICS and name not in known[task]:
            raise SweepError(
                f"{metric} has no value on the {select.split} rows, whatever a model predicts: "
                f"{METRICS[name].undefined}",
                where=where,
                got=_counts(tasks[task], evaluate),
                fix="take another metric into the rule, or give this split rows of both labels of "
                "two groups (larger shares, another column, fewer groups excluded)",
            )


def _definable(rows: Predictions, evaluate: Evaluate) -> Iterator[str]:
    """The metrics of a model that is always right, and of one that always says 1."""
    for predicted in (rows.labels, np.ones_like(rows.labels)):
        values = estimate(
            rows.labels,
            predicted,
            rows.groups,
            weights=rows.weights,
            reference=evaluate.reference,
            min_group_size=evaluate.min_group_size,
            exclude=rows.excluded,
        )
        yield from (name for name, value in values.items() if not math.isnan(value))


def _counts(rows: Predictions, evaluate: Evaluate) -> str:
    """Of all rows and of each group that weigh something: how many, and how many are positive."""
    weighing = np.ones(len(rows), dtype=bool) if rows.weights is None else rows.weights > 0
    said = [f"{int(rows.labels[weighing].sum())} of {int(weighing.sum())} rows positive"]
    for name, members in rows.groups.items():
        inside = members & weighing
        n = int(inside.sum())
        small = n < evaluate.min_group_size
        note = " (excluded)" if name in rows.excluded else " (too small)" if small else ""
        said.append(f"{name} {int(rows.labels[inside].sum())} of {n}{note}")
    return ", ".join(said)
