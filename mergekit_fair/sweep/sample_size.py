"""What the rows of a sweep can show: known from labels and groups, before a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mergekit_fair.evaluation.multi_predictions import AnyPredictions
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import HEADLINE, MetricSettings
from mergekit_fair.fairness.power import Assumed, Detectable, Study, detectable
from mergekit_fair.sweep.record import PointResult

_RATES = ("selection_rate", "tpr", "fpr")


def planned(
    rows: Mapping[str, AnyPredictions], settings: MetricSettings, comparisons: int
) -> dict[str, Detectable]:
    """Split → the smallest gaps and differences that its rows can show.

    A model is assumed to select as many rows as have a positive label, with a TPR of 0.75, and to
    agree with another on 90 % of them.

    Args:
        rows: split → rows of the deciding task; what is predicted is not looked at.
        settings: how they are measured. Of another reference than max − min nothing is known, nor
            of means and maxima over classes or labels.
        comparisons: how many models the chosen one will be compared with.
    """
    if settings.reference != "between_groups":
        return {}
    return {
        split: detectable(_study(each, settings), tests=_tests(comparisons))
        for split, each in rows.items()
        if isinstance(each, Predictions)
    }


def of_report(
    rows: AnyPredictions,
    settings: MetricSettings,
    points: Sequence[PointResult],
    answers: Callable[[PointResult], AnyPredictions],
    *,
    reference: str,
    chosen: str | None,
    comparisons: int,
) -> Detectable | None:
    """The same of report rows, with the rates of a baseline on the selection's rows.

    Args:
        rows, settings: as above.
        points: measured on the rows that were selected on.
        answers: what a point predicted there.
        reference: label of the baseline; if there is none, rates are assumed.
        chosen: id of the chosen point, whose agreement with the baseline is taken; None: 90 %.
        comparisons: how many models the chosen one was compared with.
    """
    if settings.reference != "between_groups" or not isinstance(rows, Predictions):
        return None
    study = _study(rows, settings)
    assumed = Assumed.of(study.base_rate)
    baseline = next((p for p in points if (p.kind, p.label) == ("baseline", reference)), None)
    if baseline is not None:
        rates = {name: baseline.value(name) for name in _RATES}
        known = {name: rate for name, rate in rates.items() if rate is not None}
        assumed = assumed.model_copy(update=known)
        point = next((p for p in points if p.id == chosen), None)
        if point is not None:
            alike = answers(point).predicted == answers(baseline).predicted
            assumed = assumed.model_copy(update={"agreement": float(np.mean(alike))})
    return detectable(study, assumed, tests=_tests(comparisons))


def _study(rows: Predictions, settings: MetricSettings) -> Study:
    return Study.of(
        rows.labels,
        rows.members,
        settings.excluding(rows.excluded),
        weights=rows.weights,
        clusters=getattr(rows, "clusters", None),
    )


def _tests(comparisons: int) -> int:
    return len(HEADLINE) * max(comparisons, 1)
