"""A table of predictions, or lm-eval's samples, as rows that can be measured; no model is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.data.blocks import GroupColumns, Source
from mergekit_fair.data.cells import column, counted, distinct, listed, missing, scores, texts
from mergekit_fair.data.cluster_column import cluster_codes_of, read_cluster_keys
from mergekit_fair.data.group_columns import read_groups
from mergekit_fair.data.label_column import Labels, read_labels
from mergekit_fair.data.label_rules import OneLabel
from mergekit_fair.data.list_text import read_list
from mergekit_fair.data.table import read_table
from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.evaluation.multi_predictions import MultiPredictions, read_samples_of
from mergekit_fair.evaluation.multi_table import MultiTable, classes_of, labels_of
from mergekit_fair.evaluation.sample_files import require_each_once
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.schema import parse

if TYPE_CHECKING:
    import pandas as pd

_CROSS = "*"
# `quotes: none`, a key of a source, which is an option of the command, too.
_KEY = re.compile(r"`(format|separator|quotes|decimal|encoding)(?::( [^`]+))?`")
_ONES = frozenset(("1", "1.0", "true", "True", "TRUE"))
_ZEROS = frozenset(("0", "0.0", "false", "False", "FALSE"))


@dataclass(frozen=True)
class PredictionColumns:
    """Which columns of a table say what; None where the file itself says it, as samples do.

    Attributes:
        label: 0 and 1, or texts of which `positive` names those that are 1.
        prediction: as the label; empty where there is no usable prediction.
        score: a number, higher means more positive; empty where there is none.
        groups: columns, each of whose values is a group; `a*b` for the intersections of two. With
            several columns a group is called `column=value`.
        weight: what a row counts for.
        cluster: what a row belongs to that is sampled as a whole; empty: it is by itself.
        positive: the label's values that are 1; all others are 0.
        classes: names of classes, or `all`: label and prediction hold such names.
        labels: `LABEL:PREDICTION`, pairs of columns: several labels a row.
    """

    label: str | None = None
    prediction: str | None = None
    score: str | None = None
    groups: tuple[str, ...] = ()
    weight: str | None = None
    cluster: str | None = None
    positive: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def given(self) -> list[str]:
        """The options that name something."""
        return [f"--{name}" for name, value in vars(self).items() if value]


@dataclass(frozen=True, eq=False)
class TableRows:
    """n rows of a file.

    Attributes:
        labels: int8 (n,), 0 or 1.
        predicted: int8 (n,), 0, 1 or UNANSWERED; None where there are scores alone.
        scores: float64 (n,), NaN where there is none; None without any.
        probabilities: the chance of 1 that scores mean, (n,); None where they mean none.
        groups: of the rows.
        excluded: names of groups that decide no maximum.
        weights: float64 (n,), or None.
        clusters: int64 (n,), or None.
        threshold: on probabilities, that the predictions were made with; None if it is not said.
        warnings: what a reader of the figures should know.
    """

    labels: NDArray[np.int8]
    predicted: NDArray[np.int8] | None
    scores: NDArray[np.float64] | None
    probabilities: NDArray[np.float64] | None
    groups: Groups
    excluded: tuple[str, ...] = ()
    weights: NDArray[np.float64] | None = None
    clusters: NDArray[np.int64] | None = None
    threshold: float | None = None
    warnings: tuple[str, ...] = field(default=())


def read_rows_of(
    path: Path, columns: PredictionColumns, source: Mapping[str, Any] | None = None
) -> TableRows | MultiTable:
    """The rows of a csv, tsv, jsonl or parquet file, or of a file of lm-eval's samples.

    Args:
        path: of the file.
        columns: what is where.
        source: how the file is written, as in a data description: format, separator, …

    Raises:
        ConfigError: a column is not named that has to be, or is though samples name it.
        DataError: no such file or column, or cells that are not what they should be.
        MeasurementError: samples of a task that measures no fairness, or of several filters.
    """
    if not path.is_file():
        is_folder = path.is_dir()
        raise DataError(
            "is a folder, not a file" if is_folder else "no such file",
            where=path,
            allowed=sorted(found.name for found in path.glob("samples_*.jsonl")) or None,
            fix="name a file in it" if is_folder else "check the path",
        )
    with _options():
        frame = read_table(parse(Source, {"path": str(path), **(source or {})}, path))
    if _are_samples(frame):
        if columns.given:
            raise ConfigError(
                "holds lm-eval's samples, which say what their columns are",
                where=path,
                got=columns.given,
                fix="leave these options out",
            )
        return _of_samples(path, frame)
    if columns.classes or columns.labels:
        _require_alone(path, columns)
    needed = ("groups",) if columns.labels else ("label", "groups")
    for name in needed:
        if not getattr(columns, name):
            raise ConfigError(
                f"--{name} is missing",
                where=path,
                allowed=[str(known) for known in frame.columns],
                fix=f"say which column: --{name} NAME",
            )
    if columns.labels or (columns.classes and columns.prediction):
        return _of_multi_table(path, frame, columns)
    if columns.prediction is None and columns.score is None:
        raise ConfigError(
            "neither --prediction nor --score is given",
            where=path,
            allowed=[str(known) for known in frame.columns],
            fix="say which column holds the predictions, 0 and 1, or scores",
        )
    return _of_table(path, frame, columns)


def _require_alone(path: Path, columns: PredictionColumns) -> None:
    """What says how classes or labels are read, and nothing that is for binary predictions.

    Raises:
        ConfigError: both are given.
    """
    kind = "labels" if columns.labels else "classes"
    others = ["positive", "score", *(("classes", "label", "prediction") * bool(columns.labels))]
    if given := [f"--{name}" for name in others if getattr(columns, name)]:
        raise ConfigError(
            f"--{kind} says what label and prediction are",
            where=path,
            got=given,
            fix=f"leave out {' and '.join(given)}",
        )


def _of_multi_table(path: Path, frame: pd.DataFrame, columns: PredictionColumns) -> MultiTable:
    where = str(path)

    def binary(label: str, prediction: str) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        pair = PredictionColumns(label=label, prediction=prediction)
        return _labels(frame, pair, where).values, _predictions(frame, pair, where)

    if columns.labels:
        codes = labels_of(columns.labels, binary)
    else:
        pair = str(columns.label), str(columns.prediction)
        codes = classes_of(frame, *pair, columns.classes, where)
    groups, notes = _groups(frame, columns.groups, where)
    return MultiTable(
        codes,
        groups,
        weights=_weights(frame, columns.weight, where) if columns.weight else None,
        clusters=_clusters(frame, columns.cluster, where) if columns.cluster else None,
        warnings=tuple(notes),
    )


def _are_samples(frame: pd.DataFrame) -> bool:
    """Whether these are lm-eval's: documents with what was answered."""
    if not {"doc_id", "doc", "filtered_resps"} <= set(map(str, frame.columns)):
        return False
    return all(isinstance(doc, Mapping) for doc in frame["doc"].head().tolist())


def _of_samples(path: Path, frame: pd.DataFrame) -> TableRows | MultiTable:
    records: list[dict[str, Any]] = [
        {key: value for key, value in record.items() if not _is_nan(value)}
        for record in frame.to_dict("records")
    ]
    require_each_once(records, path)
    predictions = read_samples_of(path.name, records)
    if isinstance(predictions, MultiPredictions):
        return MultiTable(
            predictions.codes,
            predictions.members,
            predictions.excluded,
            predictions.weights,
            predictions.clusters,
        )
    return TableRows(
        labels=predictions.labels,
        predicted=predictions.predicted,
        scores=predictions.logit_gaps,
        probabilities=predictions.probabilities,
        groups=predictions.members,
        excluded=predictions.excluded,
        weights=predictions.weights,
        clusters=predictions.clusters,
        threshold=predictions.threshold,
    )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and value != value


def _of_table(path: Path, frame: pd.DataFrame, columns: PredictionColumns) -> TableRows:
    where = str(path)
    labels = _labels(frame, columns, where).values
    groups, notes = _groups(frame, columns.groups, where)
    predicted, values, chances = None, None, None
    if columns.prediction is not None:
        predicted = _predictions(frame, columns, where)
    if columns.score is not None:
        cells = column(frame, columns.score, f"{where}, --score")
        values, _ = scores(cells, f"{where}, column {columns.score!r}")
        known = values[~np.isnan(values)]
        if known.size and known.min() >= 0 and known.max() <= 1:
            chances = values
    return TableRows(
        labels=labels,
        predicted=predicted,
        scores=values,
        probabilities=chances,
        groups=groups,
        weights=_weights(frame, columns.weight, where) if columns.weight else None,
        clusters=_clusters(frame, columns.cluster, where) if columns.cluster else None,
        warnings=(*_negatives(frame, columns, labels), *notes),
    )


def _labels(frame: pd.DataFrame, columns: PredictionColumns, where: str) -> Labels:
    name = str(columns.label)
    column(frame, name, f"{where}, --label")
    rule: dict[str, Any] = {"column": name}
    fix = "say which values are positive: --positive VALUE; or --classes all, to measure each class"
    if columns.positive:
        rule |= {"positive": list(columns.positive), "negative": "*"}
        fix = "check --positive; a row without a label cannot be measured: remove it"
    with _advice(fix):
        return read_labels(frame, parse(OneLabel, rule, where), where)


def _negatives(
    frame: pd.DataFrame, columns: PredictionColumns, labels: NDArray[np.int8]
) -> Iterator[str]:
    """What `--positive` made 0."""
    if columns.positive:
        words = texts(column(frame, str(columns.label), "--label"))
        others = counted(words[row] for row in np.flatnonzero(labels == 0))
        yield f"--label {columns.label}: 0 is every other value: {others}"


def _predictions(frame: pd.DataFrame, columns: PredictionColumns, where: str) -> NDArray[np.int8]:
    """0, 1, or UNANSWERED where a cell is empty."""
    name = str(columns.prediction)
    cells = column(frame, name, f"{where}, --prediction")
    (numbers, words), empty = distinct(cells), missing(cells)
    ones, zeros = _ONES, _ZEROS
    labels = frozenset(distinct(column(frame, str(columns.label), where))[1])
    said = {words[number] for number in np.unique(numbers[~empty]).tolist()}
    # The labels' own words first: where 0 is the positive label, a 0 predicts it.
    if columns.positive and (said <= labels or labels & (_ONES | _ZEROS)):
        ones = frozenset(columns.positive)
        zeros = labels - ones
    codes = np.array([1 if word in ones else 0 if word in zeros else -1 for word in words])[numbers]
    codes[empty] = UNANSWERED
    if (bad := np.flatnonzero(codes < 0)).size:
        raise DataError(
            f"{bad.size} of {len(codes)} values are no predictions: {listed(texts(cells), bad)}",
            where=f"{where}, column {name!r}",
            allowed="0, 1, empty" if ones is _ONES else [*sorted(ones), *sorted(zeros), "empty"],
            fix="for numbers in between, name the column with --score; for the labels' own words, "
            "name those that are 1 with --positive",
        )
    return codes.astype(np.int8)


def _groups(frame: pd.DataFrame, wanted: Sequence[str], where: str) -> tuple[Groups, list[str]]:
    """The groups of all columns, and what to know of them."""
    found: dict[str, NDArray[np.bool_]] = {}
    notes: list[str] = []
    split = {
        entry: [entry] if entry in frame.columns else [p.strip() for p in entry.split(_CROSS)]
        for entry in wanted
    }
    crosses = sum(len(parts) > 1 for parts in split.values())  # whose names may be the same
    for entry, parts in split.items():
        cells = [column(frame, part, f"{where}, --groups", nested=True) for part in parts]
        block: dict[str, Any] = {"column": parts if len(parts) > 1 else parts[0]}
        if len(parts) == 1 and _holds_lists(cells[0]):
            block = {"list": entry}
        with _advice("name columns that hold groups"):
            of_entry = read_groups(frame, parse(GroupColumns, block, where), where)
        is_prefixed = len(split) > 1 and (len(parts) == 1 or crosses > 1)
        prefix = f"{entry}=" if is_prefixed else ""
        names = [f"{prefix}{name}" for name in of_entry.names]
        found |= dict(zip(names, of_entry.matrix.T, strict=True))
        # Behind the semicolon stands what to write in a data description.
        said = [text.removeprefix("groups: ").split("; ")[0] for text in of_entry.warnings]
        notes += [f"--groups {entry}: {text}" for text in said]
    return Groups.of(found, len(frame)), notes


def _holds_lists(cells: pd.Series) -> bool:
    if cells.dtype != object:
        return any(read_list(text) is not None for text in distinct(cells)[1])
    return any(
        isinstance(cell, list | tuple | np.ndarray)
        or (isinstance(cell, str) and read_list(cell) is not None)
        for cell in cells.tolist()
    )


def _weights(frame: pd.DataFrame, name: str, where: str) -> NDArray[np.float64]:
    cells = column(frame, name, f"{where}, --weight")
    values, _ = scores(cells, f"{where}, column {name!r}")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size or not values.any():
        raise DataError(
            f"{bad.size} of {len(values)} values are no weights: {listed(texts(cells), bad)}"
            if bad.size
            else "all weights are 0",
            where=f"{where}, column {name!r}",
            allowed="finite numbers, 0 or more",
        )
    return values


def _clusters(frame: pd.DataFrame, name: str, where: str) -> NDArray[np.int64]:
    column(frame, name, f"{where}, --cluster")
    keys, known = read_cluster_keys(frame, name, where)
    return cluster_codes_of(keys, known, np.arange(len(frame), dtype=np.int64))


@contextmanager
def _options() -> Iterator[None]:
    """Errors that speak of how a source is described say instead which option to type."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(
            _KEY.sub(r"--\1\2", error.problem),
            where=error.where,
            got=error.got,
            allowed=error.allowed,
            fix=error.fix and _KEY.sub(r"--\1\2", error.fix),
        ) from error


@contextmanager
def _advice(fix: str) -> Iterator[None]:
    """Errors that speak of a data description's keys say instead what to type here."""
    try:
        yield
    except DataError as error:
        raise DataError(
            error.problem, where=error.where, got=error.got, allowed=error.allowed, fix=fix
        ) from error
