"""A fair head: directions from training rows, coefficients from validation rows, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.evaluate import counted
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.soft_objective import deciding_groups
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.rates import is_degenerate
from mergekit_fair.heads.directions import (
    Direction,
    GroupCell,
    cells_of,
    constant_direction,
    fit_directions,
    moves_along,
)
from mergekit_fair.heads.fitting import (
    MUS,
    CrossFitted,
    Moves,
    cross_fit,
    fit_coefficients,
    soft_gap_change,
)
from mergekit_fair.heads.last_layer import FeatureRows

Gap = Literal["eod", "dpd"]
FEWEST_ROWS = 50  # of validation rows, for a fit


@dataclass(frozen=True)
class HeadSettings:
    """How a head is fitted.

    Attributes:
        metric: the gap that is made smaller, `eod` or `dpd`.
        mu: how much the gap counts against the mean error; None: chosen by cross-fitting, the
            largest of `MUS` at which, as at all smaller ones, accuracy is within the tolerance.
        tolerance: accuracy that may be given up against the target, on cross-fitted rows.
        seed: of folds and draws.
    """

    metric: Gap = "eod"
    mu: float | None = None
    tolerance: float = 0.01
    seed: int = 0


@dataclass(frozen=True, eq=False)
class FairHead:
    """θ_target + Σ_c a_c v_c: what was found, and why, if it stays where it is.

    Attributes:
        directions: K, the last of them the constant one.
        coefficients: a (K,), of the logit gap; 0 where the head stays.
        mu: that it was fitted with; None if none was acceptable.
        tried: what each μ gave, cross-fitted.
        change: of the soft gap by cross-fitted coefficients, and its one-sided upper limit.
        left_out: cells without a direction.
        stays: why the head is the target's; None where it moves.
    """

    directions: tuple[Direction, ...]
    coefficients: NDArray[np.float64]
    mu: float | None
    tried: tuple[CrossFitted, ...]
    change: tuple[float, float] | None
    left_out: tuple[GroupCell, ...]
    stays: str | None

    def moved(self, rows: FeatureRows) -> Predictions:
        """What is predicted for rows by the moved scores."""
        added = self.coefficients @ moves_along(self.directions, rows.features)
        return rows.rows.with_scores(rows.rows.scores + added)


def moves_of(directions: Sequence[Direction], rows: FeatureRows, settings: MetricSettings) -> Moves:
    """What each of K directions adds to the scores of n rows."""
    return Moves.of(rows.rows, moves_along(directions, rows.features), settings)


def fit_head(
    rows: Mapping[str, FeatureRows],
    settings: MetricSettings,
    head: HeadSettings,
    *,
    has_bias: bool,
) -> FairHead:
    """Fit on training and validation rows; the report rows are not looked at.

    The head stays the target's where nothing shows that its directions do anything: no μ keeps
    accuracy, or the soft gap of cross-fitted rows is not smaller beyond their noise.

    Args:
        rows: of `train` and `validation`.
        settings: which gap it is, and who decides it.
        head: how to fit.
        has_bias: of the last layer.

    Raises:
        MeasurementError: fewer than two groups decide the gap.
    """
    train, validation = rows["train"], rows["validation"]
    groups = deciding_groups(head.metric, validation.rows, settings)
    cells = cells_of(head.metric, groups)
    found, left_out = fit_directions(train, cells, has_bias=has_bias)
    directions = (*found, constant_direction(train, has_bias=has_bias))
    return fit_on(directions, validation, settings, head, left_out)


def fit_on(
    directions: Sequence[Direction],
    validation: FeatureRows,
    settings: MetricSettings,
    head: HeadSettings,
    left_out: Sequence[GroupCell] = (),
) -> FairHead:
    """The same along given directions, the last of them the constant one: controls, too."""
    moves = moves_of(directions, validation, settings)
    none = np.zeros(len(directions))

    def staying(why: str, tried: Sequence[CrossFitted] = (), change: object = None) -> FairHead:
        found = change if isinstance(change, tuple) else None
        return FairHead(tuple(directions), none, None, tuple(tried), found, tuple(left_out), why)

    if len(directions) == 1:
        return staying("no group has enough training rows to be told from the others")
    mus = MUS if head.mu is None else (head.mu,)
    fitted = list(
        cross_fit(head.metric, moves, settings, mus, tolerance=head.tolerance, seed=head.seed)
    )
    tried = [each for each, _, _ in fitted]
    best = _chosen(tried) if head.mu is None else 1
    if not best:
        return staying(
            f"no μ keeps the accuracy of left-out validation rows within {head.tolerance:g} of "
            "the target's",
            tried,
        )
    _, predictions, parts = fitted[best]
    if is_degenerate(counted(predictions).counts.overall):
        if is_degenerate(counted(validation.rows).counts.overall):
            return staying("it predicts (nearly) always the same, and has no gap to close", tried)
        return staying("the fitted head would predict (nearly) always the same", tried)
    change = soft_gap_change(head.metric, validation.rows, parts, settings.seed)
    if not change[1] < 0:
        return staying(
            f"the {head.metric.upper()} of left-out validation rows is not smaller beyond noise "
            f"(soft rates: {change[0]:+.3f}, at most {change[1]:+.3f})",
            tried,
            change,
        )
    coefficients = fit_coefficients(head.metric, moves, settings, tried[best].mu)
    return FairHead(
        tuple(directions),
        coefficients,
        tried[best].mu,
        tuple(tried),
        change,
        tuple(left_out),
        None,
    )


def _chosen(tried: Sequence[CrossFitted]) -> int:
    """The last before the first that costs too much accuracy; 0 is the target."""
    costly = (at for at, each in enumerate(tried) if not each.acceptable)
    return next(costly, len(tried)) - 1


def require_enough(validation: Predictions) -> None:
    """Check that there are rows to fit on.

    Raises:
        MeasurementError: hardly any.
    """
    if len(validation) < FEWEST_ROWS:
        raise MeasurementError(
            "has too few validation rows to fit a head on",
            where=validation.task,
            got=len(validation),
            allowed=f"{FEWEST_ROWS} or more",
            fix="give validation a larger share of the rows",
        )
