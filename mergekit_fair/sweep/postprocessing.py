"""Group thresholds as further baselines of a sweep; they cost no forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mergekit_fair.evaluation.evaluate import evaluate
from mergekit_fair.evaluation.predictions import Answers
from mergekit_fair.sweep.group_thresholds import CONSTRAINTS, NOTE, GroupThresholds, point_id
from mergekit_fair.sweep.lines import Line
from mergekit_fair.sweep.measurer import Measurer
from mergekit_fair.sweep.sweep_config import SweepConfig


@dataclass
class Postprocessed:
    """A baseline under each constraint.

    Attributes:
        lines: on the split that is selected on.
        report: makes those of the report split; to be called once it may be opened.
        answers: label → answers on a split.
        warnings: what they need.
    """

    lines: list[Line] = field(default_factory=list)
    report: Callable[[], list[Line]] = list
    answers: Callable[[str], dict[str, Answers]] = lambda split: {}  # noqa: ARG005
    warnings: list[str] = field(default_factory=list)


def postprocess(
    config: SweepConfig, measurer: Measurer, baselines: dict[str, Line]
) -> Postprocessed:
    """Thresholds by group on the scores of `config.thresholds`, fitted on the selection's rows."""
    name = config.thresholds
    if name is None:
        return Postprocessed()
    baseline = baselines[name]["id"]
    fitted = measurer.answers(baseline)
    found = {
        f"{name} + thresholds ({short})": (
            point_id(baseline, constraint, config.seed),
            GroupThresholds(constraint, fitted, config.seed),
        )
        for short, constraint in CONSTRAINTS.items()
    }

    def answers(split: str) -> dict[str, Answers]:
        given = measurer.answers(baseline, split)
        return {label: given.given(made.scores(given)) for label, (_, made) in found.items()}

    def lines(split: str) -> list[Line]:
        return [
            _line(found[label][0], label, split, given, measurer)
            for label, given in answers(split).items()
        ]

    return Postprocessed(lines(measurer.split), lambda: lines("report"), answers, [NOTE])


def _line(point: str, label: str, split: str, answers: Answers, measurer: Measurer) -> Line:
    return {
        "id": point,
        "kind": "thresholds",
        "label": label,
        "settings": {},
        "lambda": None,
        "lambda_eff": None,
        "size": None,
        "adds_nothing": False,
        "split": split,
        "evaluation": evaluate(answers, measurer.settings, model=label, split=split),
    }
