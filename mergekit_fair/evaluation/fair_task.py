"""A task of lm-eval whose figures are those of its own rows: what is asked of it is checked.

lm-eval hands tasks over without their file, keeps built requests under the task's name alone, and
takes few-shot examples out of the evaluated rows where there are no others. Each would change
figures without a word.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

from mergekit_fair.compat.lm_eval import INLINE, add_metric, chosen, serialized, task_files
from mergekit_fair.data.label_rules import LabelKind
from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.aggregations import (
    SIZE,
    Aggregation,
    aggregation,
    resized,
    view_aggregation,
)
from mergekit_fair.evaluation.documents import answer_kind, picture_bytes
from mergekit_fair.evaluation.tasks import ITEM_METRICS, VIEW_METRICS
from mergekit_fair.fairness import METRICS
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.fairness.settings import MIN_GROUP_SIZE
from mergekit_fair.resources import tasks_dir

_HIGHER_IS_BETTER = {"higher": True, "lower": False, None: None}

# Keys of --metadata that a task reads.
METADATA = ("split", "data", SIZE)
# Arguments of lm-eval's models, which are metadata, too, and near to one of those.
_NO_MISTAKE = frozenset({"delta"})
_NO_YES = ["no", "yes"]  # the choices that the templates name


class FairTask(ConfigurableTask):
    """A task whose documents give `tasks.fairness_items`: it has the metrics that these are for.

    lm-eval takes the mean of a metric that a task does not list, which items have not, and fails
    after all inference. So a task file need not list them, and cannot forget one.

    Args:
        config: of the task.
        added: metrics beside those of its `metric_list`; None for the fairness metrics.

    Raises:
        ConfigError: metadata that are near to a key of ours, or that the task gives itself.
    """

    def __init__(
        self, config: Mapping[str, Any], added: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        config = {key: value for key, value in config.items() if key != "class"}
        require_metadata(config)
        require_one_answer(config)
        super().__init__(config=with_source(config))
        kind = answer_kind(self.task_docs[0])
        rows = [
            metric
            for metric in (_fairness_metrics(kind) if added is None else added)
            if metric["metric"] not in self.aggregation()
        ]
        for row in rows:
            better = row["higher_is_better"]
            add_metric(self, row["metric"], row["aggregation"], higher_is_better=better)
        if "weight" in self.features:  # the mean of documents that count alike is another number
            weighted = (aggregation if kind == "binary" else view_aggregation)("acc")
            add_metric(self, "acc", weighted, higher_is_better=True)
        self._decide_from(self.config.metadata.get(SIZE, MIN_GROUP_SIZE))
        self.config.metric_list = [*(self.config.metric_list or ()), *rows]

    def _decide_from(self, least: Any) -> None:
        """Groups of at least so many rows decide.

        Raises:
            ConfigError: no number of rows.
        """
        if type(least) is not int or least < 1:
            raise ConfigError(
                "must be a number of rows, 1 or more",
                where=f"task {self.config.task}: metadata.{SIZE}",
                got=least,
            )
        for name, function in self.aggregation().items():
            better = self.higher_is_better().get(name)
            add_metric(self, name, resized(function, least), higher_is_better=better)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **others: Any) -> None:
        """As lm-eval's; the choices of documents with classes or labels are the names of these,
        unless the task's file says others."""
        super().download(dataset_kwargs, **others)
        evaluated = self.config.test_split or self.config.validation_split
        first = self.dataset[evaluated][0] if evaluated in self.dataset else None
        if first is None or (kind := answer_kind(first)) == "binary":
            return
        if self.config.doc_to_choice in (None, _NO_YES):
            self.config.doc_to_choice = self.fewshot_cfg.doc_to_choice = list(first[kind])

    def doc_to_choice(self, doc: Any, doc_to_choice: Any = None) -> list[str]:
        """As lm-eval's; of documents with classes or labels a text for each, in their order.

        Raises:
            ConfigError: another number of texts, or the name of one class in the place of another.
        """
        choices: list[str] = super().doc_to_choice(doc, doc_to_choice)
        if (kind := answer_kind(doc)) == "binary":
            return choices
        number = {str(name).casefold(): at for at, name in enumerate(doc[kind])}
        said = [number.get(str(text).strip().casefold(), at) for at, text in enumerate(choices)]
        if said != list(range(len(doc[kind]))):
            raise ConfigError(
                f"must be a text for each of the {len(doc[kind])} {kind}, in their order",
                where=f"task {self.config.task}: doc_to_choice",
                got=choices,
                allowed=doc[kind],
            )
        return choices

    def build_all_requests(
        self,
        *,
        samples: list[int] | None = None,
        cache_requests: bool = False,
        tokenizer_name: str = "",
        **options: Any,
    ) -> None:
        """As lm-eval's; requests that it has kept are used for the same documents alone.

        Raises:
            ConfigError: few-shot examples, and no documents to take them from.
        """
        self._require_examples()
        self._require_numbers(samples)
        if cache_requests:  # it has no other use for the tokenizer's name
            tokenizer_name = f"{tokenizer_name}-{self._digest(samples)}"
        super().build_all_requests(
            samples=samples,
            cache_requests=cache_requests,
            tokenizer_name=tokenizer_name,
            **options,
        )

    def doc_iterator(
        self,
        *,
        rank: int = 0,
        limit: int | None = None,
        world_size: int = 1,
        samples: list[int] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """As lm-eval's, but `samples` in their order: by it the documents' numbers are written."""
        if samples:
            return chosen(self.eval_docs, samples, rank, world_size)
        return super().doc_iterator(rank=rank, limit=limit, world_size=world_size)

    def _require_numbers(self, samples: list[int] | None) -> None:
        """`--samples` names documents, each once; lm-eval takes an empty list for all of them."""
        if samples is None:
            return
        n = len(self.eval_docs)
        known = [type(number) is int and 0 <= number < n for number in samples]
        if not all(known) or len(set(samples)) < len(samples) or not samples:
            raise ConfigError(
                "must name documents by their numbers, each once",
                where=f"--samples: {self.task_name}",
                got=samples,
                allowed=f"0 to {n - 1}",
            )

    def _require_examples(self) -> None:
        """Few-shot examples are documents of a split that is not evaluated."""
        wanted = self.config.num_fewshot or 0
        listed = self.fewshot_cfg.samples is not None
        if not wanted or listed:
            return
        if answer_kind(self.eval_docs[0]) == "labels":
            raise ConfigError(
                "an example has one answer, and the documents have several labels",
                where=f"task {self.task_name}: num_fewshot",
                got=wanted,
                fix="ask for no examples: a classifier of labels takes none",
            )
        split = self.fewshot_cfg.split or self.config.training_split
        evaluated = self.config.test_split or self.config.validation_split
        there = len(self.dataset[split]) if split in self.dataset else 0
        if split is None or split == evaluated or there <= wanted:
            raise ConfigError(
                f"{wanted} few-shot examples need {wanted + 1} documents of a train split",
                where=f"task {self.task_name}",
                got=there if split != evaluated else f"{split}, which is evaluated",
                fix="ask for no examples, or for fewer, or give the data a train split",
            )

    def _digest(self, samples: list[int] | None) -> str:
        """Of all that decides the requests and that lm-eval's key of them leaves out."""
        config = serialized(self)
        config.pop("metadata", None)
        digest = hashlib.sha256()
        examples = self.fewshot_docs() if self.config.num_fewshot else ()
        for docs in (self.eval_docs, examples or ()):
            for doc in docs:
                digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
                digest.update(picture_bytes(doc))
            digest.update(b"\n")
        state = self.fewshot_rnd.getstate() if self.config.num_fewshot else None
        digest.update(json.dumps([config, samples, state], sort_keys=True, default=str).encode())
        return digest.hexdigest()


def _fairness_metrics(kind: LabelKind) -> list[dict[str, Any]]:
    """As in a task's `metric_list`, of documents that are answered so."""
    functions: dict[str, Aggregation]
    if kind == "binary":
        functions = {name: aggregation(name) for name in ITEM_METRICS}
    else:
        functions = {name: view_aggregation(name) for name in VIEW_METRICS}
    better = {name: each.better for name, each in METRICS.items()}
    better |= {name: each.better for name, each in MULTI_METRICS.items()}
    return [
        {
            "metric": name,
            "aggregation": function,
            "higher_is_better": _HIGHER_IS_BETTER[better[name]],
        }
        for name, function in {**functions, "unanswered": "mean"}.items()
    ]


def require_metadata(config: Mapping[str, Any]) -> None:
    """Nothing in a task's metadata is a misspelt `split` or `data`, or the task's own business.

    Model arguments are metadata, too, so that unknown keys cannot be refused.

    Raises:
        ConfigError: names the key.
    """
    where = f"task {config.get('task')}: metadata"
    for key in config.get("metadata") or {}:
        if key in METADATA or key in _NO_MISTAKE:
            continue
        near = difflib.get_close_matches(str(key).lower(), METADATA, n=1, cutoff=0.61)
        if near:
            raise ConfigError(
                f"unknown key {key!r}; did you mean {near[0]!r}?", where=where, allowed=METADATA
            )
        if key in (config.get("dataset_kwargs") or {}):
            raise ConfigError(
                "is what the task's own file says",
                where=f"{where}: {key}",
                fix="leave it out, or change it in a copy of the file",
            )


def require_one_answer(config: Mapping[str, Any]) -> None:
    """A document has one answer: with two filters it would count twice.

    Raises:
        ConfigError: the task lists several.
    """
    filters = [each.get("name") for each in config.get("filter_list") or ()]
    if len(filters) > 1:
        raise ConfigError(
            "has several filters, and fairness is measured of one answer a document",
            where=f"task {config.get('task')}: filter_list",
            got=filters,
            fix="leave one of them",
        )


def with_source(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its file, where lm-eval has lost it (`--tasks FILE.yaml`).

    Data are read beside the file. It is looked for in the suite and among the words of the
    command line, by the task's name.
    """
    metadata = dict(config.get("metadata") or {})
    name = config.get("task")
    if metadata.get("config_source") == INLINE and isinstance(name, str):
        found = task_files(name, tasks_dir())
        if len(found) == 1:
            metadata["config_source"] = str(found[0])
    return {**config, "metadata": metadata}
