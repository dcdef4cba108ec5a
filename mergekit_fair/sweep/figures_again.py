"""Scores and rows become figures: once when a point is measured, and again whenever it is read."""

from __future__ import annotations

from collections.abc import Mapping

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.evaluate import (
    Evaluated,
    Evaluation,
    Level,
    counted,
    evaluate,
    level_threshold,
)
from mergekit_fair.evaluation.evidence import as_far_as_said, first_difference
from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.intervals import undefined_to_none
from mergekit_fair.fairness.measure import estimate_table
from mergekit_fair.sweep.record import MeasuredPoint, PointResult
from mergekit_fair.sweep.store import POINTS


def answered(
    rows: Mapping[str, Predictions], scores: Scores, tasks: list[str] | None = None
) -> dict[str, Predictions]:
    """Task → its rows with their part of a point's scores, which stand one task after the other.

    Args:
        rows: of every task.
        scores: of all of these rows.
        tasks: that there are scores of; all unless given.
    """
    found, start = {}, 0
    for task in rows if tasks is None else tasks:
        stop = start + len(rows[task])
        found[task] = rows[task].with_scores(scores[start:stop])
        start = stop
    if start != len(scores):
        raise ValueError(f"{len(scores)} scores of {start} rows")
    return found


def settings_of(result: PointResult) -> MetricSettings:
    """How a measured point was read."""
    return _read_with(result).settings


def _read_with(result: PointResult) -> MeasuredPoint:
    assert result.measured_with is not None  # `read_points` knows no line with figures without it
    return result.measured_with


def require_figures(
    result: PointResult,
    rows: Mapping[str, Predictions],
    scores: Scores,
    *,
    where: object,
    whole: bool,
) -> None:
    """Check that a stored point says what its scores give.

    Args:
        result: as it was stored.
        rows: that it was measured on.
        scores: of it.
        where: the folder, for errors.
        whole: with all intervals; else values of metrics only, which is a hundred times faster.

    Raises:
        SweepError: names the point and the first figure that differs.
    """
    if result.evaluation is None:
        return
    try:
        predictions = answered(rows, scores, list(result.evaluations))
    except (LookupError, ValueError) as error:
        raise _different(result, where, f"says nothing of these rows ({error})") from error
    settings = settings_of(result)
    for task, said in result.evaluations.items():
        of_task = predictions[task]
        found = (
            _whole(result, said, of_task, settings) if whole else _values(said, of_task, settings)
        )
        content = said.to_dict()
        for key, value in as_far_as_said(found, content).items():
            if difference := first_difference(value, content.get(key), key):
                place, expected, got = difference
                raise _different(
                    result,
                    where,
                    f"says another {task}/{place} than its scores give",
                    got=got,
                    allowed="undefined" if expected is None else expected,
                )


def _values(
    said: Evaluation, predictions: Predictions, settings: MetricSettings
) -> dict[str, object]:
    """The keys of an evaluation that are known without intervals."""
    values = estimate_table(counted(predictions), settings.excluding(predictions.excluded))
    metrics = {name: undefined_to_none(value) for name, value in values.items()}
    found: dict[str, object] = {
        "n": len(predictions),
        "reference": settings.reference,
        "confidence": settings.confidence,
        "metrics": {
            name: each.to_dict() | {"value": metrics.get(name)}
            for name, each in said.metrics.items()
        },
    }
    matched = said.level_matched
    if matched is not None:
        at_level = counted(predictions.predict_at(matched.threshold))
        values = estimate_table(at_level, settings.excluding(predictions.excluded))
        content = matched.model_dump(mode="json")
        for name, each in content.items():
            if isinstance(each, dict):
                each["value"] = undefined_to_none(values.get(name, float("nan")))
        found["level_matched"] = content
    return found


def _whole(
    result: PointResult, said: Evaluation, predictions: Predictions, settings: MetricSettings
) -> dict[str, object]:
    """All keys that measuring gives; not what it is about, nor warnings."""
    matched, saturation = said.level_matched, _read_with(result).saturation
    found = evaluate(
        predictions,
        settings,
        model=said.model,
        split=said.split,
        level=None if matched is None else Level(matched.to, matched.rate, saturation),
        threshold=None if matched is None else matched.threshold,
    ).to_dict()
    about = {*Evaluated.model_fields, "warnings"}
    return {key: value for key, value in found.items() if key not in about}


def require_threshold(
    result: PointResult,
    selected: PointResult | None,
    rows: Mapping[str, Predictions],
    scores: Scores,
    *,
    where: object,
) -> None:
    """Check where the level-matched threshold comes from.

    Args:
        result: as it was stored.
        selected: the same point on the rows that were selected on, whose threshold is kept for
            others; None if it is that one.
        rows, scores: of it.
        where: the folder, for errors.

    Raises:
        SweepError: it is another threshold.
    """
    predictions = answered(rows, scores, list(result.evaluations))
    for task, said in result.evaluations.items():
        matched = said.level_matched
        if matched is None or predictions[task].logit_gaps is None:
            continue
        kept = None if selected is None else selected.thresholds.get(task)
        expected = level_threshold(predictions[task], matched.rate) if kept is None else kept
        if first_difference(float(expected), matched.threshold) is not None:
            raise _different(
                result,
                where,
                f"has another {task}/level_matched.threshold",
                got=matched.threshold,
                allowed=float(expected),
            )


def _different(result: PointResult, where: object, problem: str, **fields: object) -> SweepError:
    return SweepError(
        f"{result.label} on {result.split} rows {problem}",
        where=where,
        fix=f"remove the line of {result.id} on {result.split} from {POINTS}, and run the sweep "
        "again, which measures that point again",
        **fields,
    )
