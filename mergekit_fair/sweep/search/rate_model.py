"""Modelled rates: from the history to a drawn landscape, whose metrics are composed from rates.

Every group's selection rate, TPR and FPR is a quadratic polynomial in λ on the logit scale,

    logit r(λ) ≈ β₀ + Σ_g β_g u_g + Σ_{g≤h} β_gh u_g u_h,        u = λ scaled to [−1, 1]

fitted by weighted ridge least squares to the empirical logit z = ln((k + ½) / (m − k + ½)) of k
successes in m rows, with weights 1 / (1/(k + ½) + 1/(m − k + ½)), the binomial information.
Source: MAP (arXiv 2406.07529) for quadratics in λ; Cox 1970 for the empirical logit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.fairness.rates import RARE, Mask, max_min_gap, smallest
from mergekit_fair.sweep.limits import Array
from mergekit_fair.sweep.search.proposers import Block, Coordinates, Observation, Space
from mergekit_fair.sweep.selection import Rule

# What can be composed from selection rates, TPR and FPR.
COMPOSED = (
    *("acc", "bal_acc", "worst_group_acc", "selection_rate", "tpr", "fpr"),
    *("dpd", "eod", "equal_opportunity"),
)
_RATES = ("selection_rate", "tpr", "fpr")
# Prior standard deviations, in logits over half a range: λ may move a rate through its whole
# range; curvature is smaller than slope until the data say otherwise.
_INTERCEPT, _SLOPE, _CURVATURE = 10.0, 4.0, 2.0
# How much a slope may differ from what all vectors have in common.
_OWN = 2.0
# The dispersion's prior: 1 (binomial), worth this many residuals.
_PRIOR_RESIDUALS = 2.0
# The dispersion and the coefficients need each other; this many turns settle both.
_TURNS = 4


@dataclass(frozen=True, eq=False)
class Polynomial:
    """Gaussian posterior of a polynomial's coefficients.

    Attributes:
        mean: (P,).
        root: (P, P), lower triangular Cholesky factor of the precision.
        dispersion: of the residuals, in binomial variances. Points are measured on the same
            rows, so it may well be below 1.
    """

    mean: Array
    root: Array
    dispersion: float

    def draw(self, rng: np.random.Generator) -> Array:
        """One sample of the coefficients (P,)."""
        noise = rng.standard_normal(len(self.mean))
        return np.asarray(self.mean + np.linalg.solve(self.root.T, noise))


def terms(points: Array, observations: int) -> Array:
    """The polynomial's terms, as many as the observations can tell apart.

    A full quadratic with at least as many observations as it has coefficients, else one without
    products with at least 2G + 1, else a linear one.

    Args:
        points: (n, G), scaled to [−1, 1].
        observations: number of points that the fit rests on.

    Returns:
        (n, P) with P = 1 + G + G(G + 1)/2, 1 + 2G or 1 + G.
    """
    count, dimensions = points.shape
    parts = [np.ones((count, 1)), points]
    if observations >= 1 + 2 * dimensions:
        parts.append(points**2)
    if observations >= 1 + dimensions + dimensions * (dimensions + 1) // 2:
        first, second = np.triu_indices(dimensions, k=1)
        parts.append(points[:, first] * points[:, second])
    return np.concatenate(parts, axis=1)


def fit(design: Array, space: Space, rates: Array, rows: Array) -> Polynomial:
    """Weighted ridge fit with its posterior.

    scikit-learn's BayesianRidge cannot give it: its coefficients share one prior precision, which
    it estimates from the few points there are; here slopes and curvatures have fixed priors of
    their own, and rows their binomial weights.

    Args:
        design: (n, P) from `terms`, n ≥ 1.
        space: of the points, for the prior.
        rates: (n,), in [0, 1], all defined.
        rows: (n,), rows that each rate is a share of, > 0.
    """
    hits = rates * rows + 0.5
    misses = (1 - rates) * rows + 0.5
    logits, weights = np.log(hits / misses), 1 / (1 / hits + 1 / misses)
    ridge = np.linalg.inv(_prior(design.shape[1], space))
    information = (design.T * weights) @ design
    dispersion = 1.0
    for _ in range(_TURNS):
        precision = information / dispersion + ridge
        mean = np.linalg.solve(precision, design.T @ (weights * logits) / dispersion)
        squares = float((weights * (logits - design @ mean) ** 2).sum())
        used = float(np.trace(np.linalg.solve(precision, information / dispersion)))
        free = max(len(rates) - used, 0.0)
        dispersion = (_PRIOR_RESIDUALS + squares) / (_PRIOR_RESIDUALS + free)
    precision = information / dispersion + ridge
    mean = np.linalg.solve(precision, design.T @ (weights * logits) / dispersion)
    root = np.linalg.cholesky(precision)
    return Polynomial(mean.astype(np.float64), root.astype(np.float64), dispersion)


def _prior(count: int, space: Space) -> NDArray[np.float64]:
    """Covariance (P, P) of the coefficients before anything is seen.

    Vectors of one task have much in common: what a rate does along one of them says what it does
    along the others, as far as they are added.
    """
    dimensions = space.dimensions
    deviations = np.full(count, _CURVATURE)
    deviations[0] = _INTERCEPT
    deviations[1 : 1 + dimensions] = _SLOPE
    covariance = np.diag(deviations**2)
    if space.size is not None:
        reach = np.asarray(space.size) * (np.asarray(space.high) - np.asarray(space.low)) / 2
        slopes = slice(1, 1 + dimensions)
        covariance[slopes, slopes] = np.diag((_OWN * reach) ** 2)
        covariance[slopes, slopes] += _SLOPE**2 * np.outer(reach, reach)
    return covariance


def check_composed(rule: Rule) -> None:
    """Raise ConfigError unless every metric of the rule can be composed from rates."""
    for name in {**dict.fromkeys(rule.objectives), **dict.fromkeys(rule.metrics)}:
        if name not in COMPOSED:
            raise ConfigError(
                "is no metric that group rates compose",
                where="surrogate search",
                got=name,
                allowed=COMPOSED,
                fix="use another proposer for it",
            )


@dataclass(frozen=True)
class GroupLayout:
    """How groups lie in the rows.

    Attributes:
        deciding: groups that may decide a gap or worst-group accuracy; None: all.
        least: rows that a rate which decides is at least a share of.
        is_partition: every row is in exactly one group.
    """

    deciding: tuple[str, ...] | None = None
    least: int = 1
    is_partition: bool = False


@dataclass(frozen=True, eq=False)
class Lines:
    """What rates are of: the groups, and all rows where groups do not partition them.

    Attributes:
        groups: which of them decide, and whether every row is in exactly one.
        names: the L = G (+ 1) lines: groups, then None for all rows.
        rows: (L, 3), what selection rate, TPR and FPR are shares of: n, n_pos, n − n_pos.
    """

    groups: GroupLayout
    names: tuple[str | None, ...]
    rows: Array

    @classmethod
    def of(cls, groups: GroupLayout, blocks: Mapping[str, Block], overall: Block) -> Lines:
        """Of the groups' blocks and that of all rows."""
        rest: Mapping[str | None, Block] = {} if groups.is_partition else {None: overall}
        found = [*blocks.values(), *rest.values()]
        return cls(groups, (*blocks, *rest), np.array([_rows(block) for block in found]))


@dataclass(frozen=True, eq=False)
class RateModel:
    """Polynomials of every group's rates, and of all rows' where groups do not partition them.

    Attributes:
        space, rule: as given.
        lines: what the rates are of.
        observations: number of points fitted, which decides the polynomials' terms.
        fits: one per line and rate; None where the rate is undefined at every point.
    """

    space: Space
    rule: Rule
    lines: Lines
    observations: int
    fits: tuple[tuple[Polynomial | None, ...], ...]

    @classmethod
    def of(
        cls, space: Space, rule: Rule, groups: GroupLayout, history: Sequence[Observation]
    ) -> RateModel | None:
        """Fit; None when no point could be measured. Degenerate points have rates, and count.

        Raises:
            SweepError: groups overlap or leave rows out, and an observation has no overall rates.
        """
        measured = [seen for seen in history if seen.groups]
        if not measured:
            return None
        if not groups.is_partition and not all(seen.overall for seen in measured):
            raise SweepError(
                "the rates over all rows are needed where groups do not partition them",
                where="surrogate search",
            )
        lines = Lines.of(groups, measured[0].groups, measured[0].overall)
        blocks = [[_block(seen, line) for seen in measured] for line in lines.names]
        points = space.scaled([seen.x for seen in measured])
        fits = tuple(
            tuple(
                _fitted(space, points, line, rate, rows) for rate, rows in enumerate(_rows(line[0]))
            )
            for line in blocks
        )
        return cls(space, rule, lines, len(measured), fits)

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

    model: RateModel
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
        `mergekit_fair.fairness.rates.is_degenerate`) or a metric undefined.
        """
        rates = self.rates(points)
        metrics = composed(rates, self.model.lines)
        objectives = self.model.rule.to_minimise(metrics)
        violation = self.model.rule.violation(metrics)
        unusable = _degenerate(metrics["selection_rate"], self.model.lines)
        unusable |= np.isnan(violation) | ~np.isfinite(objectives).all(axis=-1)
        return objectives, np.where(unusable, np.inf, violation)


def composed(rates: Array, lines: Lines) -> dict[str, Array]:
    """Metrics of rates (n, L, 3): name -> (n,).

    acc = (n_pos · TPR + n_neg · (1 − FPR)) / n, summed over groups that partition the rows;
    gaps are max − min over the deciding groups, EOD the larger of TPR's and FPR's.
    """
    rows, deciding = lines.rows, _deciding(lines)
    hits = np.stack([rates[..., 1], 1 - rates[..., 2]], axis=-1)
    correct = np.where(rows[:, 1:] > 0, hits, 0.0) * rows[:, 1:]
    overall, total = _overall(rates, rows, lines.groups.is_partition)
    right = correct.sum(axis=-1)
    accuracy = np.divide(right, rows[:, 0], out=np.full(right.shape, np.nan), where=rows[:, 0] > 0)
    gaps = max_min_gap(np.swapaxes(np.where(deciding, rates, np.nan), -1, -2))
    of_all = right.sum(axis=-1) if lines.groups.is_partition else right[..., -1]
    return {
        "acc": of_all / total,
        "bal_acc": (overall[..., 1] + 1 - overall[..., 2]) / 2,
        "worst_group_acc": smallest(np.where(deciding[:, 0], accuracy, np.nan)),
        "selection_rate": overall[..., 0],
        "tpr": overall[..., 1],
        "fpr": overall[..., 2],
        "dpd": gaps[..., 0],
        "eod": gaps[..., 1:].max(axis=-1),
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


def _degenerate(selection_rate: Array, lines: Lines) -> Mask:
    rows = lines.rows.sum(axis=0) if lines.groups.is_partition else lines.rows[-1]
    rare = min(rows[1], rows[2]) / rows[0]
    return np.asarray(np.minimum(selection_rate, 1 - selection_rate) < RARE * rare)


def _deciding(lines: Lines) -> Mask:
    """(L, 3): whose rate takes part in a gap."""
    names = lines.groups.deciding
    may = [line is not None and (names is None or line in names) for line in lines.names]
    return np.array(may)[:, np.newaxis] & (lines.rows >= lines.groups.least)


def _block(seen: Observation, line: str | None) -> Block:
    return seen.overall if line is None else seen.groups[line]


def _rows(block: Mapping[str, float | None]) -> tuple[float, float, float]:
    count, positive = block["n"] or 0.0, block["n_pos"] or 0.0
    return float(count), float(positive), float(count - positive)


def _fitted(
    space: Space, points: Array, line: Sequence[Block], rate: int, rows: float
) -> Polynomial | None:
    values = [block[_RATES[rate]] for block in line]
    usable = np.array([value is not None for value in values])
    if not usable.any() or rows <= 0:
        return None
    known = np.array([value for value in values if value is not None])
    design = terms(points, len(points))[usable]
    return fit(design, space, known, np.full(len(known), rows))
