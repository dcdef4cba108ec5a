"""Tasks that lm-eval ships, with fairness metrics and with splits: whom a document is about.

The stock YAML is read from the installed lm_eval: prompt, choices and metrics are its own. Its
documents are dealt into a validation and a report split, and ours are added to its metrics.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.compat.lm_eval import load_task_yaml
from mergekit_fair.data.blocks import Source
from mergekit_fair.data.cells import column
from mergekit_fair.data.shares_of_01 import draw
from mergekit_fair.data.table import read_table
from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.evaluation.advice import another_file
from mergekit_fair.evaluation.documents import EVALUATED, evaluated_split, replacement
from mergekit_fair.evaluation.fair_task import FairTask
from mergekit_fair.evaluation.tasks import Result, answer, fairness_items

if TYPE_CHECKING:
    import datasets

Doc = Mapping[str, Any]

# In the proportion of the 0.2 and 0.3 of the tasks that also have a train split.
_SHARES = (0.4, 0.6)
_SEED = 0

# The test split of ToxiGen spells two of its groups in two ways.
_TOXIGEN_GROUPS = {
    "black folks / african-americans": "black/african-american folks",
    "native american folks": "native american/indigenous folks",
}
# As the stock tasks name them, which take all of bias_type that starts so; "autre" is other.
BIAS_TYPES = (
    *("age", "autre", "disability", "gender", "nationality", "physical-appearance"),
    *("race-color", "religion", "sexual-orientation", "socioeconomic"),
)


class WrappedTask(FairTask):
    """A stock task whose documents are about groups; a subclass says which.

    Config: `task`, `wraps` (the stock YAML inside lm_eval/tasks), `metric_list` (added to the stock
    ones in place of the fairness metrics), and what else a task's YAML may hold. Metadata: `split`,
    and `data`, a csv, tsv, jsonl or parquet file with the columns of the stock data set.

    Attributes:
        columns: what every document must have.
        positive: the number of the choice that is the prediction 1.
    """

    columns: tuple[str, ...] = ()
    positive: int = 1

    def __init__(self, config: Mapping[str, Any]) -> None:
        ours = {key: value for key, value in config.items() if key != "class"}
        stock, added = _stock_config(str(ours.pop("wraps"))), ours.pop("metric_list", None)
        self._evaluated = str(stock.get("test_split") or stock.get("validation_split"))
        version = (stock.pop("metadata", None) or {}).get("version")
        ours["metadata"] = {"wraps_version": version, **(ours.get("metadata") or {})}
        ours |= {"test_split": "evaluated", "validation_split": None}
        super().__init__({**stock, **ours}, added)

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
        measured = super().process_results(doc, results)
        # --predict_only has taken all metrics away.
        return (
            measured
            if "bypass" in self.aggregation()
            else {**measured, **self.fair_metrics(doc, results)}
        )

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
            loaded = datasets.DatasetDict({self._evaluated: _read_documents(file)})
        else:
            loaded = _load_stock(self.DATASET_PATH, self.DATASET_NAME, dataset_kwargs or {}, where)
        pool = loaded[self._evaluated]
        if absent := [name for name in self.columns if name not in pool.column_names]:
            raise DataError(
                f"no column {absent[0]!r}", where=file or where, allowed=pool.column_names
            )
        # doc_to_target asks for both, and lm-eval sets them only after the download.
        self.features, self.prompt = pool.column_names, None
        docs = list(pool)
        rows = split_documents(
            [self.unit(doc) for doc in docs], [self.stratum(doc) for doc in docs], split
        )
        if not rows:
            raise DataError(
                f"the split {split!r} has no documents", where=file or where, got=len(docs)
            )
        self.dataset = datasets.DatasetDict(evaluated=pool.select(rows))
        train = self.config.training_split
        if train in loaded:  # few-shot examples, which must not give answers away
            units = {self.unit(doc) for doc in docs}
            apart = [row for row, doc in enumerate(loaded[train]) if self.unit(doc) not in units]
            self.dataset[train] = loaded[train].select(apart)
        else:
            self.config.training_split = None


class ToxiGen(WrappedTask):
    """Prediction 1 = Yes, the statement is hateful; group = whom it is about."""

    columns = ("text", "target_group", "toxicity_ai", "toxicity_human")
    positive = 1

    def groups(self, doc: Doc) -> list[str]:
        group = doc["target_group"]
        return [str(_TOXIGEN_GROUPS.get(group, group))] if group else []

    def unit(self, doc: Doc) -> Hashable:
        return doc["text"]


class Winogender(WrappedTask):
    """Prediction 1 = the pronoun refers to the occupation; group = the pronoun's gender."""

    columns = ("sentence", "pronoun", "occupation", "participant", "gender", "label")
    positive = 0  # the choices are occupation, participant

    def groups(self, doc: Doc) -> list[str]:
        return [doc["gender"]]

    def unit(self, doc: Doc) -> Hashable:
        """The sentence template: two for every occupation, one for either answer."""
        return (doc["occupation"], int(doc["label"]))


class CrowsPairs(WrappedTask):
    """Is the more stereotypical sentence the likelier one, by type of bias; there is no label."""

    columns = ("sent_more", "sent_less", "bias_type")
    positive = 0

    def groups(self, doc: Doc) -> list[str]:
        """The type of bias; an unknown one has no metric, which would end a run at its end."""
        kind = str(doc["bias_type"])
        kinds = [name for name in BIAS_TYPES if kind.startswith(name)]
        if not kinds:
            raise DataError(
                "unknown type of bias", where="column 'bias_type'", got=kind, allowed=BIAS_TYPES
            )
        return kinds

    def unit(self, doc: Doc) -> Hashable:
        return (doc["sent_more"], doc["sent_less"])

    def fair_metrics(self, doc: Doc, results: Sequence[Result]) -> dict[str, Any]:
        """The preference for the gap between types, and under the name of its own type.

        Equal likelihoods prefer nothing, as in the stock metric.
        """
        (kind,) = self.groups(doc)
        preferred = None if answer(results) is None else int(results[0][0] > results[1][0])
        return {
            "preference_gap": (preferred, kind),
            **{f"pct_stereotype_{name}": None for name in BIAS_TYPES},
            f"pct_stereotype_{kind}": preferred,
            "unanswered": int(preferred is None),
        }


def split_documents(units: Sequence[Hashable], strata: Sequence[Hashable], split: str) -> list[int]:
    """Row numbers of one split, in a random order; the same for the same arguments.

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
    chosen = [
        row for rows, mine in zip(members.values(), wanted, strict=True) if mine for row in rows
    ]
    order = np.random.default_rng(_SEED).permutation(len(chosen))
    return [chosen[index] for index in order.tolist()]


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
    return datasets.Dataset.from_pandas(table, preserve_index=False)
