"""Models on the same rows: what was won against others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import HEADLINE, Comparison, MetricSettings, holm
from mergekit_fair.fairness.compare import Paired
from mergekit_fair.sweep.results import DifferenceRecord

_DRAWS = 2000


def differences(
    chosen: Predictions, baselines: Mapping[str, Predictions], settings: MetricSettings
) -> dict[str, dict[str, DifferenceRecord]]:
    """Chosen minus each baseline on the same report rows, paired.

    `adjusted_p_value` is corrected (Holm) for every baseline and headline metric looked at.

    Returns:
        Baseline → metric → difference.
    """
    draws = max(_DRAWS, _needed(len(baselines), settings.confidence))
    found = {
        name: compared(chosen, answers.predicted, chosen.predicted, settings, draws).to_dict()
        for name, answers in baselines.items()
    }
    p_values = {
        (name, metric): p_value
        for name, gaps in found.items()
        for metric in HEADLINE
        if (p_value := gaps[metric]["p_value"]) is not None
    }
    adjusted = holm(p_values)
    return {
        name: {
            metric: DifferenceRecord(**gap, adjusted_p_value=adjusted.get((name, metric)))
            for metric, gap in gaps.items()
        }
        for name, gaps in found.items()
    }


def compared(
    rows: Predictions, before: Any, after: Any, settings: MetricSettings, draws: int = _DRAWS
) -> Comparison:
    """The second answers minus the first, paired."""
    settings = replace(settings, exclude=rows.excluded, draws=draws)
    both = {"a": before, "b": after}
    paired = Paired.of(rows.labels, both, rows.groups, settings, rows.weights)
    return paired.difference("a", "b")


def _needed(baselines: int, confidence: float) -> int:
    """Draws without which no corrected p-value could be small, as in `compare_many`."""
    return round(10 * baselines * len(HEADLINE) / (1 - confidence))
