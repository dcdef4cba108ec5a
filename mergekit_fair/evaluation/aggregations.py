"""Fairness metrics as lm-eval aggregations: one item a document, (prediction, label, groups).

prediction: 0, 1, or None where the model gave no answer. groups: those that may decide a maximum.
Every value is a float, NaN where it is undefined, and a point value: later versions of lm-eval
bootstrap every aggregation that is not a mean, and intervals are computed from the samples.

There is a function for every metric of `mergekit_fair.fairness.METRICS`, of its name: a task file
says `aggregation: !function mergekit_fair.evaluation.aggregations.dpd`. So there is for the AUCs of
`SCORE_METRICS`, which take the items of `tasks.process_scored_results`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from mergekit_fair.fairness import METRICS, CountTable, MetricSettings, ScoreQuality
from mergekit_fair.fairness.intervals import Number
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.fairness.measure import estimate_table
from mergekit_fair.fairness.score_quality import measure_quality

Item = tuple[int | None, int, Collection[str]]
Preference = tuple[int | None, str]
# Score, label, groups that may decide, and weight or None.
ScoreItem = tuple[float | None, int, Collection[str], float | None]

SCORE_METRICS: Mapping[str, Callable[[ScoreQuality], Number]] = {
    "auc": lambda quality: quality.auc.value,
    "subgroup_auc": lambda quality: quality.power_means.auc,
    "bpsn_auc": lambda quality: quality.power_means.bpsn_auc,
    "bnsp_auc": lambda quality: quality.power_means.bnsp_auc,
    "bias_auc": lambda quality: quality.power_means.combined,
}
"""AUC over all documents; the means with the power −5 over groups of the three AUCs of a group;
and the mean of these four, which ranked the models of the competition on Civil Comments."""


@cache
def aggregation(metric: str) -> Callable[[Sequence[Item]], float]:
    """The aggregation of a metric of the table.

    >>> aggregation("dpd")([(1, 1, ["a"]), (0, 1, ["a"]), (0, 0, ["b"]), (None, 0, [])])
    nan
    >>> aggregation("acc")([(1, 1, ["a"]), (0, 1, ["a"]), (0, 0, ["b"]), (None, 0, [])])
    0.5
    """

    def aggregate(items: Sequence[Item]) -> float:
        predicted, labels, groups = zip(*items, strict=True)
        codes = np.array([UNANSWERED if value is None else value for value in predicted])
        weights = [getattr(item, "weight", None) for item in items]
        # Some with a weight and some without are an error, never rows of equal weight.
        known = np.array(weights, dtype=float) if any(w is not None for w in weights) else None
        table = CountTable.of_codes(np.array(labels), codes, groups, known)
        return estimate_table(table)[metric]

    aggregate.__name__ = aggregate.__qualname__ = metric
    aggregate.__doc__ = METRICS[metric].description
    return aggregate


@cache
def score_aggregation(metric: str) -> Callable[[Sequence[ScoreItem]], float]:
    """The aggregation of a metric of `SCORE_METRICS`.

    >>> score_aggregation("auc")([(0.3, 1, ["a"], None), (0.1, 0, [], None), (0.3, 0, [], None)])
    0.75
    """

    def aggregate(items: Sequence[ScoreItem]) -> float:
        scores, labels, groups, weights = zip(*items, strict=True)
        given = np.array(weights, dtype=float) if any(w is not None for w in weights) else None
        settings = MetricSettings(draws=1)
        codes = np.array(labels, dtype=np.int8)
        quality = measure_quality(codes, scores, groups, settings, weights=given)
        value = SCORE_METRICS[metric](quality)
        return math.nan if value is None else value

    aggregate.__name__ = aggregate.__qualname__ = metric
    return aggregate


def __getattr__(name: str) -> Callable[[Sequence[Any]], float]:
    if name in SCORE_METRICS:
        return score_aggregation(name)
    if name not in METRICS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return aggregation(name)


def preference_gap(items: Sequence[Preference]) -> float:
    """max_t − min_t of the preference rate of a type, in [0, 1]; NaN with fewer than two types.

    Args:
        items: (1 if the stereotype is preferred, else 0; None without an answer; the type).
    """
    answers: dict[str, list[int]] = {}
    for preferred, kind in items:
        if preferred is not None:
            answers.setdefault(kind, []).append(preferred)
    rates = [sum(preferences) / len(preferences) for preferences in answers.values()]
    return max(rates) - min(rates) if len(rates) > 1 else math.nan


def preference_rate(items: Sequence[int | None]) -> float:
    """Mean of the preferences, in [0, 1]; None (another type, no answer) is left out, NaN without.

    Args:
        items: one a document: 1, 0 or None.
    """
    answered = [preferred for preferred in items if preferred is not None]
    return sum(answered) / len(answered) if answered else math.nan
