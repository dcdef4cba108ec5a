"""Thresholds by group on a model's scores: they cost no forward pass, and need to know the groups
of everybody they decide on, which a merged model does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.evaluate import counted
from mergekit_fair.evaluation.group_offsets import SHARES, GroupOffsets, fit_offsets
from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.evaluation.soft_objective import counting, deciding_groups
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.fairness.measure import estimate_table
from mergekit_fair.fairness.rates import is_degenerate

CONSTRAINTS: dict[Literal["dpd", "eod"], str] = {
    "dpd": "demographic_parity",
    "eod": "equalized_odds",
}
# Of the way in which thresholds are fitted: another one makes other points.
VERSION = 2


class Thresholds(Protocol):
    """Decides by scores and groups."""

    def scores(self, predictions: Predictions) -> Scores:
        """Above 0 where 1 is predicted, NaN where nothing is: (n,)."""
        ...

    @property
    def groups(self) -> Collection[str]:
        """Those that have a threshold of their own."""
        ...


class GroupThresholds:
    """fairlearn's `ThresholdOptimizer` over logit gaps: accuracy subject to one constraint.

    For groups that do not overlap. Rows in none, or in a group that is too small, keep the model's
    own threshold. Predictions are drawn where the optimum is a mixture of two thresholds, with a
    fixed seed. Source: Hardt et al., arXiv 1610.02413.

    Args:
        constraint: `demographic_parity` or `equalized_odds`.
        rows: predictions with logit gaps, of the split that is selected on.
        groups: those that get thresholds, two or more; each with rows of both labels.
        seed: of the drawn predictions.
    """

    def __init__(
        self, constraint: str, rows: Predictions, groups: Sequence[str], seed: int
    ) -> None:
        from fairlearn.postprocessing import ThresholdOptimizer

        self._seed, self.groups = seed % 2**32, tuple(groups)  # what numpy takes
        names = self._names(rows)
        fitted = names != ""
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
                _column(rows, fitted), rows.labels[fitted], sensitive_features=names[fitted]
            )

    def scores(self, predictions: Predictions) -> Scores:
        """+inf where 1 is predicted, −inf where 0, NaN without an answer."""
        names = self._names(predictions)
        rows = names != ""
        scores = np.where(predictions.predicted == 1, np.inf, -np.inf)
        scores[predictions.predicted == UNANSWERED] = np.nan
        if rows.any():
            predicted = self._optimizer.predict(
                _column(predictions, rows), sensitive_features=names[rows], random_state=self._seed
            )
            scores[rows] = np.where(np.asarray(predicted) == 1, np.inf, -np.inf)
        return scores

    def _names(self, predictions: Predictions) -> NDArray[np.str_]:
        """The group of every row that is decided on by group, "" for others."""
        names = np.full(len(predictions), "", dtype=object)
        for name in self.groups:
            if name in predictions.groups:
                names[predictions.groups[name] & counting(predictions)] = name
        return names.astype(str)


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


def _column(predictions: Predictions, rows: NDArray[np.bool_]) -> Any:
    if predictions.logit_gaps is None:
        raise MeasurementError("has no scores to put thresholds on", where=predictions.task)
    return predictions.logit_gaps[rows].reshape(-1, 1)


def fit(gap: Literal["dpd", "eod"], rows: Predictions, settings: MetricSettings) -> Thresholds:
    """Thresholds by group that make a gap smaller on the rows that they are fitted on.

    fairlearn's `GroupThresholds` where no row is in two of the groups and all count alike, else
    `GroupOffsets`, of which the share that leaves the smallest gap is kept.

    Args:
        gap: `dpd` or `eod`.
        rows: of the split that is selected on.
        settings: which gap it is, and who decides it.

    Raises:
        MeasurementError: fewer than two groups decide, or no thresholds make the gap smaller
            without predicting hardly anything but one class.
    """
    groups = deciding_groups(gap, rows, settings)
    if rows.is_weighted or not _are_disjoint(rows, groups):
        offsets = fit_offsets(gap, rows, settings)
        found: list[Thresholds] = [offsets.times(share) for share in SHARES]
    else:
        least = settings.min_group_size if gap == "eod" else 1
        both = [name for name in groups if min(_rows_by_label(rows, name)) >= least]
        fits = len(both) >= 2
        found = [GroupThresholds(CONSTRAINTS[gap], rows, both, settings.seed)] if fits else []
    own = _gap(gap, rows, rows.scores, settings)
    left = [_gap(gap, rows, each.scores(rows), settings) for each in found]
    best = min(range(len(found)), key=lambda index: left[index], default=None)
    if best is None or not left[best] < own:
        is_usable = best is not None and np.isfinite(left[best])
        raise MeasurementError(
            f"no thresholds by group make the {gap.upper()} smaller on the rows that they are "
            "fitted on, and predict more than hardly anything but one class",
            where=rows.task,
            got=f"{left[best]:.3f}" if is_usable and best is not None else None,
            allowed=f"below {own:.3f}" if np.isfinite(own) else None,
        )
    return found[best]


def remarks(label: str, source: str, thresholds: Thresholds, rows: Predictions) -> Iterator[str]:
    """What a reader should know of how thresholds decide.

    Args:
        label: what they are called.
        source: whose scores they are put on.
        thresholds: from `fit`.
        rows: that they were fitted on.
    """
    if isinstance(thresholds, GroupOffsets):
        yield (
            f"{label}: every group has an offset to {source}'s threshold; a row of several groups "
            "gets their sum, a row of none keeps the threshold"
        )
    without = [n for n in rows.groups if n not in (*thresholds.groups, *rows.excluded)]
    if without:
        yield f"{label}: {source}'s own threshold is kept for {', '.join(without)}: too few rows"


def _gap(gap: str, rows: Predictions, scores: Scores, settings: MetricSettings) -> float:
    """As a point is measured; infinite where predictions are degenerate or it is undefined."""
    table = counted(rows.with_scores(scores))
    value = estimate_table(table, settings.excluding(rows.excluded))[gap]
    unusable = bool(is_degenerate(table.counts.overall)) or np.isnan(value)
    return float("inf") if unusable else value


def _are_disjoint(rows: Predictions, groups: Sequence[str]) -> bool:
    return bool((np.sum([rows.groups[name] for name in groups], axis=0) <= 1).all())


def _rows_by_label(rows: Predictions, group: str) -> list[int]:
    labels = rows.labels[rows.groups[group] & counting(rows)]
    return [int((labels == label).sum()) for label in (0, 1)]
