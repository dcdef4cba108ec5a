"""Metrics that no model can have on some rows: known before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.multi_predictions import AnyPredictions, MultiPredictions
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import METRICS, MetricSettings, estimate
from mergekit_fair.fairness.eligible_groups import GroupSizes
from mergekit_fair.fairness.one_vs_rest import estimate_views
from mergekit_fair.fairness.rates import DPD_RATES, EOD_RATES
from mergekit_fair.sweep.limits import Select
from mergekit_fair.sweep.sweep_config import Evaluate

_NO_VIEW = "no class or label has two groups with enough rows to decide it"


def require_definable(
    select: Select, tasks: Mapping[str, AnyPredictions], evaluate: Evaluate, where: object
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
        if name not in known[task]:
            why = METRICS[name].undefined if name in METRICS else _NO_VIEW
            raise SweepError(
                f"{metric} has no value on the {select.split} rows, whatever a model predicts: "
                f"{why}",
                where=where,
                got=_counts(tasks[task], evaluate),
                fix=f"lower evaluate.min_group_size ({evaluate.min_group_size}), merge groups, "
                "give this split more rows (larger shares, fewer groups excluded), or take another "
                "metric into the rule",
            )


def require_candidates(
    candidates: Collection[str], rows: Predictions, evaluate: Evaluate, where: object
) -> None:
    """Some group can be called the one that is served worst.

    Args:
        candidates: the groups that have a model to inject.
        rows: that it is chosen on.
        evaluate: group size.
        where: the sweep file, for errors.

    Raises:
        SweepError: none has a DPD and an EOD, to its rest, that rest on enough rows.
    """
    sizes = _sizes(rows, evaluate)
    may = sizes.against_rest((*DPD_RATES, *EOD_RATES))
    if not any(name in candidates for name, one in zip(sizes.names, may, strict=True) if one):
        raise SweepError(
            "no group can be called the worst one: none has enough rows of both labels, and as "
            "many outside it",
            where=f"{where}: inject.groups",
            got=_counts(rows, evaluate),
            allowed=sorted(candidates),
            fix=f"lower evaluate.min_group_size ({evaluate.min_group_size}), give the split more "
            "rows, or name the groups",
        )


def _sizes(rows: Predictions, evaluate: Evaluate) -> GroupSizes:
    return rows.sizes(MetricSettings(min_group_size=evaluate.min_group_size))


def _definable(rows: AnyPredictions, evaluate: Evaluate) -> Iterator[str]:
    """The metrics of a model that is always right, and of one that always says 1."""
    if isinstance(rows, MultiPredictions):
        settings = MetricSettings(
            reference=evaluate.reference, min_group_size=evaluate.min_group_size
        )
        right = replace(rows, predicted=rows.labels).counted()
        values = estimate_views(right, settings.excluding(rows.excluded))
        yield from (name for name, value in values.items() if not math.isnan(value))
        return
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


def _counts(rows: AnyPredictions, evaluate: Evaluate) -> str:
    """Of all rows and of each group that weigh something: how many, and how many are positive; of
    classes or labels for each of them.
    """
    if isinstance(rows, MultiPredictions):
        return "; ".join(f"{name}: {_counts(of, evaluate)}" for name, of in rows.views.items())
    sizes = _sizes(rows, evaluate)
    weighing = np.ones(len(rows), dtype=bool) if rows.weights is None else rows.weights > 0
    said = [f"{int(rows.labels[weighing].sum())} of {int(weighing.sum())} rows positive"]
    for name, by_label, excluded in zip(
        sizes.names, sizes.inside.tolist(), sizes.excluded, strict=True
    ):
        small = min(by_label) < sizes.least
        note = " (excluded)" if excluded else " (too small)" if small else ""
        said.append(f"{name} {by_label[1]} of {sum(by_label)}{note}")
    return ", ".join(said)
