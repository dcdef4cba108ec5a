"""One threshold for everybody on a model's scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mergekit_fair.evaluation.predictions import Predictions, Scores

# Settings of a point that has one: whose scores, and t.
SOURCE, THRESHOLD = "source", "threshold"


@dataclass(frozen=True)
class GlobalThreshold:
    """1 is predicted where a score is at least t.

    >>> rows = Predictions(
    ...     "toxic", (0, 1, 2), np.array([0, 1, 1]), np.array([0, 1, 1]), {}, (),
    ...     np.array([-0.5, 0.25, 0.5]),
    ... )
    >>> rows.with_scores(GlobalThreshold(0.5).scores(rows)).predicted
    array([0, 0, 1], dtype=int8)
    """

    t: float

    def scores(self, predictions: Predictions) -> Scores:
        """s − t, to the next float: above 0 where s ≥ t."""
        return np.asarray(predictions.scores, dtype=np.float64) - np.nextafter(self.t, -np.inf)
