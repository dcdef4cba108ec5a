"""A data description becomes the documents of an lm-eval task.

A document has: id (row number in the source), text or image (a path), prompt, label, groups,
excluded (those of its groups that decide no maximum), split, and, where the data have them, weight
and cluster (a number). Its label says no or yes (0, 1); or it is the number of one of the names
under `classes`; or, of every name under `labels`, 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.data import DataSpec, Rows, load_rows, load_spec
from mergekit_fair.data.blocks import FORMATS, suffix_of
from mergekit_fair.data.label_rules import LabelKind
from mergekit_fair.errors import ConfigError, DataError, FairError
from mergekit_fair.evaluation.advice import another_file
from mergekit_fair.schema import load_yaml, require_distinct_keys, suggestion

if TYPE_CHECKING:
    import datasets

EVALUATED = ("validation", "report")
# What of a document is no question to a model: it says how the answers are read.
READ_BY = ("excluded", "cluster")
SEED = 0  # of the order


def evaluated_split(split: object, where: object) -> str:
    """`validation` or `report`.

    Raises:
        DataError: anything else, `train` included.
    """
    if split in EVALUATED:
        return str(split)
    hint = suggestion(split, list(EVALUATED))
    if split == "train":
        hint = "models are fitted on train; few-shot examples come from it"
    raise DataError(
        f"no such split to evaluate on: {split!r}", where=where, allowed=EVALUATED, fix=hint
    )


def described(spec: str | Mapping[str, Any], data: object, source: object) -> DataSpec:
    """The data set of a task, whose table or whose whole description `data` may replace.

    Args:
        spec: a data set's block, or the name of a YAML file beside the task's.
        data: None; or a csv, tsv, jsonl or parquet file with the same columns; or a .yml file
            that is another description.
        source: the task's YAML file, or "inline".

    Raises:
        ConfigError, DataError: as `load_spec`, or `data` is neither.
    """
    task = Path(str(source))
    folder = task.parent if task.is_file() else Path()
    file = replacement(data, source)
    if file is not None and file.suffix in (".yml", ".yaml"):
        return load_spec(file)
    where: object = f"{source}: spec"
    if isinstance(spec, str):
        where = folder / spec
        block, folder = load_yaml(where), where.parent
    elif isinstance(spec, Mapping):
        if task.is_file():  # lm-eval keeps the last of equal keys: a class would be gone
            require_distinct_keys(task)
        block = dict(spec)
    else:
        raise ConfigError("must be a data block or the name of a YAML file", where=where, got=spec)
    if file is None:
        return load_spec(block, where=where, folder=folder)
    block["source"] = {"path": str(file)}
    if isinstance(block.get("image"), Mapping):
        block["image"] = {**block["image"], "folder": str(file.parent)}
    return load_spec(block, where=where, folder=folder)


def replacement(data: object, where: object, *, described: bool = True) -> Path | None:
    """The file that metadata's `data` names, absolute; None without it.

    Args:
        data: the metadata's value.
        where: the task, for errors.
        described: whether it may be a .yml file.

    Raises:
        DataError: no such file, or not of a known kind.
    """
    if data is None:
        return None
    kinds = [*FORMATS, *(("yml", "yaml") if described else ())]
    file = Path(str(data)).expanduser().absolute()
    if not isinstance(data, (str, Path)) or suffix_of(file.name) not in kinds:
        raise DataError(
            "metadata: data must be a file", where=where, got=data, allowed=[f".{k}" for k in kinds]
        )
    if not file.is_file():
        raise DataError("metadata: data: no such file", where=where, got=str(data))
    return file


def read_rows(spec: str | Mapping[str, Any], data: object, source: object) -> Rows:
    """The rows of a task. Nothing ever stands in for data that cannot be loaded.

    Raises:
        ConfigError, DataError: with the way to name another file, when none was named.
    """
    try:
        return load_rows(described(spec, data, source))
    except FairError as error:
        if data is not None:
            raise
        advice = another_file() if isinstance(error, DataError) else _beside(source)
        fix = f"{error.fix}; or {advice}" if error.fix else advice
        raise type(error)(
            error.problem, where=error.where, got=error.got, allowed=error.allowed, fix=fix
        ) from error


def _beside(source: object) -> str:
    """What helps where a description cannot be read."""
    if Path(str(source)).is_file():
        return another_file()
    return "name the task, and its folder by --include_path: its file is not known here"


def with_rows(loaded: datasets.DatasetDict, rows: Rows) -> datasets.DatasetDict:
    """The documents, which know from now on what data set they are of."""
    vars(loaded)["rows"] = rows
    return loaded


def rows_behind(task: Any) -> Rows | None:
    """The data set that a task's documents are of; None for tasks of another kind."""
    rows = getattr(getattr(task, "dataset", None), "rows", None)
    return rows if isinstance(rows, Rows) else None


def documents(
    rows: Rows, split: str, question: str, *, most: int | None = None
) -> datasets.Dataset:
    """One split's documents in a seeded random order, so that the first N are a random sample.

    A text's prompt is the text, the question and "Answer:"; an image's is the latter two.

    Args:
        rows: of every split.
        split: one of them; it may be empty.
        question: about a row, answered by no or yes, or by the name of a class.
        most: keep only so many of them.
    """
    import datasets

    inside = np.flatnonzero(rows.split == split)
    chosen = rows.take(np.random.default_rng(SEED).permutation(inside)[:most])
    carried = [
        [name for name, inside in zip(rows.group_names, row, strict=True) if inside]
        for row in chosen.membership.tolist()
    ]
    ending = f"{question}\nAnswer:"
    is_text = rows.kind == "text"
    texts, names = datasets.Value("string"), datasets.List(datasets.Value("string"))
    number: Any = datasets.Value("int64")
    label = datasets.List(number) if rows.label_kind == "labels" else number
    # Typed: the types of a column of empty lists cannot be inferred.
    types = {
        "id": (number, chosen.ids.tolist()),
        rows.kind: (texts, list(chosen.inputs)),
        "prompt": (texts, [f"{x}\n{ending}" if is_text else ending for x in chosen.inputs]),
        "label": (label, chosen.labels.tolist()),
        "groups": (names, carried),
        "excluded": (names, [[n for n in row if n in rows.excluded] for row in carried]),
        "split": (texts, chosen.split.tolist()),
    }
    if rows.label_kind != "binary":
        types[rows.label_kind] = (names, [list(rows.label_names)] * len(chosen))
    if chosen.weights is not None:
        types["weight"] = (datasets.Value("float64"), chosen.weights.tolist())
    if chosen.clusters is not None:
        types["cluster"] = (number, chosen.clusters.tolist())
    return datasets.Dataset.from_dict(
        {name: values for name, (_, values) in types.items()},
        features=datasets.Features({name: kind for name, (kind, _) in types.items()}),
    )


def answer_kind(doc: Any) -> LabelKind:
    """How a document is answered; one that says nothing of it by no or yes.

    >>> answer_kind({"classes": ["hate", "offensive", "neither"], "label": 2})
    'classes'
    >>> answer_kind({"labels": ["toxic", "threat"], "label": [1, 0]})
    'labels'
    >>> answer_kind({"label": 1})
    'binary'
    """
    label = doc.get("label") if isinstance(doc, Mapping) else None
    if type(label) is int and isinstance(doc.get("classes"), list):
        return "classes"
    if isinstance(label, list) and isinstance(doc.get("labels"), list):
        return "labels"
    return "binary"


def picture_bytes(doc: Any) -> bytes:
    """The bytes of the file that a document's `image` names; none for other documents."""
    path = doc.get("image") if isinstance(doc, Mapping) else None
    return Path(path).read_bytes() if isinstance(path, str) and Path(path).is_file() else b""
