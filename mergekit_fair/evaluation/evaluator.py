"""The same questions to many models: built and tokenised once, asked again for other weights.

An `Exam` knows the rows and no model. `open` loads a model and gives an `Examiner`, whose weights
somebody else writes between two calls of `ask`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.evaluation.predictions import Answers, Scores
from mergekit_fair.progress import Progress

Part = NDArray[np.int64]  # row numbers within a split, the same for every task's model


class Exam(Protocol):
    """What models are measured on.

    Attributes:
        tasks: names, the one that decides first.
        warnings: what a reader of the results should know about the data.
    """

    @property
    def tasks(self) -> tuple[str, ...]: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def fingerprint(self) -> str:
        """A digest of rows, labels, groups and of everything else that decides the answers."""

    def sheets(self, split: str) -> Mapping[str, Answers]:
        """Task → its rows of a split, unanswered."""

    def open(self, model: str, device: str) -> Examiner:
        """Load a model and make the exam's inputs with its tokenizer or image processor.

        Raises:
            CheckpointError: no such model, or one that cannot answer.
        """


class Examiner(Protocol):
    """A model in memory and the exam's inputs, made at the first call for each split.

    Attributes:
        model: a torch module in evaluation mode; assign another one if its weights cannot be
            written in place.
        device: where it is.
    """

    model: Any
    device: str

    def ask(
        self, split: str, part: Part | None, progress: Progress, label: str
    ) -> Mapping[str, Scores]:
        """Task → scores of a split's rows, or of `part` of the first task's rows, in their order.

        Raises:
            MeasurementError: the scores are NaN or infinite.
        """

    def costs(self, split: str) -> Sequence[int]:
        """How long every row of the first task is: in tokens, or in characters of its requests."""
