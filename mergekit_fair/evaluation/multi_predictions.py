"""What a model said about rows that have one of several classes, or several labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.predictions import (
    Predictions,
    Scores,
    clusters_of,
    require_one_filter,
    weights_of,
)
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.fairness.level_offsets import level_offsets
from mergekit_fair.fairness.views import Kind, MultiCodes, Views
from mergekit_fair.fairness.weights import Weighted

ITEM = "macro_dpd"  # in a sample: (prediction or None, label, groups that may decide, names)
_TINY = np.nextafter(0.0, 1.0)


@dataclass(frozen=True, eq=False)
class MultiPredictions:
    """n rows of one task, V views of each: one a class, or one a label.

    Attributes:
        task: its name.
        keys: n keys that tell the rows apart and are equal for equal rows of other models.
        kind: `classes`: a row has one of them; `labels`: it has each or not.
        names: of the V classes or labels.
        labels: int8 (n, V), 0 or 1; of classes one 1 a row.
        predicted: int8 (n, V), 0, 1 or UNANSWERED.
        groups: name → bool (n,).
        excluded: names of groups that decide no maximum.
        log_probs: float64 (n, V), log P(class) or log P(label), NaN where unanswered; None where
            only predictions are known.
        weights, clusters: as in `Predictions`.
    """

    task: str
    keys: tuple[Any, ...]
    kind: Kind
    names: tuple[str, ...]
    labels: NDArray[np.int8]
    predicted: NDArray[np.int8]
    groups: Mapping[str, NDArray[np.bool_]]
    excluded: tuple[str, ...]
    log_probs: NDArray[np.float64] | None = None
    weights: NDArray[np.float64] | None = None
    clusters: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_samples(cls, task: str, samples: Sequence[Mapping[str, Any]]) -> MultiPredictions:
        """The predictions that lie in lm-eval's samples, in memory or read from their file.

        Raises:
            MeasurementError: samples of other names than the first, or that are damaged.
        """
        require_one_filter(task, samples)
        items = [_item(sample, task) for sample in samples]
        names = tuple(str(name) for name in items[0][3])
        kind: Kind = "labels" if isinstance(items[0][1], list | tuple) else "classes"
        if any(tuple(item[3]) != names for item in items):
            raise MeasurementError("has documents of other classes or labels", where=task)
        size = len(names)
        listed = [_groups(sample, item[2]) for sample, item in zip(samples, items, strict=True)]
        every = sorted(set().union(*listed))
        excluded = {name for sample in samples for name in sample["doc"].get("excluded") or ()}
        predictions = cls(
            task=task,
            keys=tuple((sample["doc_id"], sample.get("doc_hash")) for sample in samples),
            kind=kind,
            names=names,
            labels=np.array([_coded(kind, item[1], size, task) for item in items], dtype=np.int8),
            predicted=np.array(
                [_coded(kind, item[0], size, task) for item in items], dtype=np.int8
            ),
            groups={name: np.array([name in row for row in listed]) for name in every},
            excluded=tuple(sorted(excluded)),
            weights=weights_of(samples, task),
            clusters=clusters_of(samples, task),
        )
        if any(len(sample["filtered_resps"]) != size for sample in samples):
            return predictions
        found = np.array(
            [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
        )
        by_scores = predictions.with_scores(found.reshape(-1))
        is_explained = np.array_equal(by_scores.predicted, predictions.predicted)
        return by_scores if is_explained else predictions

    @property
    def is_weighted(self) -> bool:
        """Whether some rows count for more than others."""
        return self.weights is not None and bool((self.weights != self.weights[0]).any())

    @property
    def scores(self) -> Scores:
        """All that is predicted, as one array (n · V,), row by row; `with_scores` takes it back."""
        if self.log_probs is not None:
            return self.log_probs.reshape(-1)
        certain = np.where(self.predicted == 1, 0.0, -np.inf)
        return np.where(self.predicted == UNANSWERED, np.nan, certain).reshape(-1)

    def with_scores(self, scores: Scores) -> MultiPredictions:
        """The same rows, predicted otherwise.

        Args:
            scores: (n · V,), from `scores`, or log-probabilities, row by row.
        """
        found = np.asarray(scores, dtype=np.float64).reshape(self.labels.shape)
        is_certain = not np.isfinite(found[found != 0]).any()
        predicted = predicted_of(self.kind, found)
        return replace(self, predicted=predicted, log_probs=None if is_certain else found)

    def without_predictions(self) -> MultiPredictions:
        """The same rows, of which nothing is predicted."""
        return self.with_scores(np.full(self.labels.size, np.nan))

    def take(self, chosen: NDArray[Any]) -> MultiPredictions:
        """Some of the rows, bool (n,) in their order, or numbers of rows."""
        rows = np.flatnonzero(chosen) if chosen.dtype == bool else chosen

        def part(values: NDArray[Any] | None) -> Any:
            return None if values is None else values[rows]

        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows.tolist()),
            labels=self.labels[rows],
            predicted=self.predicted[rows],
            groups={name: mask[rows] for name, mask in self.groups.items()},
            log_probs=part(self.log_probs),
            weights=part(self.weights),
            clusters=part(self.clusters),
        )

    @cached_property
    def members(self) -> Groups:
        """The groups as `fairness` counts them."""
        return Groups.of(self.groups, len(self))

    @cached_property
    def views(self) -> dict[str, Predictions]:
        """Class or label → the binary question about it, with `margins` as its logit gaps."""
        gaps = None if self.log_probs is None else margins(self.kind, self.log_probs)
        return {
            name: Predictions(
                task=self.task,
                keys=self.keys,
                labels=self.labels[:, view],
                predicted=self.predicted[:, view],
                groups=self.groups,
                excluded=self.excluded,
                logit_gaps=None if gaps is None else gaps[:, view],
                weights=self.weights,
                clusters=self.clusters,
            )
            for view, name in enumerate(self.names)
        }

    def counted(self) -> Views:
        """Rows by groups, labels and predictions, as `measure_views` takes them."""
        return self.codes.counted(self.members, self.weights, self.clusters)

    @property
    def codes(self) -> MultiCodes:
        """Truth and predictions."""
        return MultiCodes(self.kind, self.names, self.labels, self.predicted)

    @property
    def base_rates(self) -> dict[str, float]:
        """Class or label → the share of rows' weight that has it."""
        return dict(zip(self.names, self._shares(self.labels).tolist(), strict=True))

    @property
    def selection_rates(self) -> dict[str, float]:
        """Class or label → the share of answered rows' weight that it is predicted of."""
        return dict(zip(self.names, self._shares(self.predicted).tolist(), strict=True))

    def at_level(self, rates: Mapping[str, float]) -> MultiPredictions | None:
        """Predictions at other selection rates: log-probabilities, or logits of labels, plus one
        number a class or label, the same for everybody. It reads scores and weights, neither labels
        nor groups.

        Args:
            rates: class or label → wanted selection rate, in [0, 1].

        Returns:
            The rows, predicted anew; None without log-probabilities.
        """
        offsets = self.offsets_at(rates)
        return None if offsets is None else self.moved(offsets)

    def offsets_at(self, rates: Mapping[str, float]) -> dict[str, float] | None:
        """What `moved` takes to give these selection rates; None without log-probabilities.

        Args:
            rates: as in `at_level`.
        """
        answered = self.is_answered
        if self.log_probs is None or not answered.any():
            return None
        weights = None if self.weights is None else self.weights[answered]
        wanted = np.array([rates[name] for name in self.names])
        is_exclusive = self.kind == "classes"
        known = self._shiftable(answered)
        found = level_offsets(known, wanted, weights, is_exclusive=is_exclusive)
        return dict(zip(self.names, found.tolist(), strict=True))

    def moved(self, offsets: Mapping[str, float]) -> MultiPredictions:
        """Predictions of log-probabilities, or logits of labels, plus one number a class or label.

        Args:
            offsets: class or label → that number.

        Raises:
            MeasurementError: there are no log-probabilities.
        """
        if self.log_probs is None:
            raise MeasurementError("has no log-probabilities to add to", where=self.task)
        answered = self.is_answered
        shifted = self._shiftable(answered) + np.array([offsets[name] for name in self.names])
        predicted = np.full(self.labels.shape, UNANSWERED, dtype=np.int8)
        predicted[answered] = (
            _one_hot(shifted) if self.kind == "classes" else (shifted > 0).astype(np.int8)
        )
        return replace(self, predicted=predicted, log_probs=None)

    @property
    def is_answered(self) -> NDArray[np.bool_]:
        """(n,), the rows that have a prediction of every class or label."""
        return (self.predicted != UNANSWERED).all(axis=1)

    def _shiftable(self, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Log-probabilities of some rows, of labels their logits, all finite."""
        assert self.log_probs is not None
        scores = self.log_probs if self.kind == "classes" else margins("labels", self.log_probs)
        return np.clip(scores[rows], -1e30, 1e30)

    def _shares(self, hits: NDArray[np.int8]) -> NDArray[np.float64]:
        weighted = Weighted.of(self.weights, len(self))
        rows = hits[weighted.rows]
        weights = np.ones(len(rows)) if weighted.weights is None else weighted.weights
        known = (rows != UNANSWERED) * weights[:, np.newaxis]
        total = known.sum(axis=0)
        part = (known * (rows == 1)).sum(axis=0)
        return np.divide(part, total, out=np.full(len(total), np.nan), where=total > 0)


AnyPredictions = Predictions | MultiPredictions


def read_samples_of(task: str, samples: Sequence[Mapping[str, Any]]) -> AnyPredictions:
    """The predictions that lie in lm-eval's samples: binary ones, or of classes or labels.

    Raises:
        MeasurementError: no samples, or samples of another kind of task.
    """
    kind = MultiPredictions if samples and ITEM in samples[0] else Predictions
    return kind.of_samples(task, samples)


def predicted_of(kind: Kind, log_probs: NDArray[np.float64]) -> NDArray[np.int8]:
    """What is predicted: of classes the likeliest, the first of equals; labels above ½.

    Args:
        kind: of the answers.
        log_probs: (n, V). No answer: a NaN in the row; of classes also where all are −inf.

    Returns:
        int8 (n, V), 0, 1 or UNANSWERED.

    >>> predicted_of("classes", np.log([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])).tolist()
    [[1, 0, 0], [0, 0, 1]]
    >>> predicted_of("labels", np.log([[0.75, 0.25, 0.5]])).tolist()
    [[1, 0, 0]]
    """
    found = np.asarray(log_probs, dtype=np.float64)
    silent = np.isnan(found).any(axis=1)
    if kind == "classes":
        silent |= (found == -np.inf).all(axis=1)
        predicted = _one_hot(np.where(np.isnan(found), -np.inf, found))
    else:
        predicted = (margins(kind, found) > 0).astype(np.int8)
    predicted[silent] = UNANSWERED
    return predicted


def margins(kind: Kind, log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much a view is predicted: above 0 exactly where it is; NaN where unanswered.

        classes   log p_c − max of the others
        labels    log p − log(1 − p), the logit

    Where it is infinite, the largest number that a float32 can be.

    Args:
        kind: of the answers.
        log_probs: (n, V).
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # inf − inf
        if kind == "labels":
            found = log_probs - np.log(-np.expm1(log_probs))
        else:
            others = np.stack(
                [
                    np.delete(log_probs, view, axis=1).max(axis=1)
                    for view in range(log_probs.shape[1])
                ],
                axis=1,
            )
            found = log_probs - others
            # The first of equals is predicted.
            tied = (found == 0) & (_one_hot(np.nan_to_num(log_probs, nan=-np.inf)) == 1)
            found = np.where(tied, _TINY, found)
        found = np.where(np.isinf(found), np.sign(found) * np.finfo(np.float32).max, found)
    silent = np.isnan(log_probs).any(axis=1, keepdims=True)
    if kind == "classes":
        silent |= (log_probs == -np.inf).all(axis=1, keepdims=True)
    return np.where(silent, np.nan, found)


def _one_hot(scores: NDArray[np.float64]) -> NDArray[np.int8]:
    best = np.zeros(scores.shape, dtype=np.int8)
    best[np.arange(len(scores)), scores.argmax(axis=1)] = 1
    return best


def _item(sample: Mapping[str, Any], task: str) -> tuple[Any, Any, list[str], list[str]]:
    item = sample.get(ITEM)
    if not isinstance(item, list | tuple) or len(item) != 4:
        raise MeasurementError(
            f"sample {sample.get('doc_id')} holds no `{ITEM}` of (prediction, label, groups, "
            "names)",
            where=task,
            fix="evaluate all documents with one task",
        )
    prediction, label, groups, names = item
    return prediction, label, list(groups), list(names)


def _coded(kind: Kind, said: Any, size: int, task: str) -> list[int]:
    """Its V views as 0 and 1, UNANSWERED for None.

    Raises:
        MeasurementError: no class number, or no list of 0 and 1.
    """
    if said is None:
        return [UNANSWERED] * size
    if kind == "classes" and type(said) is int and 0 <= said < size:
        return [int(said == number) for number in range(size)]
    is_list = kind == "labels" and isinstance(said, list | tuple) and len(said) == size
    if is_list and set(said) <= {0, 1}:
        return [int(each) for each in said]
    raise MeasurementError(
        "a sample has another prediction or label",
        where=task,
        got=said,
        allowed=f"0 to {size - 1}" if kind == "classes" else f"{size} times 0 or 1",
    )


def _groups(sample: Mapping[str, Any], deciding: list[str]) -> set[str]:
    listed = sample["doc"].get("groups")
    return set(deciding) | set(listed if isinstance(listed, list | tuple) else ())
