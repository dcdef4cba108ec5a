"""What a model said about the rows of a split: the one thing that is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.data.row_keys import text_keys
from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import MetricSettings, predict_at
from mergekit_fair.fairness.eligible_groups import GroupSizes
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.fairness.weights import Weighted, row_weights

# One number a row: the logit gap; +inf or -inf where only the prediction is known, NaN without.
Scores = NDArray[np.floating[Any]]
GAP = "logit_gap"  # in a sample: the logit gap of a classifier, None without an answer
THRESHOLD = "threshold"  # in a sample: what P(1) is at least where 1 is predicted


@dataclass(frozen=True, eq=False)
class Predictions:
    """n rows of one task.

    Attributes:
        task: its name.
        keys: n keys that tell the rows apart and are equal for equal rows of other models.
        labels: int8 (n,), 0 or 1.
        predicted: int8 (n,), 0, 1 or UNANSWERED.
        groups: name → bool (n,).
        excluded: names of groups that decide no maximum.
        logit_gaps: float64 (n,), positive where 1 is predicted, NaN where unanswered: a
            classifier's logit₁ − logit₀, a language model's log p(1) − log p(0). None for a task
            whose choices are not the two classes.
        weights: float64 (n,), what each row counts for; None: all alike.
        clusters: int64 (n,), equal for rows that are sampled together; None: each is its own.
        threshold: 1 is predicted where P(1) is at least this; None: where the gap is above 0.
    """

    task: str
    keys: tuple[Any, ...]
    labels: NDArray[np.int8]
    predicted: NDArray[np.int8]
    groups: Mapping[str, NDArray[np.bool_]]
    excluded: tuple[str, ...]
    logit_gaps: NDArray[np.float64] | None = None
    weights: NDArray[np.float64] | None = None
    clusters: NDArray[np.int64] | None = None
    threshold: float | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_samples(cls, task: str, samples: Sequence[Mapping[str, Any]]) -> Predictions:
        """The predictions that lie in lm-eval's samples, in memory or read from their file.

        Every sample of a fairness task carries `dpd`: (prediction or None, label, names of the
        groups that may decide). `doc.groups` and `doc.excluded`, where present, name all groups.

        Raises:
            MeasurementError: no samples, or samples of another kind of task.
        """
        if not samples:
            raise MeasurementError("has no samples", where=task, fix="log samples")
        require_one_filter(task, samples)
        items = [_item(sample, task) for sample in samples]
        names = [_groups(sample, item) for sample, item in zip(samples, items, strict=True)]
        every = sorted(set().union(*names))
        excluded = {name for sample in samples for name in sample["doc"].get("excluded") or ()}
        predictions = cls(
            task=task,
            keys=tuple((sample["doc_id"], sample.get("doc_hash")) for sample in samples),
            labels=np.array([label for _, label, _ in items], dtype=np.int8),
            predicted=np.array(
                [UNANSWERED if choice is None else choice for choice, _, _ in items], dtype=np.int8
            ),
            groups={name: np.array([name in row for row in names]) for name in every},
            excluded=tuple(sorted(excluded)),
            weights=weights_of(samples, task),
            clusters=clusters_of(samples, task),
        )
        gaps = _gaps_of_samples(samples)
        if gaps is None:
            return predictions
        if THRESHOLD in samples[0]:
            threshold = float(samples[0][THRESHOLD])
            return replace(predictions, logit_gaps=gaps, threshold=threshold)
        if GAP in samples[0]:
            return predictions.with_scores(gaps)
        gaps[predictions.predicted == UNANSWERED] = np.nan
        by_gap = predictions.with_scores(gaps)
        is_explained = np.array_equal(by_gap.predicted, predictions.predicted)
        return by_gap if is_explained else predictions

    @property
    def is_weighted(self) -> bool:
        """Whether some rows count for more than others."""
        return self.weights is not None and bool((self.weights != self.weights[0]).any())

    def sizes(self, settings: MetricSettings) -> GroupSizes:
        """How many rows the groups have; those that the task excludes decide nothing."""
        return GroupSizes.of_rows(
            self.labels, self.groups, self.weights, settings.excluding(self.excluded)
        )

    @property
    def base_rate(self) -> float:
        """The share of positive labels, of the rows' weight; in [0, 1]."""
        return self._share(self.labels, np.ones(len(self), dtype=np.bool_))

    @property
    def selection_rate(self) -> float:
        """The share of positive predictions among the answered rows' weight; NaN without."""
        return self._share(self.predicted, self.predicted != UNANSWERED)

    def _share(self, hits: NDArray[np.int8], rows: NDArray[np.bool_]) -> float:
        weighted = Weighted.of(self.weights, len(self))
        counted = rows[weighted.rows]
        weights = None if weighted.weights is None else weighted.weights[counted]
        if not counted.any():
            return float("nan")
        return float(np.average(hits[weighted.rows][counted], weights=weights))

    @property
    def scores(self) -> Scores:
        """All that is predicted, as one array (n,); `with_scores` takes it back."""
        if self.logit_gaps is not None:
            return self.logit_gaps
        known = np.where(self.predicted == 1, np.inf, -np.inf)
        return np.where(self.predicted == UNANSWERED, np.nan, known)

    @property
    def probabilities(self) -> NDArray[np.float64] | None:
        """P(1) of every row, 1 / (1 + exp(−logit gap)), NaN where unanswered; None without gaps."""
        if self.logit_gaps is None:
            return None
        half = np.exp(-np.abs(self.logit_gaps))  # in (0, 1]: nothing overflows
        return np.where(self.logit_gaps > 0, 1, half) / (1 + half)

    def with_scores(self, scores: Scores) -> Predictions:
        """The same rows, predicted otherwise.

        Args:
            scores: (n,), from `scores`, or logit gaps.
        """
        gaps = np.asarray(scores, dtype=np.float64)
        predicted = (gaps > 0).astype(np.int8)
        predicted[np.isnan(gaps)] = UNANSWERED
        return replace(self, predicted=predicted, logit_gaps=None if np.isinf(gaps).any() else gaps)

    def take(self, chosen: NDArray[np.bool_]) -> Predictions:
        """Some of the rows, bool (n,), in their order."""

        def part(values: NDArray[Any] | None) -> Any:
            return None if values is None else values[chosen]

        return replace(
            self,
            keys=tuple(self.keys[row] for row in np.flatnonzero(chosen)),
            labels=self.labels[chosen],
            predicted=self.predicted[chosen],
            groups={name: mask[chosen] for name, mask in self.groups.items()},
            logit_gaps=part(self.logit_gaps),
            weights=part(self.weights),
            clusters=part(self.clusters),
        )

    def without_predictions(self) -> Predictions:
        """The same rows, of which nothing is predicted."""
        return self.with_scores(np.full(len(self), np.nan))

    def predict_at(self, threshold: float) -> Predictions:
        """Predictions 1[logit gap >= threshold]; a row without a prediction keeps none.

        Raises:
            MeasurementError: there are no logit gaps.
        """
        if self.logit_gaps is None:
            raise MeasurementError("has no logit gaps to put a threshold on", where=self.task)
        predicted = np.full(len(self), UNANSWERED, dtype=np.int8)
        answered = ~np.isnan(self.logit_gaps)
        predicted[answered] = predict_at(self.logit_gaps[answered], threshold)
        return replace(self, predicted=predicted)

    @cached_property
    def members(self) -> Groups:
        """The groups as `fairness` counts them."""
        return Groups.of(self.groups, len(self))


def require_one_filter(task: str, samples: Sequence[Mapping[str, Any]]) -> None:
    """Every document has one sample: with several filters each would count several times.

    Raises:
        MeasurementError: names the filters.
    """
    filters = sorted({str(sample.get("filter")) for sample in samples})
    if len(filters) > 1:
        raise MeasurementError(
            "has answers of several filters",
            where=task,
            got=filters,
            fix="leave one filter in the task's filter_list",
        )


def choice_gaps(log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """log p(second choice) − log p(first); NaN without an answer.

    Where it is infinite, the largest number that a float32 can be, so that it ranks above or below
    all others.

    Args:
        log_probs: (n, 2). No answer: one of them is NaN, or both are −inf.
    """
    first, second = log_probs[:, 0], log_probs[:, 1]
    with np.errstate(invalid="ignore"):  # inf − inf
        gaps = second - first
    return np.where(np.isinf(gaps), np.sign(gaps) * np.finfo(np.float32).max, gaps)


def weights_of(samples: Sequence[Mapping[str, Any]], task: str) -> NDArray[np.float64] | None:
    """The weights that samples' documents carry; None if none does.

    Raises:
        MeasurementError: some documents have a weight and some have none, or one is no weight.
    """
    weights: list[Any] = [(sample.get("doc") or {}).get("weight") for sample in samples]
    if not _all_or_none([weight is not None for weight in weights], "weight", task):
        return None
    return row_weights(weights, len(weights))


def clusters_of(samples: Sequence[Mapping[str, Any]], task: str) -> NDArray[np.int64] | None:
    """The clusters that samples' documents carry, numbers or texts; None if none does.

    Raises:
        MeasurementError: some documents have the key and some do not.
    """
    docs = [sample.get("doc") or {} for sample in samples]
    if not _all_or_none(["cluster" in doc for doc in docs], "cluster", task):
        return None
    names = [doc["cluster"] for doc in docs]
    if all(type(name) is int for name in names):
        return np.array(names, dtype=np.int64)
    written = [f"\0row {row}" if name is None else str(name) for row, name in enumerate(names)]
    return (text_keys(written) >> np.uint64(1)).astype(np.int64)


def _all_or_none(has: Sequence[bool], key: str, task: str) -> bool:
    """Whether documents have a key.

    Raises:
        MeasurementError: some have it and some do not.
    """
    if any(has) and not all(has):
        raise MeasurementError(
            f"{len(has) - sum(has)} of {len(has)} samples have no `{key}`, the first in row "
            f"{list(has).index(False)}",
            where=task,
            fix="evaluate all of them with the same data description",
        )
    return all(has)


def _gaps_of_samples(samples: Sequence[Mapping[str, Any]]) -> NDArray[np.float64] | None:
    """Of samples that say theirs, or that have two choices; else None."""
    if GAP in samples[0]:
        return np.array([np.nan if s[GAP] is None else float(s[GAP]) for s in samples])
    if any(len(sample["filtered_resps"]) != 2 for sample in samples):
        return None
    return choice_gaps(
        np.array([[float(answer[0]) for answer in s["filtered_resps"]] for s in samples])
    )


def _item(sample: Mapping[str, Any], task: str) -> tuple[int | None, int, list[str]]:
    item = sample.get("dpd")
    if not isinstance(item, (list, tuple)) or len(item) != 3:
        raise MeasurementError(
            "is no fairness task: its samples hold no `dpd` of (prediction, label, groups)",
            where=task,
            got=sorted(map(str, sample.get("metrics") or ())),
            fix="use a task of `mergekit-fair tasks-dir`, or write process_results as they do",
        )
    prediction, label, groups = item
    for name, value, allowed in (
        ("prediction", prediction, (0, 1, None)),
        ("label", label, (0, 1)),
    ):
        if value not in allowed:
            raise MeasurementError(
                f"sample {sample.get('doc_id')} has another {name}",
                where=task,
                got=value,
                allowed=allowed,
            )
    return None if prediction is None else int(prediction), int(label), list(groups)


def _groups(sample: Mapping[str, Any], item: tuple[int | None, int, list[str]]) -> set[str]:
    listed = sample["doc"].get("groups")
    if not isinstance(listed, (list, tuple)):
        return set(item[2])
    if unknown := sorted(set(item[2]) - set(listed)):
        raise MeasurementError(
            f"sample {sample.get('doc_id')} counts in groups that its document does not name",
            got=unknown,
            allowed=list(listed),
        )
    return set(listed)
