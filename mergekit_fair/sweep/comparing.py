"""Points on the same rows: who is within noise of whom, and what was won against a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mergekit_fair.evaluation.predictions import Answers
from mergekit_fair.fairness import HEADLINE, Comparison, MetricSettings, holm
from mergekit_fair.fairness.compare import Paired
from mergekit_fair.sweep.lines import Line, evaluations_of
from mergekit_fair.sweep.measurer import Measurer
from mergekit_fair.sweep.rule import Select
from mergekit_fair.sweep.select import Choice, choose

_DRAWS = 2000


def choose_by(
    measurer: Measurer, lines: Sequence[Line], baselines: Mapping[str, Line], rule: Select
) -> Choice:
    """The rule's choice among measured points, ties within noise going to the smaller λ."""
    return choose(
        lines,
        baselines,
        rule,
        tied=lambda top, others: within_noise(measurer, top, others, rule.maximize),
    )


def within_noise(measurer: Measurer, top: Line, others: Sequence[Line], objective: str) -> set[str]:
    """Ids of the others whose objective cannot be told from the top's: the interval of `compare`
    for top − other reaches 0. Each pair by itself, so that a third point changes nothing."""
    task, _, name = objective.rpartition("/")
    if task and task != measurer.task:  # rows of other tasks are not paired here
        return set()
    block, _, metric = name.rpartition(".")
    mine = _predictions(measurer, top, is_matched=bool(block))
    found = set()
    for line in others:
        theirs = _predictions(measurer, line, is_matched=bool(block))
        low = _compared(measurer.sheet, theirs, mine, measurer.settings).metrics[metric].low
        if low is None or low <= 0:
            found.add(line["id"])
    return found


def _compared(
    sheet: Answers, before: Any, after: Any, settings: MetricSettings, draws: int = _DRAWS
) -> Comparison:
    settings = replace(settings, exclude=sheet.excluded, draws=draws)
    paired = Paired.of(sheet.labels, {"a": before, "b": after}, sheet.groups, settings)
    return paired.difference("a", "b")


def _predictions(measurer: Measurer, line: Line, *, is_matched: bool) -> Any:
    answers = measurer.answers(line["id"])
    if not is_matched or answers.margins is None:
        return answers.predictions
    matched = evaluations_of(line)[measurer.task]["level_matched"]
    return answers.at(matched["threshold"])


def differences(
    chosen: Answers, baselines: Mapping[str, Answers], settings: MetricSettings
) -> dict[str, Any]:
    """Chosen minus each baseline on the same report rows, paired.

    `adjusted_p_value` is corrected (Holm) for every baseline and headline metric looked at.

    Returns:
        Baseline → metric → value, low, high, p_value, adjusted_p_value.
    """
    draws = max(_DRAWS, _needed(len(baselines), settings.confidence))
    found = {
        name: _compared(chosen, answers.predictions, chosen.predictions, settings, draws).to_dict()
        for name, answers in baselines.items()
    }
    p_values = {
        (name, metric): gaps[metric]["p_value"]
        for name, gaps in found.items()
        for metric in HEADLINE
    }
    looked_at = {key: value for key, value in p_values.items() if value is not None}
    result: dict[str, Any] = dict(found)
    for (name, metric), adjusted in holm(looked_at).items():
        result[name][metric]["adjusted_p_value"] = adjusted
    return result


def _needed(baselines: int, confidence: float) -> int:
    """Draws without which no corrected p-value could be small, as in `compare_many`."""
    return round(10 * baselines * len(HEADLINE) / (1 - confidence))
