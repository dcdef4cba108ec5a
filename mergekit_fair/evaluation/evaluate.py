"""One evaluation: a model's answers on a split become the JSON of the interface."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mergekit_fair.evaluation.predictions import Answers
from mergekit_fair.fairness import matching_threshold, measure


@dataclass(frozen=True)
class Measuring:
    """How answers are measured; the same for every model of a sweep.

    Attributes:
        reference: which DPD and EOD stand under `metrics`; all three are always in the output.
        confidence: of the intervals.
        min_group_size: smaller groups are reported but decide no maximum.
        saturation: a selection rate further than this from the reference model's marks the
            evaluation `saturated`.
        seed: of the bootstrap.
    """

    reference: str = "between_groups"
    confidence: float = 0.95
    min_group_size: int = 1
    saturation: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Level:
    """What a model's selection rate is matched to: `to` names it, `rate` is its rate there."""

    to: str
    rate: float


def evaluate(
    answers: Answers,
    how: Measuring,
    *,
    model: str,
    split: str,
    level: Level | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Accuracy, DPD, EOD and the rest, with intervals, as in INTERFACE "One evaluation in JSON".

    Args:
        answers: of the split's rows.
        how: reference, confidence and limits.
        model: path or name, copied into the output.
        split: the split's name, copied into the output.
        level: also measure at one global threshold on the margins that gives this overall
            selection rate; no group label is used. Left out where there are no margins.
        threshold: that threshold, when it was set on another split; else it is set on this one.
    """
    measured = _measured(answers.as_given, answers, how)
    evaluation = {"model": model, "task": answers.task, "split": split, **measured}
    rate = measured["metrics"]["selection_rate"]["value"]
    if level is not None and answers.margins is not None and rate is not None:
        evaluation["level_matched"] = _level_matched(
            answers.margins, answers, how, level, threshold
        )
        evaluation["saturated"] = bool(abs(rate - level.rate) > how.saturation)
    evaluation["versions"] = versions()
    return evaluation


def _level_matched(
    margins: np.ndarray, answers: Answers, how: Measuring, level: Level, threshold: float | None
) -> dict[str, Any]:
    known = margins[~np.isnan(margins)]
    chosen = matching_threshold(known, level.rate) if threshold is None else threshold
    matched = _measured(answers.at(chosen), answers, how)["metrics"]
    return {
        "to": level.to,
        "rate": level.rate,
        "threshold": float(chosen),
        **{key: matched[key] for key in ("acc", "bal_acc", "dpd", "eod", "selection_rate")},
    }


def _measured(predicted: ArrayLike, answers: Answers, how: Measuring) -> dict[str, Any]:
    return measure(
        answers.labels,
        predicted,
        answers.groups,
        reference=how.reference,
        confidence=how.confidence,
        min_group_size=how.min_group_size,
        exclude=answers.excluded,
        seed=how.seed,
    ).to_dict()


def versions() -> dict[str, str]:
    """The versions that a number depends on."""
    names = ("mergekit-fair", "mergekit", "torch", "transformers", "lm-eval")
    return {name: version(name) for name in names}
