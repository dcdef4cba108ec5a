"""Scores and rows become figures: once when a point is measured, and again whenever it is read."""

from __future__ import annotations

from collections.abc import Mapping

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.evaluate import (
    Evaluated,
    Evaluation,
    FairEvaluation,
    MatchedMetrics,
    MultiEvaluation,
    counted,
    evaluate,
)
from mergekit_fair.evaluation.evidence import as_far_as_said, first_difference
from mergekit_fair.evaluation.levels import AnyLevel, Level, MultiLevel, Threshold, level_threshold
from mergekit_fair.evaluation.multi_predictions import AnyPredictions, MultiPredictions
from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.intervals import Interval, undefined_to_none
from mergekit_fair.fairness.measure import estimate_table
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS, estimate_views
from mergekit_fair.sweep.record import MeasuredPoint, PointResult
from mergekit_fair.sweep.store import POINTS


def answered(
    rows: Mapping[str, AnyPredictions], scores: Scores, tasks: list[str] | None = None
) -> dict[str, AnyPredictions]:
    """Task → its rows with their part of a point's scores, which stand one task after the other;
    those of a row's classes or labels stand side by side.

    Args:
        rows: of every task.
        scores: of all of these rows.
        tasks: that there are scores of; all unless given.
    """
    found, start = {}, 0
    for task in rows if tasks is None else tasks:
        stop = start + rows[task].labels.size
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
    rows: Mapping[str, AnyPredictions],
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
        if not _is_of(said, of_task):
            raise _different(result, where, f"says nothing of these rows of {task}")
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


def _is_of(said: FairEvaluation, predictions: AnyPredictions) -> bool:
    """Whether an evaluation is of the same kind of task, and of the same classes or labels."""
    if not isinstance(predictions, MultiPredictions):
        return isinstance(said, Evaluation)
    if not isinstance(said, MultiEvaluation) or said.kind != predictions.kind:
        return False
    named = [set(said.views)]
    named += [] if said.level is None else [set(said.level.rates)]
    named += [] if said.level_matched is None else [set(said.level_matched.offsets)]
    return all(each == set(predictions.names) for each in named)


def _values(
    said: FairEvaluation, predictions: AnyPredictions, settings: MetricSettings
) -> dict[str, object]:
    """The keys of an evaluation that are known without intervals."""
    settings = settings.excluding(predictions.excluded)
    of_kind = (
        _values_of_views(said, predictions, settings)
        if isinstance(predictions, MultiPredictions)
        else _values_of_rows(said, predictions, settings)
    )
    about = {"reference": settings.reference, "confidence": settings.confidence}
    return {"n": len(predictions), **about, **of_kind}


def _values_of_rows(
    said: FairEvaluation, predictions: Predictions, settings: MetricSettings
) -> dict[str, object]:
    values = estimate_table(counted(predictions), settings)
    found: dict[str, object] = {"metrics": _with_values(said.metrics, values)}
    matched = said.level_matched if isinstance(said, Evaluation) else None
    if matched is not None:
        at_level = counted(predictions.predict_at(matched.threshold))
        metrics = matched.__pydantic_extra__
        found["level_matched"] = {
            **matched.model_dump(mode="json"),
            **_with_values(metrics, estimate_table(at_level, settings)),
        }
    return found


def _values_of_views(
    said: FairEvaluation, predictions: MultiPredictions, settings: MetricSettings
) -> dict[str, object]:
    views = predictions.counted()
    values = estimate_views(views, settings)
    found: dict[str, object] = {"acc": _with_values(said.metrics, values)["acc"]}
    for over in ("macro", "worst"):
        names = [name for name, metric in MULTI_METRICS.items() if metric.over == over]
        of_gaps = _with_values({name: said.metrics[name] for name in names}, values)
        found[over] = {MULTI_METRICS[name].gap: each for name, each in of_gaps.items()}
    if isinstance(said, MultiEvaluation) and said.level_matched is not None:
        matched = said.level_matched
        at_level = estimate_views(predictions.moved(matched.offsets).counted(), settings)
        found["level_matched"] = {
            **matched.model_dump(mode="json"),
            **_with_values(matched.__pydantic_extra__, at_level),
        }
    if isinstance(said, MultiEvaluation):
        found["views"] = {
            name: {
                **said.views[name].to_dict(),
                "metrics": _with_values(
                    said.views[name].metrics, estimate_table(views.joint.table(view), settings)
                ),
            }
            for name, view in views.by_name.items()
        }
    return found


def _with_values(
    said: Mapping[str, Interval], values: Mapping[str, float]
) -> dict[str, dict[str, object]]:
    """Metrics as they were said, with these values."""
    return {
        name: each.to_dict() | {"value": undefined_to_none(values.get(name, float("nan")))}
        for name, each in said.items()
    }


def _whole(
    result: PointResult,
    said: FairEvaluation,
    predictions: AnyPredictions,
    settings: MetricSettings,
) -> dict[str, object]:
    """All keys that measuring gives; not what it is about, nor warnings."""
    saturation = _read_with(result).saturation
    level, threshold = _read_beside(said, saturation)
    found = evaluate(
        predictions,
        settings,
        model=said.model,
        split=said.split,
        level=level,
        threshold=threshold,
    ).to_dict()
    about = {*Evaluated.model_fields, "warnings"}
    return {key: value for key, value in found.items() if key not in about}


def _read_beside(
    said: FairEvaluation, saturation: float
) -> tuple[AnyLevel | None, Threshold | None]:
    """The selection rates that an evaluation looks at, and the threshold that gives them."""
    matched = said.level_matched
    at = None if matched is None else matched.set_at
    if isinstance(matched, MatchedMetrics):
        return Level(matched.to, matched.rate, saturation), at
    level = said.level if isinstance(said, MultiEvaluation) else None
    return (None if level is None else MultiLevel(level.to, level.rates, saturation)), at


def require_threshold(
    result: PointResult,
    selected: PointResult | None,
    rows: Mapping[str, AnyPredictions],
    scores: Scores,
    *,
    where: object,
) -> None:
    """Check where the level-matched threshold, or what is added to scores of views, comes from.

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
        kept = None if selected is None else selected.thresholds.get(task)
        expected = _threshold_of(said, predictions[task]) if kept is None else kept
        got = result.thresholds.get(task)
        if None not in (expected, got) and first_difference(expected, got) is not None:
            key = "threshold" if isinstance(got, float) else "offsets"
            raise _different(
                result,
                where,
                f"has another {task}/level_matched.{key}",
                got=got,
                allowed=expected,
            )


def _threshold_of(said: FairEvaluation, predictions: AnyPredictions) -> Threshold | None:
    """What brings a point's own predictions to the level that it says."""
    if isinstance(said, MultiEvaluation) and isinstance(predictions, MultiPredictions):
        return None if said.level is None else predictions.offsets_at(said.level.rates)
    matched = said.level_matched
    if not isinstance(matched, MatchedMetrics) or not isinstance(predictions, Predictions):
        return None
    return None if predictions.logit_gaps is None else level_threshold(predictions, matched.rate)


def _different(result: PointResult, where: object, problem: str, **fields: object) -> SweepError:
    return SweepError(
        f"{result.label} on {result.split} rows {problem}",
        where=where,
        fix=f"remove the line of {result.id} on {result.split} from {POINTS}, and run the sweep "
        "again, which measures that point again",
        **fields,
    )
