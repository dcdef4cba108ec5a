"""Tasks over documents that are dealt here into a validation and a report split.

A data set of the Hub, or a file with its columns, comes in one piece. Documents of one unit, such
as a template, stay together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.data.blocks import Source
from mergekit_fair.data.cells import column
from mergekit_fair.data.shares_of_01 import draw
from mergekit_fair.data.table import read_table
from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.evaluation.advice import another_file
from mergekit_fair.evaluation.documents import EVALUATED, evaluated_split, replacement
from mergekit_fair.evaluation.fair_task import FairTask

if TYPE_CHECKING:
    import datasets

Doc = Mapping[str, Any]

# In the proportion of the 0.2 and 0.3 of the tasks that also have a train split.
_SHARES = (0.4, 0.6)
_SEED = 0


class DealtTask(FairTask):
    """A task whose documents come in one piece; a subclass says what they are about.

    Metadata: `split`, and `data`, a csv, tsv, jsonl or parquet file with the columns of the data
    set. Every document gets the column `cluster`, its unit: what is sampled independently.

    Attributes:
        columns: what every document must have.
        pool: the split of the data set that is dealt.
    """

    columns: tuple[str, ...] = ()
    pool: str = "test"

    def __init__(
        self, config: Mapping[str, Any], added: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        super().__init__({**config, "test_split": "evaluated", "validation_split": None}, added)

    @abstractmethod
    def groups(self, doc: Doc) -> list[str]:
        """Whom a document is about."""

    @abstractmethod
    def unit(self, doc: Doc) -> Hashable:
        """Documents of one unit stay in one split."""

    @abstractmethod
    def stratum(self, doc: Doc) -> Hashable:
        """Documents of one stratum are dealt to the splits in proportion."""

    def read(self, docs: list[Doc]) -> list[Doc]:
        """The documents that are dealt, of all that were loaded."""
        return docs

    def from_hub(self, options: dict[str, Any], where: str) -> datasets.DatasetDict:
        """The stock data set.

        Raises:
            DataError: it cannot be loaded.
        """
        return load_hub(self.DATASET_PATH, self.DATASET_NAME, options, where)

    def said(self, docs: Sequence[Doc]) -> dict[str, list[Any]]:
        """Further columns of the documents of the split."""
        del docs
        return {}

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **others: Any) -> None:
        """Load the stock data set, or `data`, and keep the split that is evaluated.

        Raises:
            DataError: it cannot be loaded, lacks a column, or the split has no documents.
        """
        import datasets

        del others
        metadata, where = self.config.metadata, f"task {self.config.task!r}"
        split = evaluated_split(metadata.get("split", EVALUATED[0]), where)
        if (file := replacement(metadata.get("data"), where, described=False)) is not None:
            loaded = datasets.DatasetDict({self.pool: _read_documents(file)})
        else:
            loaded = self.from_hub(dataset_kwargs or {}, where)
        pool = loaded[self.pool]
        if absent := [name for name in self.columns if name not in pool.column_names]:
            raise DataError(
                f"no column {absent[0]!r}", where=file or where, allowed=pool.column_names
            )
        # doc_to_target asks for both, and lm-eval sets them only after the download.
        self.features, self.prompt = pool.column_names, None
        docs = self.read(list(pool))
        rows = split_documents(
            [self.unit(doc) for doc in docs], [self.stratum(doc) for doc in docs], split
        )
        if not rows:
            raise DataError(
                f"the split {split!r} has no documents", where=file or where, got=len(docs)
            )
        chosen = [docs[row] for row in rows]
        columns = {"cluster": [_in_words(self.unit(doc)) for doc in chosen], **self.said(chosen)}
        evaluated = datasets.Dataset.from_list(
            [
                {**doc, **dict(zip(columns, values, strict=True))}
                for doc, values in zip(chosen, zip(*columns.values(), strict=True), strict=True)
            ]
        )
        self.features = evaluated.column_names
        self.dataset = datasets.DatasetDict(evaluated=evaluated)
        train = self.config.training_split
        if train in loaded:  # few-shot examples, which must not give answers away
            units = {self.unit(doc) for doc in docs}
            apart = [row for row, doc in enumerate(loaded[train]) if self.unit(doc) not in units]
            self.dataset[train] = loaded[train].select(apart)
        else:
            self.config.training_split = None

    def doc_iterator(
        self,
        *,
        rank: int = 0,
        limit: int | None = None,
        world_size: int = 1,
        samples: list[int] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """As lm-eval's, but a limit takes whole clusters: as many as fit, at random.

        Raises:
            ConfigError: fewer than two of them fit, whose spread could not be seen.
        """
        if limit is not None and samples is None:
            limit = whole_clusters(self.eval_docs["cluster"], int(limit), str(self.task_name))
        return super().doc_iterator(rank=rank, limit=limit, world_size=world_size, samples=samples)


def whole_clusters(clusters: Sequence[str], limit: int, task: str) -> int:
    """The number of documents of as many clusters as a limit has room for, in their order.

    Args:
        clusters: of the documents; those of one cluster follow each other.
        limit: documents.
        task: for the error.

    Raises:
        ConfigError: fewer than two clusters fit.

    >>> whole_clusters(["a", "a", "b", "b", "b", "c"], 5, "fair_bbq")
    5
    """
    if limit >= len(clusters):
        return len(clusters)
    starts = [row for row, name in enumerate(clusters) if row == 0 or clusters[row - 1] != name]
    whole = max((start for start in starts if start <= limit), default=0)
    if len(starts) > 1 and whole < (least := [*starts, len(clusters)][2]):
        raise ConfigError(
            "has room for fewer than two clusters, whose spread could not be seen",
            where=f"{task}: limit",
            got=limit,
            allowed=f"{least} documents or more",
        )
    return whole


def split_documents(units: Sequence[Hashable], strata: Sequence[Hashable], split: str) -> list[int]:
    """Row numbers of one split, units in a random order; the same for the same arguments.

    Args:
        units: of every row; rows of one unit are in one split.
        strata: of every row; a unit is dealt in its first row's stratum, in proportion.
        split: validation or report.
    """
    members: dict[Hashable, list[int]] = {}
    for row, unit in enumerate(units):
        members.setdefault(unit, []).append(row)
    numbers: dict[Hashable, int] = {}
    firsts = [rows[0] for rows in members.values()]
    codes = [numbers.setdefault(strata[row], len(numbers)) for row in firsts]
    parts = draw(np.array(codes, dtype=np.int64), _SHARES, np.random.default_rng(_SEED))
    wanted = parts == EVALUATED.index(split)
    chosen = [rows for rows, mine in zip(members.values(), wanted, strict=True) if mine]
    order = np.random.default_rng(_SEED).permutation(len(chosen))
    return [row for unit in order.tolist() for row in chosen[unit]]


def _in_words(unit: Hashable) -> str:
    parts = unit if isinstance(unit, tuple) else (unit,)
    return " | ".join(str(part) for part in parts)


def load_hub(
    path: str | None, name: str | None, options: dict[str, Any], where: str
) -> datasets.DatasetDict:
    """A data set of the Hub.

    Raises:
        DataError: it cannot be loaded, for whatever reason.
    """
    import datasets

    try:
        return datasets.load_dataset(path=path, name=name, **options)
    # As for any Hub data set: whatever goes wrong means that it cannot be loaded.
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"the Hub data set {path!r} cannot be loaded ({type(error).__name__}: {reason})",
            where=where,
            fix=f"check the network (or HF_HUB_OFFLINE), or {another_file()}",
        ) from error


def _read_documents(file: Path) -> datasets.Dataset:
    """The table of a file; columns of numbers in a csv or tsv are numbers, as on the Hub."""
    import datasets
    import pandas as pd

    source = Source(path=str(file))
    table = read_table(source)
    table = pd.DataFrame({name: column(table, name, str(file), nested=True) for name in table})
    if source.table_format in ("csv", "tsv"):
        for name in table.columns:
            values = pd.to_numeric(table[name], errors="coerce")
            if not values.isna().any():
                table[name] = values
    try:
        return datasets.Dataset.from_pandas(table, preserve_index=False)
    except (TypeError, ValueError) as error:  # those of Arrow are such
        reason = " ".join(str(error).split())
        raise DataError(
            f"a column has values of several kinds ({reason})",
            where=str(file),
            fix="give all rows of a column values of one kind",
        ) from error
