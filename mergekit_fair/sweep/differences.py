"""Models on the same rows: what was won against others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.evaluation.multi_predictions import AnyPredictions, MultiPredictions
from mergekit_fair.evaluation.paired_models import paired_models
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.claims import SATURATION, judged
from mergekit_fair.fairness.compare import Paired
from mergekit_fair.fairness.counts import Patterns
from mergekit_fair.fairness.multi_pairs import multi_differences
from mergekit_fair.fairness.pair import Difference
from mergekit_fair.sweep.results import DifferenceRecord


@dataclass(frozen=True)
class Differences:
    """Chosen minus each baseline.

    Attributes:
        judged: baseline → metric → difference, and what is claimed of it; `level_matched.dpd` and
            the like at the baseline's selection rate. Holm's correction is over every baseline and
            headline metric.
        views: of classes or labels: baseline → class or label → metric → difference; else empty.
    """

    judged: dict[str, dict[str, DifferenceRecord]]
    views: dict[str, dict[str, dict[str, DifferenceRecord]]]


def differences(
    chosen: AnyPredictions,
    baselines: Mapping[str, AnyPredictions],
    settings: MetricSettings,
    saturation: float = SATURATION,
    worse: Mapping[str, Collection[str]] | None = None,
) -> Differences:
    """Chosen minus each baseline on the same report rows, paired, and what is claimed of it.

    Args:
        chosen, baselines: predictions of the same rows in the same order.
        settings: how to measure.
        saturation: selection rates further apart than this are not equal.
        worse: baseline → metrics in which it is worse than what it was made of; who beats it
            there has won nothing.
    """
    if not baselines:
        return Differences({}, {})
    models = {"chosen": chosen} | {f"minus {name}": of for name, of in baselines.items()}
    pairs = {name: (f"minus {name}", "chosen") for name in baselines}
    paired = paired_models(models, pairs, settings, saturation=saturation)
    evidence = {
        name: found.with_worse_a((worse or {}).get(name, ()))
        for name, found in paired.evidence.items()
    }
    return Differences(
        {name: _records(gaps) for name, gaps in judged(evidence, settings.confidence).items()},
        {
            name: {view: _records(gaps) for view, gaps in of.items()}
            for name, of in paired.views.items()
        },
    )


def _records(found: Mapping[str, Difference]) -> dict[str, DifferenceRecord]:
    return {metric: DifferenceRecord(**each.to_dict()) for metric, each in found.items()}


def compared_as(kind: str, label: str) -> str:
    """The name under which a point of the report rows stands in a comparison."""
    return "random vectors" if kind == "control" else label


def compared(
    rows: AnyPredictions,
    before: NDArray[np.int8],
    after: NDArray[np.int8],
    settings: MetricSettings,
    metric: str,
) -> Difference:
    """The second answers minus the first, paired, in one metric.

    Args:
        rows: whose predictions are not looked at.
        before, after: what is predicted of them.
        settings: how they are measured.
        metric: one that is compared; of classes or labels one of `MULTI_METRICS`.
    """
    settings = settings.excluding(rows.excluded)
    if isinstance(rows, MultiPredictions):
        patterns = Patterns.of(rows.members.by_name(), len(rows), rows.weights, rows.clusters)
        labels, a, b = (each[patterns.rows] for each in (rows.labels, before, after))
        found = multi_differences(patterns, rows.names, labels, a, b, settings, metrics=[metric])
        return found.metrics[metric]
    both = {"a": before, "b": after}
    paired = Paired.of(rows.labels, both, rows.groups, settings, rows.weights, rows.clusters)
    return paired.difference("a", "b", [metric]).metrics[metric]
