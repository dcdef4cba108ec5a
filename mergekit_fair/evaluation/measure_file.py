"""Metrics with intervals of a file of predictions: no model, no task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import model_serializer

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.cutoff import Cutoff
from mergekit_fair.evaluation.prediction_table import TableRows
from mergekit_fair.fairness import (
    CountTable,
    Measurement,
    MetricSettings,
    ScoreQuality,
    measure_table,
    predict_at,
)
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.fairness.measurement import without_unsaid
from mergekit_fair.fairness.score_quality import measure_quality


class FileMeasurement(Measurement):
    """What `measure` says of a file.

    Attributes:
        file: path.
        threshold: 1 is predicted where the score is at least this; None where the file holds
            predictions.
        scores: AUC and calibration; None without scores.
    """

    file: str
    threshold: float | None = None
    scores: ScoreQuality | None = None

    @model_serializer(mode="wrap")
    def _file_first(self, serialize: Any) -> dict[str, Any]:
        """What does not apply is left out."""
        fields = without_unsaid(serialize(self))
        said = {name: fields.pop(name) for name in ("file", "threshold", "scores")}
        said = {name: value for name, value in said.items() if value is not None}
        last = {"scores": said.pop("scores")} if "scores" in said else {}
        return said | fields | last


def measure_file(
    path: Path, rows: TableRows, settings: MetricSettings, cutoff: Cutoff | None = None
) -> FileMeasurement:
    """Measure the rows of a file.

    Args:
        path: it is copied into the result.
        rows: from `read_rows_of`.
        settings: how to measure; the groups that the file excludes are added.
        cutoff: where 1 begins, on scores; of probabilities at 0.5, if not given.

    Raises:
        ConfigError: a cutoff without scores, or scores that are no probabilities without one.
        MeasurementError: rows or settings that no metric is defined on.
    """
    settings = settings.excluding((*settings.exclude, *rows.excluded))
    threshold, predicted = rows.threshold, rows.predicted
    if cutoff is not None or predicted is None:
        threshold, predicted = _predicted(path, rows, cutoff)
    sampled = rows.weights, rows.clusters
    table = CountTable.of_codes(rows.labels, predicted, rows.groups, *sampled)
    measured = measure_table(table, settings)
    quality = None
    if rows.scores is not None:
        arguments = rows.scores, rows.groups, settings, rows.probabilities, *sampled
        quality = measure_quality(rows.labels, *arguments)
    return FileMeasurement.model_construct(
        **dict(measured) | {"warnings": (*rows.warnings, *measured.warnings)},
        file=str(path),
        threshold=threshold,
        scores=quality,
    )


def _predicted(
    path: Path, rows: TableRows, cutoff: Cutoff | None
) -> tuple[float, NDArray[np.int8]]:
    """The threshold, and what it predicts. Of probabilities where there are any."""
    scores = rows.scores if rows.probabilities is None else rows.probabilities
    if scores is None:
        raise ConfigError(
            "--threshold needs scores, and there are predictions alone",
            where=path,
            fix="name the column of scores with --score, or leave --threshold out",
        )
    if cutoff is None:
        if rows.probabilities is None:
            raise ConfigError(
                "the scores are not all in [0, 1]: where 1 begins is not known",
                where=path,
                got=f"scores from {np.nanmin(scores):g} to {np.nanmax(scores):g}",
                fix="give --threshold: a number, or 'level: labels' for as many positive "
                "predictions as there are positive labels",
            )
        cutoff = Cutoff(at=0.5)
    if rows.probabilities is not None:
        cutoff.require_probability("--threshold")
    threshold = cutoff.on(scores, rows.labels, rows.weights)
    known = ~np.isnan(scores)
    predicted = np.full(len(scores), UNANSWERED, dtype=np.int8)
    predicted[known] = predict_at(scores[known], threshold)
    return threshold, predicted
