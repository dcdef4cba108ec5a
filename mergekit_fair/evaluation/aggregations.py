"""Fairness metrics as lm-eval aggregations: one item a document, (prediction, label, groups).

prediction: 0, 1, or None where the model gave no answer. groups: those that may decide a maximum.
Every value is a float, NaN where it is undefined, and a point value: later versions of lm-eval
bootstrap every aggregation that is not a mean, and intervals are computed from the samples.

There is a function for every metric of `mergekit_fair.fairness.METRICS`, of its name: a task file
says `aggregation: !function mergekit_fair.evaluation.aggregations.dpd`. So there is for the AUCs of
`SCORE_METRICS`, which take the items of `tasks.process_scored_results`; and for `macro_dpd`,
`worst_dpd`, `macro_eod` and `worst_eod` of documents with several classes or labels, whose items
name these, too: (prediction, label, groups, names). There a prediction is the number of a class, or
0 or 1 of every label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness import METRICS, CountTable, MetricSettings, ScoreQuality
from mergekit_fair.fairness.intervals import Number
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.fairness.measure import estimate_table
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS, estimate_views
from mergekit_fair.fairness.score_quality import measure_quality
from mergekit_fair.fairness.scores import measure_score_rows
from mergekit_fair.fairness.settings import MIN_GROUP_SIZE
from mergekit_fair.fairness.views import Views

Item = tuple[int | None, int, Collection[str]]
# The number of a class, or of every label 0 or 1; the same of the truth; groups; names.
ViewItem = tuple[int | Sequence[int] | None, int | Sequence[int], Collection[str], Sequence[str]]
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


SIZE = "min_group_size"  # key of a task's metadata
Aggregation = Callable[[Sequence[Any]], float]
# Ours → the same by another size of groups.
_BY_SIZE: dict[Aggregation, Callable[[int], Aggregation]] = {}


def resized(function: Aggregation, least: int) -> Aggregation:
    """The same aggregation where groups of at least so many rows decide; others as they are."""
    return _BY_SIZE[function](least) if function in _BY_SIZE else function


def by_size(function: Aggregation, sized: Callable[[int], Aggregation]) -> Aggregation:
    """The function, of which there is one for every size of groups, see `resized`."""
    _BY_SIZE[function] = sized
    return function


@cache
def aggregation(metric: str, least: int = MIN_GROUP_SIZE) -> Callable[[Sequence[Item]], float]:
    """The aggregation of a metric of the table.

    Args:
        metric: its name.
        least: `min_group_size`.

    >>> items = [(1, 1, ["a"]), (0, 1, ["a"]), (0, 0, ["b"]), (None, 0, [])]
    >>> aggregation("worst_group_acc")(items), aggregation("worst_group_acc", least=1)(items)
    (nan, 0.5)
    >>> aggregation("acc")([(1, 1, ["a"]), (0, 1, ["a"]), (0, 0, ["b"]), (None, 0, [])])
    0.5
    """

    def aggregate(items: Sequence[Item]) -> float:
        predicted, labels, groups = zip(*items, strict=True)
        codes = np.array([UNANSWERED if value is None else value for value in predicted])
        table = CountTable.of_codes(np.array(labels), codes, groups, _weights(items))
        return estimate_table(table, MetricSettings(min_group_size=least))[metric]

    aggregate.__name__ = aggregate.__qualname__ = metric
    aggregate.__doc__ = METRICS[metric].description
    return by_size(aggregate, partial(aggregation, metric))


def _weights(items: Sequence[Any]) -> NDArray[np.float64] | None:
    """Of `tasks.WeightedItem`s; None of plain tuples.

    Some with a weight and some without are an error, never rows of equal weight.
    """
    weights = [getattr(item, "weight", None) for item in items]
    return np.array(weights, dtype=float) if any(w is not None for w in weights) else None


@cache
def view_aggregation(
    metric: str, least: int = MIN_GROUP_SIZE
) -> Callable[[Sequence[ViewItem]], float]:
    """The aggregation of a metric of `MULTI_METRICS`, of classes or of labels.

    Args:
        metric: its name.
        least: `min_group_size`.

    >>> names = ["hate", "offensive", "neither"]
    >>> items = [(0, 0, ["a"], names), (0, 1, ["a"], names), (1, 1, ["b"], names)]
    >>> view_aggregation("acc")(items), view_aggregation("worst_dpd", least=1)(items)
    (0.6666666666666666, 1.0)
    >>> names = ["toxic", "threat"]
    >>> items = [([1, 0], [1, 0], ["a"], names), (None, [0, 0], ["b"], names)]
    >>> view_aggregation("acc")(items), view_aggregation("macro_dpd")(items)
    (0.5, nan)
    """

    def aggregate(items: Sequence[ViewItem]) -> float:
        settings = MetricSettings(min_group_size=least)
        return estimate_views(views_of_items(items), settings)[metric]

    aggregate.__name__ = aggregate.__qualname__ = metric
    return by_size(aggregate, partial(view_aggregation, metric))


def views_of_items(items: Sequence[ViewItem]) -> Views:
    """Documents with several classes or labels, counted.

    Args:
        items: of one task; all have the same names.
    """
    predicted, labels, groups, (names, *_) = zip(*items, strict=True)
    weights, size = _weights(items), len(names)
    if all(isinstance(label, int) for label in labels):
        codes = [size if value is None else value for value in predicted]
        return Views.of_classes(np.array(labels), np.array(codes), names, groups, weights)
    silent = [UNANSWERED] * size
    answers = np.array([silent if value is None else value for value in predicted])
    columns = dict(zip(names, np.array(labels).T, strict=True))
    return Views.of_labels(columns, dict(zip(names, answers.T, strict=True)), groups, weights)


@cache
def score_aggregation(
    metric: str, least: int = MIN_GROUP_SIZE
) -> Callable[[Sequence[ScoreItem]], float]:
    """The aggregation of a metric of `SCORE_METRICS`.

    >>> score_aggregation("auc")([(0.3, 1, ["a"], None), (0.1, 0, [], None), (0.3, 0, [], None)])
    0.75
    """

    def aggregate(items: Sequence[ScoreItem]) -> float:
        scores, labels, groups, weights = zip(*items, strict=True)
        given = np.array(weights, dtype=float) if any(w is not None for w in weights) else None
        settings = MetricSettings(min_group_size=least, draws=1)
        codes = np.array(labels, dtype=np.int8)
        quality = measure_quality(codes, scores, groups, settings, weights=given)
        value = SCORE_METRICS[metric](quality)
        return math.nan if value is None else value

    aggregate.__name__ = aggregate.__qualname__ = metric
    return by_size(aggregate, partial(score_aggregation, metric))


def __getattr__(name: str) -> Callable[[Sequence[Any]], float]:
    if name == "preference_gap":
        return gap_of_preferences()
    if name in SCORE_METRICS:
        return score_aggregation(name)
    if name in MULTI_METRICS and name not in METRICS:
        return view_aggregation(name)
    if name not in METRICS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return aggregation(name)


@cache
def gap_of_preferences(least: int = MIN_GROUP_SIZE) -> Callable[[Sequence[Preference]], float]:
    """The aggregation `preference_gap`: max_t − min_t of the preference rate of a type, in [0, 1].

    NaN with fewer than two types of at least so many documents, and where more than 5 % of them are
    not answered. Items: (1 if the stereotype is preferred, else 0; None without an answer; the
    type).

    >>> gap_of_preferences(least=1)([(1, "age"), (0, "age"), (1, "gender")])
    0.5
    """

    def preference_gap(items: Sequence[Preference]) -> float:
        preferred, kinds = zip(*items, strict=True)
        settings = MetricSettings(min_group_size=least, draws=1)
        value = measure_score_rows(preferred, kinds, settings).gap.value
        return math.nan if value is None else value

    return by_size(preference_gap, gap_of_preferences)


def preference_rate(items: Sequence[int | None]) -> float:
    """Mean of the preferences, in [0, 1]; None (another type, no answer) is left out, NaN without.

    Args:
        items: one a document: 1, 0 or None.
    """
    answered = [preferred for preferred in items if preferred is not None]
    return sum(answered) / len(answered) if answered else math.nan
