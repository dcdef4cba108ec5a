"""One evaluation: the model's margins on a split become the JSON of the interface."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.fairness import matching_threshold, measure, predict_at
from mergekit_fair.harness.predict import Margins, predictions

if TYPE_CHECKING:
    from mergekit_fair.data import Rows


@dataclass(frozen=True)
class Measuring:
    """How margins are measured; the same for every model of a sweep.

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
    found: Margins,
    rows: Rows,
    how: Measuring,
    *,
    model: str,
    split: str,
    level: Level | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Accuracy, DPD, EOD and the rest, with intervals, as in INTERFACE "One evaluation in JSON".

    Args:
        found: margins of the rows, from `margins`.
        rows: the split's rows.
        how: reference, confidence and limits.
        model: path or name, copied into the output.
        split: the split's name, copied into the output.
        level: also measure at one global threshold that gives this overall selection rate; no
            group label is used.
        threshold: that threshold, when it was set on another split; else it is set on this one.
    """
    measured = _measured(predictions(found), rows, how)
    evaluation = {"model": model, "task": rows.name, "split": split, **measured}
    rate = measured["metrics"]["selection_rate"]["value"]
    if level is not None:
        chosen = matching_threshold(found, level.rate) if threshold is None else threshold
        matched = _measured(predict_at(found, chosen), rows, how)["metrics"]
        evaluation["level_matched"] = {
            "to": level.to,
            "threshold": float(chosen),
            **{key: matched[key] for key in ("acc", "bal_acc", "dpd", "eod", "selection_rate")},
        }
        evaluation["saturated"] = bool(abs(rate - level.rate) > how.saturation)
    evaluation["versions"] = versions()
    return evaluation


def _measured(predicted: Any, rows: Rows, how: Measuring) -> dict[str, Any]:
    groups = {name: rows.membership[:, index] for index, name in enumerate(rows.group_names)}
    return measure(
        np.asarray(rows.labels),
        predicted,
        groups,
        reference=how.reference,
        confidence=how.confidence,
        min_group_size=how.min_group_size,
        exclude=tuple(sorted(rows.excluded)),
        seed=how.seed,
    ).to_dict()


def versions() -> dict[str, str]:
    """The versions that a number depends on."""
    names = ("mergekit-fair", "mergekit", "torch", "transformers")
    return {name: version(name) for name in names}
