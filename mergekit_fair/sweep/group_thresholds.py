"""The baseline that merging has to beat: thresholds by group on a model's scores.

They cost no forward pass, and need to know the group of everybody they decide on, which a merged
model does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.evaluation.evaluate import evaluate
from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.evaluation.saved_rows import rows_digest
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.schema import digest_of_json
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.record import PlannedPoint, PointResult
from mergekit_fair.sweep.sweep_config import SweepConfig

CONSTRAINTS = {"dpd": "demographic_parity", "eod": "equalized_odds"}
NOTE = "group thresholds need the group label of every row at prediction time; merged models do not"
_REST = "(rest)"


class GroupThresholds:
    """fairlearn's `ThresholdOptimizer` over logit gaps: accuracy subject to one constraint.

    Rows that carry several groups, or none, are a group of their own; combinations without both
    labels on the fitted rows are pooled. Predictions are drawn where the optimum is a mixture of
    two thresholds, with a fixed seed. Source: Hardt et al., arXiv 1610.02413.

    Args:
        constraint: `demographic_parity` or `equalized_odds`.
        fitted: predictions with logit gaps, of the split that is selected on.
        seed: of the drawn predictions.
    """

    def __init__(self, constraint: str, fitted: Predictions, seed: int) -> None:
        from fairlearn.postprocessing import ThresholdOptimizer

        self._seed = seed
        patterns = _patterns(fitted)
        usable = [name for name in np.unique(patterns) if _has_both(fitted, patterns == name)]
        self._known = frozenset(map(str, usable))
        names = self._names(patterns)
        rows = _answered(fitted) & np.isin(names, self._fit_names(fitted, names))
        self._trained = frozenset(map(str, np.unique(names[rows])))
        self._optimizer = ThresholdOptimizer(
            estimator=_scores_as_model(),
            constraints=constraint,
            objective="accuracy_score",
            prefit=True,
            predict_method="decision_function",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an estimator that was never fitted
            self._optimizer.fit(
                _column(fitted, rows), fitted.labels[rows], sensitive_features=names[rows]
            )

    def scores(self, predictions: Predictions) -> Scores:
        """+inf where 1 is predicted, −inf where 0; a group that was not fitted keeps the model's
        own predictions, and NaN stays NaN."""
        names = self._names(_patterns(predictions))
        rows = _answered(predictions) & np.isin(names, list(self._trained))
        scores = np.where(predictions.predicted == 1, np.inf, -np.inf)
        scores[predictions.predicted == UNANSWERED] = np.nan
        if rows.any():
            predicted = self._optimizer.predict(
                _column(predictions, rows), sensitive_features=names[rows], random_state=self._seed
            )
            scores[rows] = np.where(np.asarray(predicted) == 1, np.inf, -np.inf)
        return scores

    def _names(self, patterns: NDArray[np.str_]) -> NDArray[np.str_]:
        return np.where(np.isin(patterns, list(self._known)), patterns, _REST)

    @staticmethod
    def _fit_names(fitted: Predictions, names: NDArray[np.str_]) -> list[str]:
        return [str(n) for n in np.unique(names) if _has_both(fitted, names == n)]


def _scores_as_model() -> Any:
    """What fairlearn takes for a fitted model: the score is the only column."""
    from sklearn.base import BaseEstimator

    class Margins(BaseEstimator):
        def fit(self, *args: Any, **options: Any) -> Margins:
            del args, options
            return self

        def decision_function(self, columns: Any) -> Any:
            return np.asarray(columns)[:, 0]

        def __sklearn_is_fitted__(self) -> bool:
            return True

    return Margins()


@dataclass
class ThresholdedBaseline:
    """A baseline under each constraint; nothing where the sweep asks for none.

    Attributes:
        warnings: what they need.
    """

    _runner: PointRunner | None = None
    _baseline: str = ""
    _fitted: Mapping[str, tuple[str, GroupThresholds]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def fit(
        cls, config: SweepConfig, runner: PointRunner, baselines: Mapping[str, PointResult]
    ) -> ThresholdedBaseline:
        """Thresholds on the scores of `config.thresholds`, fitted on the selection's rows."""
        name = config.thresholds
        if name is None:
            return cls()
        baseline = baselines[name].id
        rows = runner.predictions(baseline)
        fitted = {
            f"{name} + thresholds ({short})": (
                _point_id(baseline, constraint, runner.settings.excluding(rows.excluded)),
                GroupThresholds(constraint, rows, config.seed),
            )
            for short, constraint in CONSTRAINTS.items()
        }
        return cls(runner, baseline, fitted, [NOTE])

    def predictions(self, split: str) -> dict[str, Predictions]:
        """Label → predictions on a split."""
        if self._runner is None:
            return {}
        rows = self._runner.predictions(self._baseline, split)
        done = self._runner.store.results(split)
        return {
            label: self._runner.predictions(point, split)
            if point in done
            else rows.with_scores(thresholds.scores(rows))
            for label, (point, thresholds) in self._fitted.items()
        }

    def results(self, split: str) -> list[PointResult]:
        """Measured on a split and stored; the report rows only once they may be opened."""
        if self._runner is None:
            return []
        store, found = self._runner.store, []
        for label, predictions in self.predictions(split).items():
            planned = _planned(self._fitted[label][0], label)
            done = store.results(split).get(planned.id)
            rows = self._runner.labels(split)[predictions.task]
            digest = rows_digest({predictions.task: rows})
            if done is None or not self._runner.is_current(done, planned, digest):
                done = self._stored(self._runner, planned, predictions, split)
            found.append(done)
        return found

    def _stored(
        self, runner: PointRunner, planned: PlannedPoint, predictions: Predictions, split: str
    ) -> PointResult:
        result = PointResult(
            **vars(planned),
            split=split,
            evaluation=evaluate(predictions, runner.settings, model=planned.label, split=split),
            measured_with=runner.measured_with,
        )
        return runner.store.append(
            result, predictions.scores, {predictions.task: runner.labels(split)[predictions.task]}
        )


def _point_id(baseline: str, constraint: str, settings: MetricSettings) -> str:
    """16 hex digits, from the id of the baseline's point and all that a fit may depend on."""
    fit = (settings.reference, settings.min_group_size, sorted(settings.exclude), settings.seed)
    return digest_of_json([baseline, constraint, *fit])[:16]


def _planned(point: str, label: str) -> PlannedPoint:
    return PlannedPoint(
        id=point, kind="thresholds", label=label, settings={}, lambda_=None, lambda_eff=None
    )


def _patterns(predictions: Predictions) -> NDArray[np.str_]:
    groups = dict(sorted(predictions.groups.items()))
    columns = [np.where(inside, f"{name}|", "") for name, inside in groups.items()]
    patterns = np.full(len(predictions), "", dtype=object)
    for column in columns:
        patterns = patterns + column.astype(object)
    return patterns.astype(str)


def _has_both(predictions: Predictions, rows: NDArray[np.bool_]) -> bool:
    labels = predictions.labels[rows & _answered(predictions)]
    return bool(len(labels)) and 0 < labels.sum() < len(labels)


def _answered(predictions: Predictions) -> NDArray[np.bool_]:
    if predictions.logit_gaps is None:
        return np.zeros(len(predictions), dtype=bool)
    return ~np.isnan(predictions.logit_gaps)


def _column(predictions: Predictions, rows: NDArray[np.bool_]) -> Any:
    gaps = (
        predictions.logit_gaps if predictions.logit_gaps is not None else np.zeros(len(predictions))
    )
    return gaps[rows].reshape(-1, 1)
