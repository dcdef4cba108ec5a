"""One evaluation: a model's answers on a split become the JSON of the interface."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.evaluation.predictions import Answers
from mergekit_fair.fairness import CountTable, MetricSettings, matching_threshold, measure_table
from mergekit_fair.fairness.metrics import MATCHED


@dataclass(frozen=True)
class Level:
    """What a model's selection rate is matched to.

    Attributes:
        to: whose rate it is.
        rate: that selection rate, in [0, 1].
        saturation: a selection rate further than this from it marks an evaluation `saturated`.
    """

    to: str
    rate: float
    saturation: float = 0.1


def evaluate(
    answers: Answers,
    settings: MetricSettings,
    *,
    model: str,
    split: str,
    level: Level | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Accuracy, DPD, EOD and the rest, with intervals, as in INTERFACE "One evaluation in JSON".

    Args:
        answers: of the split's rows.
        settings: how to measure; the groups that the task excludes are added.
        model: path or name, copied into the output.
        split: the split's name, copied into the output.
        level: also measure at one global threshold on the margins that gives this overall
            selection rate; no group label is used. Left out where there are no margins.
        threshold: that threshold, when it was set on another split; else it is set on this one.
    """
    measured = _measured(answers.predictions, answers, settings)
    evaluation = {"model": model, "task": answers.task, "split": split, **measured}
    rate = measured["metrics"]["selection_rate"]["value"]
    if level is not None and answers.margins is not None and rate is not None:
        evaluation["level_matched"] = _level_matched(
            answers.margins, answers, settings, level, threshold
        )
        evaluation["saturated"] = bool(abs(rate - level.rate) > level.saturation)
    evaluation["versions"] = versions()
    return evaluation


def _level_matched(
    margins: np.ndarray,
    answers: Answers,
    settings: MetricSettings,
    level: Level,
    threshold: float | None,
) -> dict[str, Any]:
    known = margins[~np.isnan(margins)]
    chosen = matching_threshold(known, level.rate) if threshold is None else threshold
    matched = _measured(answers.at(chosen), answers, settings)["metrics"]
    return {
        "to": level.to,
        "rate": level.rate,
        "threshold": float(chosen),
        **{key: matched[key] for key in sorted(MATCHED)},
    }


def _measured(
    predicted: NDArray[np.int8], answers: Answers, settings: MetricSettings
) -> dict[str, Any]:
    table = CountTable.of_codes(answers.labels, predicted, answers.groups)
    return measure_table(table, settings.excluding(answers.excluded)).to_dict()


def versions() -> dict[str, str]:
    """The versions that a number depends on."""
    names = ("mergekit-fair", "mergekit", "torch", "transformers", "lm-eval")
    return {name: version(name) for name in names}
