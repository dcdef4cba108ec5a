"""From the history to a drawn landscape: metrics composed from modelled rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.fairness.rates import RARE, Mask, largest, max_min_gap, smallest
from mergekit_fair.sweep.search.observation import Block, Goal, Observation
from mergekit_fair.sweep.search.rate_polynomials import Polynomial, expit, fit, terms
from mergekit_fair.sweep.search.space import Array, Coordinates, Space

# What can be composed from selection rates, TPR and FPR.
COMPOSED = (
    *("acc", "bal_acc", "worst_group_acc", "selection_rate", "tpr", "fpr"),
    *("dpd", "eod", "equal_opportunity"),
)
_RATES = ("selection_rate", "tpr", "fpr")


def check_composed(goal: Goal) -> None:
    """Raise ConfigError unless every metric of the goal can be composed from rates."""
    for name in goal.metrics:
        if name not in COMPOSED:
            raise ConfigError(
                "is no metric that group rates compose",
                where="surrogate search",
                got=name,
                allowed=COMPOSED,
                fix="use another proposer for it",
            )


@dataclass(frozen=True, eq=False)
class Model:
    """Polynomials of every group's rates, and of all rows' where groups do not partition them.

    Attributes:
        space, goal: as given.
        observations: number of points fitted, which decides the polynomials' terms.
        lines: the L = G (+ 1) lines: groups, then all rows.
        rows: (L, 3), what selection rate, TPR and FPR are shares of: n, n_pos, n − n_pos.
        fits: one per line and rate; None where the rate is undefined at every point.
    """

    space: Space
    goal: Goal
    observations: int
    lines: tuple[str | None, ...]
    rows: Array
    fits: tuple[tuple[Polynomial | None, ...], ...]

    @classmethod
    def of(cls, space: Space, goal: Goal, history: Sequence[Observation]) -> Model | None:
        """Fit; None when no point could be measured. Degenerate points have rates, and count.

        Raises:
            SweepError: groups overlap or leave rows out, and an observation has no overall rates.
        """
        measured = [seen for seen in history if seen.groups]
        if not measured:
            return None
        if not goal.partition and not all(seen.overall for seen in measured):
            raise SweepError(
                "the rates over all rows are needed where groups do not partition them",
                where="surrogate search",
            )
        lines = (*measured[0].groups, *(() if goal.partition else (None,)))
        blocks = [[_block(seen, line) for seen in measured] for line in lines]
        points = space.scaled([seen.x for seen in measured])
        fits = tuple(
            tuple(_fitted(points, line, rate, rows) for rate, rows in enumerate(_rows(line[0])))
            for line in blocks
        )
        rows = np.array([_rows(line[0]) for line in blocks])
        return cls(space, goal, len(measured), lines, rows, fits)

    def draw(self, rng: np.random.Generator) -> Landscape:
        """One sample of every coefficient: a landscape that could be the true one."""
        coefficients = tuple(
            tuple(None if found is None else found.draw(rng) for found in line)
            for line in self.fits
        )
        return Landscape(self, coefficients)

    def mean(self) -> Landscape:
        """The landscape at the coefficients' posterior mean."""
        return Landscape(
            self,
            tuple(
                tuple(None if found is None else found.mean for found in line) for line in self.fits
            ),
        )


@dataclass(frozen=True, eq=False)
class Landscape:
    """A model with its coefficients fixed."""

    model: Model
    coefficients: tuple[tuple[Array | None, ...], ...]

    def rates(self, points: Sequence[Coordinates]) -> Array:
        """Selection rate, TPR and FPR: n points -> (n, L, 3), NaN where undefined."""
        design = terms(self.model.space.scaled(points), self.model.observations)
        undefined = np.full(len(design), np.nan)
        return np.stack(
            [
                np.stack(
                    [undefined if beta is None else expit(design @ beta) for beta in line], axis=-1
                )
                for line in self.coefficients
            ],
            axis=1,
        )

    def predict(self, points: Sequence[Coordinates]) -> tuple[Array, Array]:
        """Objectives (n, k) and total violations (n,).

        The violation is infinite where predictions would be degenerate (as
        :func:`mergekit_fair.fairness.rates.is_degenerate`) or a metric undefined.
        """
        rates = self.rates(points)
        metrics = composed(rates, self.model)
        objectives = self.model.goal.to_minimise(metrics)
        violation = self.model.goal.violation(metrics, objectives[..., 0])
        unusable = _degenerate(metrics["selection_rate"], self.model)
        unusable |= np.isnan(violation) | ~np.isfinite(objectives).all(axis=-1)
        return objectives, np.where(unusable, np.inf, violation)


def composed(rates: Array, model: Model) -> dict[str, Array]:
    """Metrics of rates (n, L, 3): name -> (n,).

    acc = (n_pos · TPR + n_neg · (1 − FPR)) / n, summed over groups that partition the rows;
    gaps are max − min over the deciding groups, EOD the larger of TPR's and FPR's.
    """
    rows, deciding = model.rows, _deciding(model)
    hits = np.stack([rates[..., 1], 1 - rates[..., 2]], axis=-1)
    correct = np.where(rows[:, 1:] > 0, hits, 0.0) * rows[:, 1:]
    overall, total = _overall(rates, rows, model.goal.partition)
    right = correct.sum(axis=-1)
    accuracy = np.divide(right, rows[:, 0], out=np.full(right.shape, np.nan), where=rows[:, 0] > 0)
    gaps = max_min_gap(np.swapaxes(np.where(deciding[:, np.newaxis], rates, np.nan), -1, -2))
    of_all = right.sum(axis=-1) if model.goal.partition else right[..., -1]
    return {
        "acc": of_all / total,
        "bal_acc": (overall[..., 1] + 1 - overall[..., 2]) / 2,
        "worst_group_acc": smallest(np.where(deciding, accuracy, np.nan)),
        "selection_rate": overall[..., 0],
        "tpr": overall[..., 1],
        "fpr": overall[..., 2],
        "dpd": gaps[..., 0],
        "eod": largest(gaps[..., 1:]),
        "equal_opportunity": gaps[..., 1],
    }


def _overall(rates: Array, rows: Array, partition: bool) -> tuple[Array, float]:
    """Rates over all rows (n, 3), and how many rows those are."""
    if not partition:
        return rates[:, -1], float(rows[-1, 0])
    selected = np.where(rows > 0, rates, 0.0) * rows
    total = rows.sum(axis=0)
    shares = np.divide(
        selected.sum(axis=1), total, out=np.full((len(rates), 3), np.nan), where=total > 0
    )
    return shares, float(total[0])


def _degenerate(selection_rate: Array, model: Model) -> Mask:
    rows = model.rows.sum(axis=0) if model.goal.partition else model.rows[-1]
    rare = min(rows[1], rows[2]) / rows[0]
    return np.asarray(np.minimum(selection_rate, 1 - selection_rate) < RARE * rare)


def _deciding(model: Model) -> Mask:
    names = model.goal.deciding
    return np.array([line is not None and (names is None or line in names) for line in model.lines])


def _block(seen: Observation, line: str | None) -> Block:
    return seen.overall if line is None else seen.groups[line]


def _rows(block: Mapping[str, float | None]) -> tuple[float, float, float]:
    count, positive = block["n"] or 0.0, block["n_pos"] or 0.0
    return float(count), float(positive), float(count - positive)


def _fitted(points: Array, line: Sequence[Block], rate: int, rows: float) -> Polynomial | None:
    values = [block[_RATES[rate]] for block in line]
    usable = np.array([value is not None for value in values])
    if not usable.any() or rows <= 0:
        return None
    known = np.array([value for value in values if value is not None])
    design = terms(points, len(points))[usable]
    return fit(design, points.shape[1], known, np.full(len(known), rows))
