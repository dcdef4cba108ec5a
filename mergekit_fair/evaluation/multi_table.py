"""A table of predictions of classes or labels, or lm-eval's samples of such a task, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import model_serializer

from mergekit_fair.data.cells import column, counted, listed, missing, texts
from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.fairness import MetricSettings, MultiMeasurement
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.fairness.measurement import without_unsaid
from mergekit_fair.fairness.one_vs_rest import measure_views
from mergekit_fair.fairness.views import MultiCodes

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"  # of --classes: those that occur among the labels
Binary = Callable[[str, str], tuple[NDArray[np.int8], NDArray[np.int8]]]


@dataclass(frozen=True, eq=False)
class MultiTable:
    """n rows of a file.

    Attributes:
        codes: truth and predictions.
        groups: of the rows.
        excluded: names of groups that decide no maximum.
        weights: float64 (n,), or None.
        clusters: int64 (n,), or None.
        warnings: what a reader of the figures should know.
    """

    codes: MultiCodes
    groups: Groups
    excluded: tuple[str, ...] = ()
    weights: NDArray[np.float64] | None = None
    clusters: NDArray[np.int64] | None = None
    warnings: tuple[str, ...] = ()


class MultiFileMeasurement(MultiMeasurement):
    """What `measure` says of a file of classes or labels."""

    file: str

    @model_serializer(mode="wrap")
    def _file_first(self, serialize: Any) -> dict[str, Any]:
        fields = without_unsaid(serialize(self))
        return {"file": fields.pop("file")} | fields


def measure_multi_table(
    path: Path, rows: MultiTable, settings: MetricSettings
) -> MultiFileMeasurement:
    """Measure the rows of a file.

    Args:
        path: it is copied into the result.
        rows: from `read_rows_of`.
        settings: how to measure; the groups that the file excludes are added.

    Raises:
        MeasurementError: rows or settings that no metric is defined on.
    """
    settings = settings.excluding((*settings.exclude, *rows.excluded))
    views = rows.codes.counted(rows.groups, rows.weights, rows.clusters)
    measured = measure_views(views, settings, (*rows.warnings, *rows.codes.warnings))
    return MultiFileMeasurement.model_construct(**dict(measured), file=str(path))


def classes_of(
    frame: pd.DataFrame, label: str, prediction: str, classes: tuple[str, ...], where: str
) -> MultiCodes:
    """Two columns of class names.

    Args:
        frame: the table.
        label, prediction: names of columns; an empty prediction is none.
        classes: all of them, or `all`.
        where: the file, for errors.

    Raises:
        DataError: no such column, a row without a label, or a value that is no class.
    """
    cells = column(frame, label, f"{where}, --label")
    answers = column(frame, prediction, f"{where}, --prediction")
    truth, said = texts(cells), texts(answers)
    empty, silent = missing(cells), missing(answers)
    if empty.any():
        raise DataError(
            f"{int(empty.sum())} of {len(empty)} rows have no label",
            where=f"{where}, column {label!r}",
            fix="remove them: a row without a label cannot be measured",
        )
    names = tuple(sorted(set(truth))) if classes == (ALL,) else classes
    for words, of, name in (
        (truth, np.zeros(len(truth), dtype=bool), label),
        (said, silent, prediction),
    ):
        is_known = np.array([word in names for word in words], dtype=bool) | of
        if (bad := np.flatnonzero(~is_known)).size:
            raise DataError(
                f"{bad.size} of {len(words)} values are no class: {listed(words, bad)}",
                where=f"{where}, column {name!r}",
                allowed=list(names),
                fix="name all classes with --classes",
            )
    told = [None if gone else word for word, gone in zip(said, silent, strict=True)]
    found = MultiCodes.of_classes(truth, np.array(told, dtype=object), names)
    if classes == (ALL,) and len(names) > 20:
        raise DataError(
            f"{len(names)} classes: {counted(truth)}",
            where=f"{where}, column {label!r}",
            allowed="20 classes or fewer, unless --classes names them",
            fix="check the column, or name the classes",
        )
    return found


def labels_of(pairs: tuple[str, ...], read: Binary) -> MultiCodes:
    """Pairs of columns of 0 and 1, `LABEL:PREDICTION`.

    Args:
        pairs: such texts; a label is called as its column.
        read: names of two columns → their codes.

    Raises:
        ConfigError: no such pair, or a label twice.
        DataError: as `read`.
    """
    split = [tuple(part.strip() for part in pair.split(":", 1)) for pair in pairs]
    names = [part[0] for part in split]
    if any(len(part) != 2 or not all(part) for part in split) or len(set(names)) < len(names):
        raise ConfigError(
            "needs pairs of columns, each label once",
            where="--labels",
            got=list(pairs),
            allowed="LABEL:PREDICTION,…",
            fix="write such as --labels toxic:toxic_predicted,threat:threat_predicted",
        )
    truth, said = zip(*(read(label, prediction) for label, prediction in split), strict=True)
    labels, predicted = np.stack(truth, axis=1), np.stack(said, axis=1)
    return MultiCodes("labels", tuple(names), labels, predicted)
