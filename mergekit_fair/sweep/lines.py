"""A finished point as a line of points.jsonl: its evaluations, from its scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.evaluate import Level, evaluate
from mergekit_fair.evaluation.predictions import Answers, Scores
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.sweep.points import Point
from mergekit_fair.sweep.worker import Outcome

Line = dict[str, Any]
Sheets = Mapping[str, Answers]
Levels = Mapping[str, Level]  # by task


def line_of(
    point: Point,
    split: str,
    outcome: Outcome,
    sheets: Sheets,
    settings: MetricSettings,
    *,
    levels: Levels | None,
    thresholds: Mapping[str, float] | None = None,
) -> tuple[Line, Scores]:
    """One line of points.jsonl and the scores behind it.

    A model whose scores are NaN or infinite gives a line with `error` instead of `evaluation`.

    Args:
        point, split: what was measured.
        outcome: what it answered.
        sheets: task → rows of this split.
        settings: how to measure.
        levels: task → the selection rate to match; None for the model that sets it: its own.
        thresholds: task → the level-matched threshold, where it was set on another split.
    """
    line: Line = {**point.describe(), "split": split}
    if outcome.error is not None:
        rows = sum(len(sheet) for sheet in sheets.values())
        return {**line, "error": outcome.error}, np.full(rows, np.nan, dtype=np.float32)
    evaluations = {}
    for task, sheet in sheets.items():
        answers = sheet.given(outcome.scores[task])
        evaluations[task] = evaluate(
            answers,
            settings,
            model=point.label,
            split=split,
            level=own_level(point.label, answers) if levels is None else levels[task],
            threshold=(thresholds or {}).get(task),
        )
    first, *others = evaluations
    line["evaluation"] = evaluations[first]
    if others:
        line["tasks"] = {task: evaluations[task] for task in others}
    line["seconds"] = round(outcome.seconds, 2)
    return line, np.concatenate([outcome.scores[task] for task in sheets])


def own_level(label: str, answers: Answers) -> Level:
    """The selection rate of these answers."""
    answered = answers.predictions[answers.predictions < 2]
    return Level(label, float(answered.mean()) if len(answered) else 0.0)


def evaluations_of(line: Line) -> dict[str, dict[str, Any]]:
    """Task → evaluation, of a line that has any."""
    first = line["evaluation"]
    return {first["task"]: first, **line.get("tasks", {})}


def levels_of(line: Line, saturation: float) -> dict[str, Level]:
    """Task → the selection rate that this line's model has."""
    return {
        task: Level(line["label"], found["metrics"]["selection_rate"]["value"], saturation)
        for task, found in evaluations_of(line).items()
    }


def thresholds_of(line: Line) -> dict[str, float]:
    """Task → the level-matched threshold that was set on this line's rows."""
    return {
        task: found["level_matched"]["threshold"]
        for task, found in evaluations_of(line).items()
        if "level_matched" in found
    }


def measured(line: Line) -> Line:
    """The line, for models that a sweep cannot do without.

    Raises:
        SweepError: it could not be measured.
    """
    if "evaluation" not in line:
        raise SweepError(
            f"cannot be measured: {line['error']}",
            where=f"{line['label']} on {line['split']}",
            fix="leave this model out, or train it again",
        )
    return line


def split_scores(found: Scores, sheets: Sheets) -> dict[str, Answers]:
    """Task → answers, from the scores of all tasks one after the other."""
    answers, start = {}, 0
    for task, sheet in sheets.items():
        answers[task] = sheet.given(found[start : start + len(sheet)])
        start += len(sheet)
    return answers
