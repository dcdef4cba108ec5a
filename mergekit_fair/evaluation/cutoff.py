"""Where 1 begins: at a number, or where a wanted share of the rows is selected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.predictions import THRESHOLD, Predictions
from mergekit_fair.evaluation.tasks import fairness_items
from mergekit_fair.fairness import matching_threshold

_LEVEL = "level:"


@dataclass(frozen=True)
class Cutoff:
    """A rule that turns scores into predictions: 1 where the score is at least a number.

    Attributes:
        at: the number; None: it is found.
        level: the selection rate that it shall give, in [0, 1], or `labels`: as many rows are
            selected as have a positive label. Groups play no part.
    """

    at: float | None = None
    level: float | Literal["labels"] | None = None

    @classmethod
    def parse(cls, text: str, where: object) -> Self:
        """From an option: `0.5`, `level: labels` or `level: 0.3`.

        Raises:
            ConfigError: anything else.

        >>> Cutoff.parse("level: 0.3", "--threshold")
        Cutoff(at=None, level=0.3)
        """
        head, is_level, rest = text.strip().rpartition(_LEVEL)
        if is_level and not head and rest.strip() == "labels":
            return cls(level="labels")
        try:
            number = float(rest)
        except ValueError:
            number = math.nan
        if head or not math.isfinite(number) or (is_level and not 0 <= number <= 1):
            raise ConfigError(
                "is no threshold",
                where=where,
                got=text,
                allowed="a number, 'level: labels', or 'level: RATE' with a rate in [0, 1]",
            )
        return cls(level=number) if is_level else cls(at=number)

    def require_probability(self, where: object) -> None:
        """Refuse a number that no probability can be on either side of.

        Raises:
            ConfigError: it lies outside [0, 1].
        """
        if self.at is not None and not 0 <= self.at <= 1:
            raise ConfigError(
                "the scores are probabilities, so that the threshold is one, too",
                where=where,
                got=self.at,
                allowed="a number in [0, 1]",
            )

    def on(
        self,
        scores: NDArray[np.float64],
        labels: NDArray[np.int8],
        weights: NDArray[np.float64] | None,
    ) -> float:
        """The number, for these rows.

        Args:
            scores: (n,), NaN without one; those rows are not selected.
            labels: (n,), 0 or 1.
            weights: (n,), or None.

        Raises:
            MeasurementError: a level is asked for, and no row has a score.
        """
        if self.at is not None:
            return self.at
        rate = self.level
        if not isinstance(rate, float):
            rate = float(np.average(labels, weights=weights))
        known = ~np.isnan(scores)
        return matching_threshold(scores[known], rate, None if weights is None else weights[known])


def predict_anew(task: str, samples: Sequence[dict[str, Any]], cutoff: Cutoff) -> None:
    """Put the predictions of a cutoff on P(1) into lm-eval's samples, and the number itself.

    Args:
        task: its name.
        samples: of a fairness task.
        cutoff: where 1 begins.

    Raises:
        ConfigError: the task has no probabilities, or the number is none.
    """
    cutoff.require_probability("--threshold")
    predictions = Predictions.of_samples(task, samples)
    chances = predictions.probabilities
    if chances is None:
        raise no_chance(task)
    threshold = cutoff.on(chances, predictions.labels, predictions.weights)
    for sample, chance in zip(samples, chances.tolist(), strict=True):
        _, label, groups = sample["dpd"]
        prediction = None if math.isnan(chance) else int(chance >= threshold)
        weight = sample["doc"].get("weight")
        items = fairness_items(prediction, label, groups, weight)
        items["acc"] = int(prediction == label) if weight is None else items["dpd"]
        sample |= {name: item for name, item in items.items() if name in sample}
        sample[THRESHOLD] = threshold


def no_chance(task: str) -> ConfigError:
    """A threshold on P(1) of a task without one."""
    return ConfigError(
        "--threshold needs a task whose choices are the two classes", where=f"task {task}"
    )
