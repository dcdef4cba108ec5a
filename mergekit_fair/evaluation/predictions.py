"""What a model said about the rows of a split: the one thing that is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import predict_at
from mergekit_fair.fairness.labels import UNANSWERED

if TYPE_CHECKING:
    from mergekit_fair.data import Rows

# One number a row: the margin; +inf or -inf where only the answer is known, NaN without one.
Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Answers:
    """n rows of one task.

    Attributes:
        task: its name.
        keys: n keys that tell the rows apart and are equal for equal rows of other models.
        labels: int8 (n,), 0 or 1.
        predictions: int8 (n,), 0, 1 or UNANSWERED.
        groups: name → bool (n,).
        excluded: names of groups that decide no maximum.
        margins: float64 (n,), log p(1) − log p(0), NaN where unanswered; None for a task whose
            choices are not the two classes.
    """

    task: str
    keys: tuple[Any, ...]
    labels: NDArray[np.int8]
    predictions: NDArray[np.int8]
    groups: Mapping[str, NDArray[np.bool_]]
    excluded: tuple[str, ...]
    margins: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def blank(cls, rows: Rows) -> Answers:
        """A split's rows, of which nothing is answered."""
        return cls.of_margins(np.full(len(rows), np.nan), rows)

    @classmethod
    def of_margins(cls, found: Scores, rows: Rows) -> Answers:
        """The answers that lie in margins (n,) of a split's rows."""
        margins = np.asarray(found, dtype=np.float64)
        return cls(
            task=rows.name,
            keys=tuple(rows.ids.tolist()),
            labels=np.asarray(rows.labels),
            predictions=_decided(margins),
            groups={name: rows.membership[:, i] for i, name in enumerate(rows.group_names)},
            excluded=tuple(sorted(rows.excluded)),
            margins=margins,
        )

    @classmethod
    def of_samples(cls, task: str, samples: Sequence[Mapping[str, Any]]) -> Answers:
        """The answers that lie in lm-eval's samples, in memory or read from their file.

        Every sample of a fairness task carries `dpd`: (prediction or None, label, names of the
        groups that may decide). `doc.groups` and `doc.excluded`, where present, name all groups.

        Raises:
            MeasurementError: no samples, or samples of another kind of task.
        """
        if not samples:
            raise MeasurementError("has no samples", where=task, fix="log samples")
        items = [_item(sample, task) for sample in samples]
        margins = _margins(samples, items)
        names = [_groups(sample, item) for sample, item in zip(samples, items, strict=True)]
        every = sorted(set().union(*names))
        excluded = {name for sample in samples for name in sample["doc"].get("excluded") or ()}
        return cls(
            task=task,
            keys=tuple((sample["doc_id"], sample["doc_hash"]) for sample in samples),
            labels=np.array([label for _, label, _ in items], dtype=np.int8),
            predictions=np.array(
                [UNANSWERED if given is None else given for given, _, _ in items], dtype=np.int8
            ),
            groups={name: np.array([name in row for row in names]) for name in every},
            excluded=tuple(sorted(excluded)),
            margins=margins,
        )

    @property
    def scores(self) -> Scores:
        """All that is answered, as one array (n,); `given` takes it back."""
        if self.margins is not None:
            return self.margins
        known = np.where(self.predictions == 1, np.inf, -np.inf)
        return np.where(self.predictions == UNANSWERED, np.nan, known)

    def given(self, scores: Scores) -> Answers:
        """The same rows with other answers.

        Args:
            scores: (n,), from `scores` or margins.
        """
        found = np.asarray(scores, dtype=np.float64)
        margins = None if np.isinf(found).any() else found
        return replace(self, predictions=_decided(found), margins=margins)

    def at(self, threshold: float) -> NDArray[np.int8]:
        """Predictions 1[margin >= threshold], UNANSWERED where there is no answer."""
        if self.margins is None:
            raise MeasurementError("has no margins to put a threshold on", where=self.task)
        given = np.full(len(self), UNANSWERED, dtype=np.int8)
        answered = ~np.isnan(self.margins)
        given[answered] = predict_at(self.margins[answered], threshold)
        return given


def _decided(margins: NDArray[np.float64]) -> NDArray[np.int8]:
    decided = (margins > 0).astype(np.int8)
    decided[np.isnan(margins)] = UNANSWERED
    return decided


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
    return None if prediction is None else int(prediction), int(label), list(groups)


def _groups(sample: Mapping[str, Any], item: tuple[int | None, int, list[str]]) -> set[str]:
    listed = sample["doc"].get("groups")
    return {*item[2], *(listed if isinstance(listed, (list, tuple)) else ())}


def _margins(
    samples: Sequence[Mapping[str, Any]], items: Sequence[tuple[int | None, int, list[str]]]
) -> NDArray[np.float64] | None:
    """log p(second choice) − log p(first), if they explain every prediction; else None."""
    found = np.full(len(samples), np.nan)
    for row, (sample, (prediction, _, _)) in enumerate(zip(samples, items, strict=True)):
        answers = sample["filtered_resps"]
        if len(answers) != 2:
            return None
        first, second = (float(answer[0]) for answer in answers)
        if prediction is None:
            continue
        if int(second > first) != prediction:
            return None
        found[row] = second - first if math.isfinite(second - first) else np.sign(second - first)
    return found
