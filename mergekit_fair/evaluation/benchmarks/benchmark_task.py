"""Tasks over the documents of a benchmark; a subclass says what an answer means."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from mergekit_fair.evaluation.benchmarks.benchmark_items import KEY, Columns, items, metric_rows
from mergekit_fair.evaluation.dealt_tasks import DealtTask, Doc
from mergekit_fair.fairness.benchmark import Benchmark


class BenchmarkTask(DealtTask):
    """A task whose figures are a benchmark's scores.

    Its documents get the columns `benchmark`, `groups` and `cluster`.

    Attributes:
        benchmark: its scores.
    """

    benchmark: Benchmark

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, metric_rows(self.benchmark))

    @abstractmethod
    def answered(self, doc: Doc, results: Sequence[Any]) -> Columns:
        """What the model's results say about the columns of the benchmark."""

    def said(self, docs: Sequence[Doc]) -> dict[str, list[Any]]:
        return {
            KEY: [self.benchmark.name] * len(docs),
            "groups": [self.groups(doc) for doc in docs],
        }

    def process_results(self, doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
        if "bypass" in self.aggregation():  # --predict_only has taken all metrics away
            return dict(super().process_results(doc, results))
        columns = self.answered(doc, results)
        return items(self.benchmark, columns, doc["groups"], doc["cluster"])
