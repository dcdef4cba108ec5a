"""One evaluation: a model's predictions on a split become a typed result, the JSON of TASK.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_serializer

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.predictions import (
    Predictions,
    clusters_of,
    require_one_filter,
    weights_of,
)
from mergekit_fair.evaluation.truncation import Truncation
from mergekit_fair.fairness import (
    METRICS,
    CountTable,
    Measurement,
    MetricSettings,
    ScoreMeasurement,
    ScoreQuality,
    matching_threshold,
    measure_table,
)
from mergekit_fair.fairness.claims import SATURATION, are_apart
from mergekit_fair.fairness.intervals import Interval, Samples
from mergekit_fair.fairness.measurement import without_unsaid
from mergekit_fair.fairness.metrics import MATCHED
from mergekit_fair.fairness.score_quality import measure_quality
from mergekit_fair.fairness.scores import measure_score_rows
from mergekit_fair.schema import Record, read_sealed

ITEM = "preference_gap"  # in a sample: (1, 0, or None without an answer; the kind)
# Written first, so that a file says at its top what it is about.
_FIRST = ("schema_version", "model", "task", "split")


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
    saturation: float = SATURATION


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
        optional = ("level_matched", "saturated", "max_length", "truncated", "trained_rows")
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


class PreferenceEvaluation(Evaluated, ScoreMeasurement):
    """A task without right answers: how often each kind is preferred, and their range."""

    confidence: float


def read_evaluation(path: Path) -> Evaluation | PreferenceEvaluation:
    """A TASK.json that `eval` has written, of this version or of 0.1.

    Raises:
        MeasurementError: no such file, damaged or edited, or of a version that is not known.
    """
    fix = "give a TASK.json as `mergekit-fair eval` has written it"
    content = read_sealed(path, "evaluation", MeasurementError, fix=fix)
    is_preference = isinstance(content, Mapping) and "gap" in content
    kind = PreferenceEvaluation if is_preference else Evaluation
    return kind.from_dict(content, where=path)


def evaluate(
    predictions: Predictions,
    settings: MetricSettings,
    *,
    model: str,
    split: str,
    level: Level | None = None,
    threshold: float | None = None,
) -> Evaluation:
    """Accuracy, DPD, EOD and the rest, with intervals.

    Args:
        predictions: of the split's rows.
        settings: how to measure; the groups that the task excludes are added.
        model: path or name, copied into the result.
        split: the split's name, copied into the result.
        level: also measure at one global threshold on the logit gaps that gives this overall
            selection rate; no group label is used. Left out where there are none.
        threshold: that threshold, when it was set on another split; else it is set on this one.

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


def level_threshold(predictions: Predictions, rate: float) -> float:
    """The threshold on logit gaps, of which there are some, that selects this share of the rows."""
    assert predictions.logit_gaps is not None
    known = ~np.isnan(predictions.logit_gaps)
    weights = None if predictions.weights is None else predictions.weights[known]
    return float(matching_threshold(predictions.logit_gaps[known], rate, weights))


def counted(predictions: Predictions) -> CountTable:
    """Rows by group, label and prediction."""
    rows = predictions.labels, predictions.predicted, predictions.members
    return CountTable.of_codes(*rows, predictions.weights, predictions.clusters)


@cache
def versions() -> dict[str, str]:
    """The versions that a number depends on."""
    names = ("mergekit-fair", "mergekit", "torch", "transformers", "lm-eval")
    return {name: version(name) for name in names}


def measure_preferences(
    task: str,
    samples: Sequence[Mapping[str, Any]],
    settings: MetricSettings,
    *,
    model: str,
    split: str,
) -> PreferenceEvaluation:
    """Preference rate of every kind, and max − min of them with its interval.

    Args:
        task: its name.
        samples: lm-eval's, each with `preference_gap`.
        settings: confidence and limits; there is no reference but the kinds themselves.
        model, split: copied into the result.
    """
    require_one_filter(task, samples)
    items = [sample[ITEM] for sample in samples]
    preferred = np.array([np.nan if value is None else float(value) for value, _ in items])
    kinds = [kind for _, kind in items]
    sampled = weights_of(samples, task), clusters_of(samples, task)
    measured = measure_score_rows(preferred, kinds, settings, *sampled)
    return PreferenceEvaluation(
        **dict(measured),
        model=model,
        task=task,
        split=split,
        confidence=settings.confidence,
        versions=versions(),
    )
