"""Tasks without right answers: which of two sentences a model prefers, by kind of bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergekit_fair.evaluation.evaluate import versions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.scores import measure_score_rows

ITEM = "preference_gap"  # in a sample: (1, 0, or None without an answer; the kind)


def measure_preferences(
    task: str,
    samples: Sequence[Mapping[str, Any]],
    settings: MetricSettings,
    *,
    model: str,
    split: str,
) -> dict[str, Any]:
    """Preference rate of every kind, and max − min of them with its interval.

    Args:
        task: its name.
        samples: lm-eval's, each with `preference_gap`.
        settings: confidence and limits; there is no reference but the kinds themselves.
        model, split: copied into the output.

    Returns:
        `model`, `task`, `split`, `n`, `unanswered`, `gap` (value, low, high in [0, 1]), `means` and
        `sizes` by kind, `warnings`, `versions`.
    """
    items = [sample[ITEM] for sample in samples]
    preferred = np.array([np.nan if value is None else float(value) for value, _ in items])
    found = measure_score_rows(preferred, [kind for _, kind in items], settings).to_dict()
    head = {"model": model, "task": task, "split": split, "confidence": settings.confidence}
    return {**head, **found, "versions": versions()}
