"""A task that lm-eval ships, with fairness metrics and with splits.

The stock YAML is read from the installed lm_eval: prompt, choices and metrics are its own. Its
documents are dealt into a validation and a report split, and ours are added to its metrics.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.task import ConfigurableTask

from mergekit_fair.compat.lm_eval import add_metric, load_task_yaml
from mergekit_fair.data.blocks import Source
from mergekit_fair.data.table import read_table
from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.evaluation.documents import ANOTHER_FILE, EVALUATED, evaluated_split, replacement
from mergekit_fair.evaluation.split_documents import deal
from mergekit_fair.evaluation.tasks import Result, answer, fairness_items

if TYPE_CHECKING:
    import datasets

Doc = Mapping[str, Any]


class WrappedTask(ConfigurableTask):
    """A stock task whose documents are about groups; a subclass says which.

    Config: `task`, `wraps` (the stock YAML inside lm_eval/tasks), `metric_list` (ours, added to
    the stock ones), and what else a task's YAML may hold. Metadata: `split`, and `data`, a csv,
    tsv, jsonl or parquet file with the columns of the stock data set.

    Attributes:
        columns: what every document must have.
        positive: the number of the choice that is the prediction 1.
    """

    columns: tuple[str, ...] = ()
    positive: int = 1

    def __init__(self, config: Mapping[str, Any]) -> None:
        ours = {key: value for key, value in config.items() if key != "class"}
        stock, added = _stock_config(str(ours.pop("wraps"))), ours.pop("metric_list")
        self._evaluated = str(stock.get("test_split") or stock.get("validation_split"))
        version = (stock.pop("metadata", None) or {}).get("version")
        ours["metadata"] = {"wraps_version": version, **(ours.get("metadata") or {})}
        ours |= {"test_split": "evaluated", "validation_split": None}
        super().__init__(config={**stock, **ours})
        for metric in added:
            add_metric(
                self,
                metric["metric"],
                metric["aggregation"],
                higher_is_better=metric["higher_is_better"],
            )
        self.config.metric_list = [*(self.config.metric_list or ()), *added]

    @abstractmethod
    def groups(self, doc: Doc) -> list[str]:
        """Whom a document is about."""

    @abstractmethod
    def unit(self, doc: Doc) -> Hashable:
        """Documents of one unit stay in one split."""

    def stratum(self, doc: Doc) -> Hashable:
        """Documents of one stratum are dealt to the splits in proportion."""
        return (*self.groups(doc), int(self.doc_to_target(doc)))

    def fair_metrics(self, doc: Doc, results: Sequence[Result]) -> dict[str, Any]:
        """Ours of one document: the label is whether the positive choice is the target."""
        choice = answer(results)
        prediction = None if choice is None else int(choice == self.positive)
        label = int(int(self.doc_to_target(doc)) == self.positive)
        return fairness_items(prediction, label, self.groups(doc))

    def process_results(self, doc: Doc, results: Sequence[Result]) -> dict[str, Any]:
        return {**super().process_results(doc, results), **self.fair_metrics(doc, results)}

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **others: Any) -> None:
        """Load the stock data set, or `data`, and keep the split that is evaluated.

        Raises:
            DataError: it cannot be had, lacks a column, or the split has no documents.
        """
        import datasets

        del others
        metadata, where = self.config.metadata, f"task {self.config.task!r}"
        split = evaluated_split(metadata.get("split", EVALUATED[0]), where)
        if (file := replacement(metadata.get("data"), where, described=False)) is not None:
            found = datasets.DatasetDict({self._evaluated: _read_documents(file)})
        else:
            found = _load_stock(self.DATASET_PATH, self.DATASET_NAME, dataset_kwargs or {}, where)
        pool = found[self._evaluated]
        if absent := [name for name in self.columns if name not in pool.column_names]:
            raise DataError(
                f"no column {absent[0]!r}", where=file or where, allowed=pool.column_names
            )
        # doc_to_target asks for both, and lm-eval sets them only after the download.
        self.features, self.prompt = pool.column_names, None
        docs = list(pool)
        rows = deal([self.unit(doc) for doc in docs], [self.stratum(doc) for doc in docs], split)
        if not rows:
            raise DataError(
                f"the split {split!r} has no documents", where=file or where, got=len(docs)
            )
        self.dataset = datasets.DatasetDict(evaluated=pool.select(rows))
        train = self.config.training_split
        if train in found:
            self.dataset[train] = found[train]
        else:  # few-shot examples out of the evaluated documents would give answers away
            self.config.training_split, self.config.num_fewshot = None, 0


def _stock_config(name: str) -> dict[str, Any]:
    import lm_eval.tasks

    path = Path(lm_eval.tasks.__file__).parent / name
    if not path.is_file():
        raise ConfigError(
            "the installed lm_eval has no such task file",
            where="wraps",
            got=name,
            fix="check the path inside lm_eval/tasks, and lm_eval's version",
        )
    config = load_task_yaml(path)
    ours = ("task", "tag", "group", "task_list")
    return {key: value for key, value in config.items() if key not in ours}


def _load_stock(
    path: str | None, name: str | None, options: dict[str, Any], where: str
) -> datasets.DatasetDict:
    import datasets

    try:
        return datasets.load_dataset(path=path, name=name, **options)
    # As for any Hub data set: whatever goes wrong means that it cannot be had.
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"the Hub data set {path!r} cannot be loaded ({type(error).__name__}: {reason})",
            where=where,
            fix=f"check the network (or HF_HUB_OFFLINE), {ANOTHER_FILE}",
        ) from error


def _read_documents(file: Path) -> datasets.Dataset:
    """The table of a file; columns of numbers in a csv or tsv are numbers, as on the Hub."""
    import datasets
    import pandas as pd

    source = Source(path=str(file))
    table = read_table(source)
    if source.table_format in ("csv", "tsv"):
        for name in table.columns:
            values = pd.to_numeric(table[name], errors="coerce")
            if not values.isna().any():
                table[name] = values
    return datasets.Dataset.from_pandas(table, preserve_index=False)
