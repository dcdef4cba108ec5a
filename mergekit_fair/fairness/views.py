"""Several binary questions about the same rows: classes, each against the others, or labels.

    classes   a row has one of C classes        view c: is it c?       labels 1[y = c], 1[ŷ = c]
    labels    a row has each of L labels or not view l: has it l?      labels y_l, ŷ_l

A row is right where all of its views are: the class is the right one, or every label is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import Column
from mergekit_fair.fairness.joint import JointTable, View
from mergekit_fair.fairness.labels import (
    UNANSWERED,
    binary_labels,
    binary_predictions,
    is_nan,
    same_length,
    unmasked,
)

Kind = Literal["classes", "labels"]


@dataclass(frozen=True, eq=False)
class Views:
    """V views of the same rows, counted.

    Attributes:
        kind: what a view is.
        joint: the rows, C distinct kinds of them.
        by_name: view → truth and prediction of each kind, both (C,).
        correct: bool (C,), the kinds of rows that have every view right.
        is_silent: bool (C,), those of which some view has no prediction.
    """

    kind: Kind
    joint: JointTable
    by_name: Mapping[str, View]
    correct: NDArray[np.bool_]
    is_silent: NDArray[np.bool_]

    @classmethod
    def of_classes(
        cls,
        labels: Column,
        predicted: Column,
        names: Sequence[str],
        groups: Any,
        weights: ArrayLike | None = None,
        clusters: Any = None,
    ) -> Views:
        """Of rows that have one class each.

        Args:
            labels: (n,), numbers of classes, 0 … C − 1.
            predicted: (n,), likewise; C where there is none.
            names: of the C classes.
            groups, weights, clusters: as in `measure`.
        """
        joint = JointTable.tally([labels, predicted], groups, weights, clusters)
        label, answer = joint.columns.T
        is_silent = answer == len(names)

        def view(number: int) -> View:
            return (label == number).astype(int), np.where(is_silent, UNANSWERED, answer == number)

        views = {name: view(number) for number, name in enumerate(names)}
        return cls("classes", joint, views, label == answer, is_silent)

    @classmethod
    def of_labels(
        cls,
        labels: Mapping[str, Column],
        predicted: Mapping[str, Column],
        groups: Any,
        weights: ArrayLike | None = None,
        clusters: Any = None,
    ) -> Views:
        """Of rows that have any number of labels.

        Args:
            labels: label → (n,), 0 or 1.
            predicted: the same labels → (n,), 0, 1 or UNANSWERED.
            groups, weights, clusters: as in `measure`.
        """
        ordered = sorted(labels)  # draws must not depend on the order of a mapping
        columns = [part[name] for name in ordered for part in (labels, predicted)]
        joint = JointTable.tally(columns, groups, weights, clusters)
        truth, answers = joint.columns[:, 0::2], joint.columns[:, 1::2]
        view_of = dict(zip(ordered, zip(truth.T, answers.T, strict=True), strict=True))
        return cls(
            "labels",
            joint,
            {name: view_of[name] for name in labels},
            (truth == answers).all(axis=1),
            (answers == UNANSWERED).any(axis=1),
        )


@dataclass(frozen=True, eq=False)
class MultiCodes:
    """Truth and predictions of V views as a user passes them, as codes.

    Attributes:
        kind: what a view is.
        names: of the V views.
        labels: (n, V), 0 or 1.
        predicted: (n, V), 0, 1 or UNANSWERED.
        warnings: what to know of them.
    """

    kind: Kind
    names: tuple[str, ...]
    labels: NDArray[np.int8]
    predicted: NDArray[np.int8]
    warnings: tuple[str, ...] = ()

    @classmethod
    def of_classes(
        cls, y_true: ArrayLike, y_pred: ArrayLike, classes: Sequence[Hashable] | None = None
    ) -> MultiCodes:
        """As `measure_classes` takes them.

        Raises:
            MeasurementError: fewer than two classes, or an unknown label.
        """
        truth, predicted = _values(y_true, "y_true"), _values(y_pred, "y_pred")
        if len(truth) != len(predicted):
            raise MeasurementError(
                "differs in length from y_true",
                where="y_pred",
                got=len(predicted),
                allowed=len(truth),
            )
        names = _sorted(set(truth)) if classes is None else list(classes)
        code = _codes(names)
        if unknown := [label for label in truth if label not in code]:
            raise MeasurementError(
                "is not a class",
                where="y_true",
                got=unknown[0],
                allowed=names,
                fix="complete `classes`",
            )
        one_hot = np.eye(len(names), dtype=np.int8)
        answers = np.concatenate([one_hot, np.full((1, len(names)), UNANSWERED, dtype=np.int8)])
        return cls(
            "classes",
            tuple(str(name) for name in names),
            one_hot[[code[label] for label in truth]],
            answers[[code.get(label, len(names)) for label in predicted]],
            tuple(_unknown_predictions(predicted, code)),
        )

    @classmethod
    def of_labels(
        cls, y_true: Mapping[str, ArrayLike], y_pred: Mapping[str, ArrayLike]
    ) -> MultiCodes:
        """As `measure_labels` takes them.

        Raises:
            MeasurementError: no labels, different labels, or as `measure`.
        """
        names = _label_names(y_true, "y_true")
        if set(names) != set(_label_names(y_pred, "y_pred")):
            raise MeasurementError(
                "needs the labels of y_true", where="y_pred", got=list(y_pred), allowed=names
            )
        columns: list[tuple[Column, Column]] = []
        for name in names:
            truth = binary_labels(y_true[name], f"y_true[{name!r}]")
            predicted = binary_predictions(y_pred[name], f"y_pred[{name!r}]")
            columns.append((truth, predicted))
            same_length(columns[0][0], truth, f"y_true[{name!r}]")
            same_length(columns[0][0], predicted, f"y_pred[{name!r}]")
        labels, answers = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
        return cls("labels", tuple(map(str, names)), labels, answers)

    def counted(self, groups: Any, weights: ArrayLike | None = None, clusters: Any = None) -> Views:
        """The rows by groups, labels and predictions; arguments as in `measure`."""
        if self.kind == "labels":
            labels, predicted = (
                dict(zip(self.names, columns.T, strict=True))
                for columns in (self.labels, self.predicted)
            )
            return Views.of_labels(labels, predicted, groups, weights, clusters)
        codes = self.predicted.argmax(axis=1)
        codes[(self.predicted == UNANSWERED).any(axis=1)] = len(self.names)
        truth = self.labels.argmax(axis=1)
        return Views.of_classes(truth, codes, self.names, groups, weights, clusters)


def _codes(names: list[Any]) -> dict[Any, int]:
    """Class → its number.

    Raises:
        MeasurementError: fewer than two, or two that are written the same.
    """
    if len(names) < 2 or len({str(name) for name in names}) < len(names):
        raise MeasurementError(
            "needs two or more classes with distinct names", where="classes", got=names
        )
    return {name: index for index, name in enumerate(names)}


def _sorted(classes: set[Any]) -> list[Any]:
    try:
        return sorted(classes)
    except TypeError:  # integers and texts
        return sorted(classes, key=str)


def _unknown_predictions(predicted: list[Any], codes: dict[Any, int]) -> Iterator[str]:
    unknown = Counter(str(value) for value in predicted if value not in codes and value is not None)
    if unknown:
        examples = ", ".join(repr(name) for name, _ in unknown.most_common(3))
        yield (
            f"{unknown.total()} predictions are not a class ({examples}): counted as no usable "
            "prediction; name them in `classes` if they are"
        )


def _values(values: ArrayLike, where: str) -> list[Any]:
    """Classes as a list; a missing prediction becomes None."""
    array = np.asarray(unmasked(values), dtype=object)
    if array.ndim != 1 or not array.size:
        raise MeasurementError(
            "needs one class per row", where=where, got=f"shape {array.shape}", allowed="(n,)"
        )
    return [_value(value, row, where) for row, value in enumerate(array.tolist())]


def _value(value: Any, row: int, where: str) -> Any:
    if value is None or is_nan(value):
        if where == "y_true":
            raise MeasurementError(f"missing class in row {row}", where=where, fix="drop the row")
        return None
    if isinstance(value, float | np.floating):
        # A column of integers becomes one of floats as soon as a prediction is missing.
        if where == "y_pred" and float(value).is_integer():
            return int(value)
        raise MeasurementError(
            f"scores are not classes (row {row})",
            where=where,
            got=float(value),
            fix="take the arg max of every row first",
        )
    try:
        hash(value)
    except TypeError as error:
        raise MeasurementError(
            f"is not a class (row {row})", where=where, got=value, allowed="an integer or a text"
        ) from error
    return value


def _label_names(columns: Mapping[str, ArrayLike], where: str) -> list[Any]:
    """The labels; not `columns.keys()` of an array, nor the truth value of a data frame."""
    names = list(columns) if hasattr(columns, "keys") else []
    if not names or len({str(name) for name in names}) < len(names):
        raise MeasurementError(
            "needs a mapping from label to column, with at least one label and distinct names",
            where=where,
            got=names or type(columns).__name__,
        )
    return names
