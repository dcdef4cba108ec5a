"""Models on the same rows: what was won against others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mergekit_fair.evaluation.paired_models import paired_models
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import Comparison, MetricSettings
from mergekit_fair.fairness.claims import SATURATION, judged
from mergekit_fair.fairness.compare import Paired
from mergekit_fair.fairness.metrics import COMPARED
from mergekit_fair.sweep.results import DifferenceRecord


def differences(
    chosen: Predictions,
    baselines: Mapping[str, Predictions],
    settings: MetricSettings,
    saturation: float = SATURATION,
    worse: Mapping[str, Collection[str]] | None = None,
) -> dict[str, dict[str, DifferenceRecord]]:
    """Chosen minus each baseline on the same report rows, paired, and what is claimed of it.

    Args:
        chosen, baselines: predictions of the same rows in the same order.
        settings: how to measure.
        saturation: selection rates further apart than this are not equal.
        worse: baseline → metrics in which it is worse than what it was made of; who beats it
            there has won nothing.

    Returns:
        Baseline → metric → difference; `level_matched.dpd` and the like at the baseline's
        selection rate. Holm's correction is over every baseline and headline metric.
    """
    if not baselines:
        return {}
    models = {"chosen": chosen} | {f"minus {name}": of for name, of in baselines.items()}
    pairs = {name: (f"minus {name}", "chosen") for name in baselines}
    paired = paired_models(models, pairs, settings, saturation=saturation)
    evidence = {
        name: found.with_worse_a((worse or {}).get(name, ()))
        for name, found in paired.evidence.items()
    }
    return {
        name: {metric: DifferenceRecord(**each.to_dict()) for metric, each in gaps.items()}
        for name, gaps in judged(evidence, settings.confidence).items()
    }


def compared_as(kind: str, label: str) -> str:
    """The name under which a point of the report rows stands in a comparison."""
    return "random vectors" if kind == "control" else label


def compared(
    rows: Predictions,
    before: Any,
    after: Any,
    settings: MetricSettings,
    metrics: Sequence[str] = COMPARED,
) -> Comparison:
    """The second answers minus the first, paired, in all compared metrics or some."""
    settings = replace(settings, exclude=rows.excluded)
    both = {"a": before, "b": after}
    paired = Paired.of(rows.labels, both, rows.groups, settings, rows.weights, rows.clusters)
    return paired.difference("a", "b", metrics)
