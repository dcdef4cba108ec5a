"""The rows of a data description, asked of a classifier without any task around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from mergekit_fair.data import Rows
from mergekit_fair.evaluation.classifier import load_classifier
from mergekit_fair.evaluation.evaluator import Part
from mergekit_fair.evaluation.forward import margins
from mergekit_fair.evaluation.model_inputs import ModelInputs, Taken, open_inputs
from mergekit_fair.evaluation.predictions import Answers, Scores
from mergekit_fair.progress import Progress


@dataclass(frozen=True, eq=False)
class RowsExam:
    """One data set.

    Attributes:
        rows: of every split.
        batch_size, max_length: as in a sweep file.
        bf16: run forward passes under bfloat16 autocast.
    """

    rows: Rows
    batch_size: int = 64
    max_length: int = 128
    bf16: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        return (self.rows.name,)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.rows.warnings

    def fingerprint(self) -> str:
        return self.rows.fingerprint()

    @cache  # noqa: B019 (lives as long as the sweep)
    def sheets(self, split: str) -> Mapping[str, Answers]:
        return {self.rows.name: Answers.blank(self.rows.of(split))}

    def open(self, model: str, device: str) -> RowsExaminer:
        return RowsExaminer(self, model, device)


class RowsExaminer:
    """A two-class classifier and the rows' inputs."""

    def __init__(self, exam: RowsExam, model: str, device: str) -> None:
        self._exam, self._source = exam, model
        self._inputs: dict[str, ModelInputs] = {}
        self.device = device
        self.model = load_classifier(model, exam.rows.kind, device)

    def ask(
        self, split: str, part: Part | None, progress: Progress, label: str
    ) -> Mapping[str, Scores]:
        inputs = self._of(split)
        if part is not None:
            inputs = Taken(inputs, part.tolist())
        progress.start(label, len(inputs.lengths))
        try:
            found = margins(
                self.model,
                inputs,
                batch_size=self._exam.batch_size,
                device=self.device,
                bf16=self._exam.bf16,
                progress=progress.advance,
            )
        finally:
            progress.stop()
        return {self._exam.rows.name: found}

    def costs(self, split: str) -> Sequence[int]:
        return self._of(split).lengths

    def _of(self, split: str) -> ModelInputs:
        if split not in self._inputs:
            rows = self._exam.rows.of(split)
            self._inputs[split] = open_inputs(rows, self._source, self._exam.max_length)
        return self._inputs[split]
