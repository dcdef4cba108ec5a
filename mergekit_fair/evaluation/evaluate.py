"""One evaluation: a model's predictions on a split become a typed result, the JSON of TASK.json."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import ConfigDict, Field, model_serializer

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.levels import (
    AnyLevel,
    Level,
    LevelRates,
    MultiLevel,
    Threshold,
    level_threshold,
)
from mergekit_fair.evaluation.multi_predictions import AnyPredictions, MultiPredictions
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.truncation import Truncation
from mergekit_fair.fairness import (
    METRICS,
    CountTable,
    Measurement,
    MetricSettings,
    ScoreQuality,
    measure_table,
)
from mergekit_fair.fairness.benchmark import BenchmarkRows
from mergekit_fair.fairness.benchmark_scores import BenchmarkMeasurement, measure_benchmark
from mergekit_fair.fairness.claims import are_apart
from mergekit_fair.fairness.intervals import Interval, Samples
from mergekit_fair.fairness.measurement import without_unsaid
from mergekit_fair.fairness.metrics import MATCHED
from mergekit_fair.fairness.one_vs_rest import MultiMeasurement, measure_views, view_intervals
from mergekit_fair.fairness.score_quality import measure_quality
from mergekit_fair.schema import Record, read_sealed

# Written first, so that a file says at its top what it is about.
_FIRST = ("schema_version", "model", "task", "split")


class MatchedViews(Record):
    """The metrics of `MULTI_METRICS` at the selection rates of another model, `LevelRates`.

    Attributes:
        offsets: class or label → what is added to its log-probability, of a label to its logit, in
            every row.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Interval]

    offsets: dict[str, float]

    @property
    def set_at(self) -> Threshold:
        """What brought the predictions there."""
        return self.offsets


class MatchedMetrics(Record):
    """The metrics of `MATCHED` at one global threshold on the logit gaps.

    Attributes:
        to: whose selection rate is matched.
        rate: that rate, in [0, 1].
        threshold: 1 is predicted where the logit gap is at least this.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Interval]

    to: str
    rate: float
    threshold: float

    @property
    def set_at(self) -> Threshold:
        """What brought the predictions there."""
        return self.threshold


class UsedBySelection(Record):
    """The selection that has used the rows of an evaluation: its figures are optimistic."""

    task: str
    split: str | None
    rule: str


class MeasuredWith(Record):
    """Settings that figures depend on and that no other key of an evaluation says."""

    min_group_size: int
    seed: int
    against: str | None = None


class Fingerprint(Record):
    """What an evaluation was made of, in SHA-256; see `evaluation.evidence`.

    Attributes:
        model: of the files that decide what the model answers; None for one without files.
        others: argument of lm-eval's model class → the same of a further model that it names, such
            as an adapter's base.
        rows: of the rows' keys, labels and groups.
        samples: of the file of samples.
        settings: by which the figures are computed again from the samples.
    """

    model: str | None
    others: dict[str, str] = Field(default_factory=dict)
    rows: str | None
    samples: str
    settings: MeasuredWith


class Evaluated(Record):
    """What every evaluation says about where its numbers come from.

    Attributes:
        schema_version: of the file; 0.1 wrote none, and the same keys.
        model: path or name.
        task, split: on what.
        used_by_selection: what has chosen the model on these rows; None if nothing has.
        limit: a random sample of so many rows; None for all.
        model_args: lm-eval's model class and its arguments.
        max_length: tokens that the model was given of a text; None of pictures.
        truncated: the rows that are longer; None where it is not known.
        versions: of the packages that a number depends on.
        trained_rows: rows that the model was trained on; None: none, as far as is known.
        fingerprint: what it was made of; None before version 0.2.
    """

    schema_version: Literal[2] = 2
    model: str
    task: str
    split: str
    used_by_selection: UsedBySelection | None = None
    limit: int | None = None
    model_args: dict[str, Any] = Field(default_factory=dict)
    max_length: int | None = None
    truncated: Truncation | None = None
    versions: dict[str, str]
    trained_rows: int | None = None
    fingerprint: Fingerprint | None = None

    @model_serializer(mode="wrap")
    def _in_order(self, serialize: Any) -> dict[str, Any]:
        """What was measured first; what does not apply is left out."""
        fields = without_unsaid(serialize(self))
        optional = (
            "level_matched",
            "level",
            "saturated",
            "max_length",
            "truncated",
            "trained_rows",
        )
        for name in (*optional, "threshold", "scores", "fingerprint"):
            if fields.get(name, 0) is None:
                del fields[name]
        return {name: fields.pop(name) for name in _FIRST} | fields


class Evaluation(Evaluated, Measurement):
    """One model on one task and split: INTERFACE "One evaluation in JSON", as `TASK.json`.

    Attributes:
        level_matched: the same at another model's selection rate; None without logit gaps.
        saturated: the selection rate is far from that one; None without one.
        threshold: 1 is predicted where P(1) is at least this; None: where it is above 0.5.
        scores: AUC and calibration of the logit gaps; None without them.
    """

    level_matched: MatchedMetrics | None = None
    saturated: bool | None = None
    threshold: float | None = None
    scores: ScoreQuality | None = None


class MultiEvaluation(Evaluated, MultiMeasurement):
    """One model on a task of classes or labels.

    Attributes:
        level: the selection rates of another model; None if there is none to look at.
        level_matched: the figures at these rates; None without log-probabilities.
        saturated: a class or label has a selection rate far from that one's; None without one.
    """

    level: LevelRates | None = None
    level_matched: MatchedViews | None = None
    saturated: bool | None = None


class BenchmarkEvaluation(Evaluated, BenchmarkMeasurement):
    """One model on a benchmark: its own scores, of all documents and by group."""

    confidence: float


FairEvaluation = Evaluation | MultiEvaluation
AnyEvaluation = FairEvaluation | BenchmarkEvaluation


def warnings_of(evaluation: AnyEvaluation) -> tuple[str, ...]:
    """What a reader should know; of classes or labels that of each of them, too."""
    if isinstance(evaluation, MultiEvaluation):
        return evaluation.all_warnings
    return evaluation.warnings


def read_evaluation(path: Path) -> AnyEvaluation:
    """A TASK.json that `eval` has written, of this version or of 0.1.

    Raises:
        MeasurementError: no such file, damaged or edited, or of a version that is not known.
    """
    fix = "give a TASK.json as `mergekit-fair eval` has written it"
    content = read_sealed(path, "evaluation", MeasurementError, fix=fix)
    if isinstance(content, Mapping) and "gap" in content and "means" in content:
        raise MeasurementError(
            "is of version 0.1, which measured tasks without right answers in another way",
            where=path,
            fix="evaluate the model again",
        )
    known = content if isinstance(content, Mapping) else ()
    if "benchmark" in known:
        return BenchmarkEvaluation.from_dict(content, where=path)
    kind = MultiEvaluation if "macro" in known else Evaluation
    return kind.from_dict(content, where=path)


@overload
def evaluate(
    predictions: Predictions,
    settings: MetricSettings,
    *,
    model: str,
    split: str,
    level: AnyLevel | None = None,
    threshold: float | None = None,
) -> Evaluation:
    """Of a binary task."""


@overload
def evaluate(
    predictions: MultiPredictions,
    settings: MetricSettings,
    *,
    model: str,
    split: str,
    level: AnyLevel | None = None,
    threshold: Mapping[str, float] | None = None,
) -> MultiEvaluation:
    """Of classes or labels."""


@overload
def evaluate(
    predictions: AnyPredictions,
    settings: MetricSettings,
    *,
    model: str,
    split: str,
    level: AnyLevel | None = None,
    threshold: Threshold | None = None,
) -> FairEvaluation:
    """Of either."""


def evaluate(
    predictions: AnyPredictions,
    settings: MetricSettings,
    *,
    model: str,
    split: str,
    level: AnyLevel | None = None,
    threshold: Threshold | None = None,
) -> FairEvaluation:
    """Accuracy, DPD, EOD and the rest, with intervals.

    Args:
        predictions: of the split's rows.
        settings: how to measure; the groups that the task excludes are added.
        model: path or name, copied into the result.
        split: the split's name, copied into the result.
        level: also measure at one global threshold on the logit gaps that gives this overall
            selection rate; no group label is used. Left out where there are none. Of classes and
            labels one number each is added to everybody's scores.
        threshold: that threshold, or these numbers, when they were set on another split; else they
            are set on this one.

    >>> import numpy as np
    >>> rows = Predictions(
    ...     "toxic", (0, 1, 2, 3), np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1]),
    ...     {"a": np.array([True, True, False, False]), "b": np.array([False, False, True, True])},
    ...     (),
    ... )
    >>> evaluation = evaluate(rows, MetricSettings(), model="m", split="validation")
    >>> evaluation.metrics["acc"].value, evaluation.metrics["dpd"].value
    (0.75, 0.5)
    """
    settings = settings.excluding(predictions.excluded)
    if isinstance(predictions, MultiPredictions):
        assert not isinstance(level, Level)
        assert not isinstance(threshold, float)
        return _evaluate_views(predictions, settings, model, split, level, threshold)
    assert not isinstance(level, MultiLevel)
    assert not isinstance(threshold, Mapping)
    measured = measure_table(counted(predictions), settings)
    rate = measured.metrics["selection_rate"].value
    matched, saturated = None, None
    if level is not None and predictions.logit_gaps is not None and rate is not None:
        matched = _level_matched(predictions, settings, level, threshold)
        saturated = are_apart(rate, level.rate, level.saturation)
    return Evaluation.model_construct(
        **dict(measured),
        model=model,
        task=predictions.task,
        split=split,
        level_matched=matched,
        saturated=saturated,
        threshold=predictions.threshold,
        scores=_scores(predictions, settings),
        versions=versions(),
    )


def _evaluate_views(
    predictions: MultiPredictions,
    settings: MetricSettings,
    model: str,
    split: str,
    level: MultiLevel | None,
    offsets: Mapping[str, float] | None,
) -> MultiEvaluation:
    measured = measure_views(predictions.counted(), settings)
    saturated, matched = None, None
    if level is not None:
        rates = {
            name: view.metrics["selection_rate"].value for name, view in measured.views.items()
        }
        saturated = any(
            are_apart(rate, level.rates[name], level.saturation) for name, rate in rates.items()
        )
        if (found := offsets or predictions.offsets_at(level.rates)) is not None:
            at_level = predictions.moved(found).counted()
            intervals: dict[str, Any] = {**view_intervals(at_level, settings)}
            matched = MatchedViews(offsets=dict(found), **intervals)
    return MultiEvaluation.model_construct(
        **dict(measured),
        model=model,
        task=predictions.task,
        split=split,
        level=None if level is None else LevelRates(to=level.to, rates=dict(level.rates)),
        level_matched=matched,
        saturated=saturated,
        versions=versions(),
    )


def _level_matched(
    predictions: Predictions, settings: MetricSettings, level: Level, threshold: float | None
) -> MatchedMetrics:
    assert predictions.logit_gaps is not None
    if threshold is None:
        threshold = level_threshold(predictions, level.rate)
    samples = Samples.of(counted(predictions.predict_at(threshold)), settings)
    metrics: dict[str, Any] = {name: METRICS[name].interval(samples) for name in sorted(MATCHED)}
    return MatchedMetrics(to=level.to, rate=level.rate, threshold=float(threshold), **metrics)


def _scores(predictions: Predictions, settings: MetricSettings) -> ScoreQuality | None:
    if predictions.logit_gaps is None:
        return None
    return measure_quality(
        predictions.labels,
        predictions.logit_gaps,
        predictions.members,
        settings,
        predictions.probabilities,
        predictions.weights,
        predictions.clusters,
    )


def counted(predictions: Predictions) -> CountTable:
    """Rows by group, label and prediction."""
    rows = predictions.labels, predictions.predicted, predictions.members
    return CountTable.of_codes(*rows, predictions.weights, predictions.clusters)


@cache
def versions() -> dict[str, str]:
    """The versions that a number depends on."""
    names = ("mergekit-fair", "mergekit", "torch", "transformers", "lm-eval")
    return {name: version(name) for name in names}


def evaluate_benchmark(
    rows: BenchmarkRows, settings: MetricSettings, *, model: str, task: str, split: str
) -> BenchmarkEvaluation:
    """Every score of a benchmark with its interval, all documents and by group.

    Args:
        rows: of the split, answered.
        settings: confidence and limits; there is no reference but the groups themselves.
        model, task, split: copied into the result.
    """
    return BenchmarkEvaluation(
        **dict(measure_benchmark(rows, settings)),
        model=model,
        task=task,
        split=split,
        confidence=settings.confidence,
        versions=versions(),
    )
