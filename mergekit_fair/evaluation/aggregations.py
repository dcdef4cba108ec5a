"""Fairness metrics as lm-eval aggregations: one item a document, (prediction, label, groups).

prediction: 0, 1, or None where the model gave no answer. groups: those that may decide a maximum.
Every value is a float, NaN where it is undefined, and a point value: later versions of lm-eval
bootstrap every aggregation that is no mean, and intervals are computed from the samples.
The definitions are those of `mergekit_fair.fairness`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from mergekit_fair.fairness import estimate

Item = tuple[int | None, int, Collection[str]]
Preference = tuple[int | None, str]


def bal_acc(items: Sequence[Item]) -> float:
    """Balanced accuracy, (TPR + 1 − FPR) / 2, in [0, 1]; NaN unless both classes occur."""
    return _value(items, "bal_acc")


def worst_group_acc(items: Sequence[Item]) -> float:
    """Accuracy of the group that has the lowest, in [0, 1]; NaN without groups."""
    return _value(items, "worst_group_acc")


def selection_rate(items: Sequence[Item]) -> float:
    """Share of positive predictions, in [0, 1]: 0 or 1 says that the model is constant."""
    return _value(items, "selection_rate")


def dpd(items: Sequence[Item]) -> float:
    """Demographic parity difference between groups, in [0, 1]; NaN where it is undefined.

    max_g SR_g − min_g SR_g, see `mergekit_fair.fairness`.
    """
    return _value(items, "dpd")


def eod(items: Sequence[Item]) -> float:
    """Equalized odds difference between groups, in [0, 1]; NaN where it is undefined.

    max(range of TPR_g, range of FPR_g), see `mergekit_fair.fairness`.
    """
    return _value(items, "eod")


def preference_gap(items: Sequence[Preference]) -> float:
    """max_t − min_t of the preference rate of a type, in [0, 1]; NaN with fewer than two types.

    Args:
        items: (1 if the stereotype is preferred, else 0; None without an answer; the type).
    """
    answers: dict[str, list[int]] = {}
    for preferred, kind in items:
        if preferred is not None:
            answers.setdefault(kind, []).append(preferred)
    rates = [sum(found) / len(found) for found in answers.values()]
    return max(rates) - min(rates) if len(rates) > 1 else math.nan


def preference_rate(items: Sequence[int | None]) -> float:
    """Mean of the preferences, in [0, 1]; None (another type, no answer) is left out, NaN without.

    Args:
        items: one a document: 1, 0 or None.
    """
    found = [preferred for preferred in items if preferred is not None]
    return sum(found) / len(found) if found else math.nan


def _value(items: Sequence[Item], name: str) -> float:
    predicted, labels, groups = zip(*items, strict=True)
    return estimate(labels, predicted, groups)[name]
