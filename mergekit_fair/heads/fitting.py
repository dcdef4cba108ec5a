"""Coefficients of a fair head: fitted on validation rows, and μ by cross-fitting inside them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.soft_objective import (
    LABELS_OF_RATES,
    RIDGE,
    SOFTNESS,
    SoftObjective,
    counting,
    rate_rows,
    rates_of,
)
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.heads.last_layer import Array

# What `mu: auto` chooses among.
MUS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
FOLDS, SPLITS = 5, 5
# Clusters that it takes to put folds together from them.
FEWEST = 10
# One-sided confidence with which a head has to make the gap of left-out rows smaller. What may be
# claimed is decided by report rows: this one only keeps a head where its directions do nothing. A
# head that is fitted on half of the rows adds noise to the many rates of EOD, so that its test errs
# far less than it says; with these numbers both err in at most 2 % (benchmarks/head_gate.py).
SURE = {"dpd": 0.95, "eod": 0.8}
_DRAWS = 400
_CHUNK = 4_000_000  # numbers of one block of draws


@dataclass(frozen=True, eq=False)
class Moves:
    """Rows, what each direction adds to their scores, and who decides the gaps.

    Attributes:
        rows: n, with the target's scores s.
        moves: u (K, n), the last of them the constant direction's.
        inside: gap → `rate_rows`. A part of the rows keeps the groups that decide on all of them.
    """

    rows: Predictions
    moves: Array
    inside: Mapping[str, tuple[Array, ...]]

    @classmethod
    def of(cls, rows: Predictions, moves: Array, settings: MetricSettings) -> Moves:
        """With the groups that decide on these rows."""
        inside = {gap: rate_rows(gap, rows, settings) for gap in LABELS_OF_RATES}
        return cls(rows, moves, inside)

    def take(self, chosen: NDArray[np.bool_]) -> Moves:
        """Some of the rows, bool (n,)."""
        inside = {
            gap: tuple(each[:, chosen] for each in rates) for gap, rates in self.inside.items()
        }
        return Moves(self.rows.take(chosen), self.moves[:, chosen], inside)

    def scores(self, coefficients: Array) -> Array:
        """z = s + Σ_k a_k u_k: (n,)."""
        return np.asarray(self.rows.scores + coefficients @ self.moves, dtype=np.float64)

    def moved(self, coefficients: Array) -> Predictions:
        """What is predicted by these scores."""
        return self.rows.with_scores(self.scores(coefficients))

    def gap(self, name: str, chances: Array) -> float:
        """max − min over groups of the rates of chances (n,), the larger of a gap's rates; NaN
        where fewer than two groups have rows.
        """
        rates = [rates_of(each[each.any(axis=1)], chances) for each in self.inside[name]]
        known = [each for each in rates if len(each) > 1]
        return float(max(np.ptp(each) for each in known)) if known else float("nan")


def fit_coefficients(
    gap: str, validation: Moves, settings: MetricSettings, mu: float
) -> NDArray[np.float64]:
    """a (K,): the minimum of `SoftObjective`, then the level set on hard predictions.

    The constant direction has no ridge. Its coefficient is set anew so that as many rows are
    selected as the target selects: a level that moved would be a gain for nothing.
    """
    ridge = np.full(len(validation.moves), RIDGE)
    ridge[-1] = 0.0
    objective = SoftObjective.of(
        gap,
        validation.rows,
        settings,
        validation.moves,
        apart=mu,
        ridge=ridge,
        inside=validation.inside[gap],
    )
    return at_level(validation, objective.minimum())


def at_level(validation: Moves, coefficients: Array) -> Array:
    """With the coefficient of the constant direction that selects as many rows as the target.

    A target that selects nobody or everybody leaves it as it is. Of a direction that is not
    constant several coefficients may do: the nearest to what it is.
    """
    rows = validation.rows
    used = counting(rows)
    steps = validation.moves[-1][used]
    rest = validation.scores(np.append(coefficients[:-1], 0.0))[used]
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    weights = weights[used]
    wanted = float(weights @ (rows.predicted[used] == 1))
    turns = steps != 0
    if not 0 < wanted < weights.sum() or not turns.any():
        return coefficients
    # At its turning point a row begins to be selected, or ends, where the direction is negative.
    turning = -rest[turns] / steps[turns]
    order = np.argsort(turning, kind="stable")
    begin = weights @ np.where(turns, steps < 0, rest > 0)
    reached = begin + np.cumsum((np.sign(steps[turns]) * weights[turns])[order])
    places = turning[order]
    between = np.flatnonzero(np.diff(places) > 0)
    if not len(between):
        return coefficients
    away = np.abs(reached[between] - wanted)
    nearest = between[away <= away.min() + 1e-9 * wanted]
    middle = (places[nearest] + places[nearest + 1]) / 2
    return np.append(coefficients[:-1], middle[np.abs(middle - coefficients[-1]).argmin()])


@dataclass(frozen=True)
class CrossFitted:
    """What a μ gives on validation rows that its coefficients have not seen.

    Gaps are those of one half by coefficients of the other, in the mean: of rows that are put
    together from folds, each group's luck in one fold is made up for by the others' coefficients,
    and a gap would look smaller than it is.

    Attributes:
        mu: it; 0 is the target itself.
        acc, selection_rate: of all rows, by the other folds' coefficients.
        dpd, eod: of halves.
        acceptable: accuracy is within the tolerance of the target's.
    """

    mu: float
    acc: float
    dpd: float
    eod: float
    selection_rate: float
    acceptable: bool


def folds(
    rows: Predictions, seed: int, count: int = FOLDS
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """(fitted, left out), bool (n,) each, in proportion by groups and label; clusters stay
    together.

    Raises:
        MeasurementError: there are too few clusters.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    members = np.stack([rows.labels == 1, *rows.groups.values()], axis=1)
    strata, sizes = np.unique(members, axis=0, return_inverse=True, return_counts=True)[1:]
    strata = np.where(sizes[strata] < count, -1, strata).reshape(-1)  # the rare ones are one
    options = {"n_splits": count, "shuffle": True, "random_state": seed % 2**32}
    if rows.clusters is not None and (found_clusters := len(np.unique(rows.clusters))) < FEWEST:
        raise MeasurementError(
            "has too few clusters among its validation rows for a fit on some and a look at others",
            where=rows.task,
            got=found_clusters,
            allowed=f"{FEWEST} or more",
            fix="give validation a larger share, or leave the cluster out if rows stand for "
            "themselves",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rare strata that are few together
        if rows.clusters is None:
            parts = list(StratifiedKFold(**options).split(strata, strata))
        else:
            parts = list(StratifiedGroupKFold(**options).split(strata, strata, rows.clusters))
    found = []
    for _, left_out in parts:
        mask = np.zeros(len(rows), dtype=np.bool_)
        mask[left_out] = True
        found.append((~mask, mask))
    return found


def cross_fitted(
    gap: str, validation: Moves, settings: MetricSettings, mu: float, seed: int
) -> Predictions:
    """Predictions for every validation row by coefficients of the folds that it is not in."""
    scores = np.full(len(validation.rows), np.nan)
    for fitted, left_out in folds(validation.rows, seed):
        coefficients = fit_coefficients(gap, validation.take(fitted), settings, mu)
        scores[left_out] = validation.take(left_out).scores(coefficients)
    return validation.rows.with_scores(scores)


@dataclass(frozen=True, eq=False)
class Half:
    """Rows that were left out, as the target and as the other half's coefficients score them.

    Attributes:
        left_out: bool (n,), which of all validation rows these are.
        moves: of them.
        moved: what is predicted for them.
    """

    left_out: NDArray[np.bool_]
    moves: Moves
    moved: Predictions


def halves(
    gap: str, validation: Moves, settings: MetricSettings, mu: float, seed: int
) -> list[Half]:
    """Each half by coefficients of the other, of `SPLITS` random splits; μ = 0: by the target."""
    found = []
    for split in range(SPLITS):
        for fitted, left_out in folds(validation.rows, seed + split, 2):
            part = validation.take(left_out)
            moved = part.rows
            if mu:
                other = validation.take(fitted)
                moved = part.moved(fit_coefficients(gap, other, settings, mu))
            found.append(Half(left_out, part, moved))
    return found


def cross_fit(
    gap: str,
    validation: Moves,
    settings: MetricSettings,
    mus: Sequence[float],
    *,
    tolerance: float,
    seed: int,
) -> Iterator[tuple[CrossFitted, Predictions, list[Half]]]:
    """What each μ gives, after what the target does (μ = 0): cross-fitted predictions, halves."""
    own = _accuracy(validation.rows)
    nobody = halves(gap, validation, settings, 0.0, seed)
    yield _figures(0.0, validation.rows, nobody, acceptable=True), validation.rows, nobody
    for mu in mus:
        predictions = cross_fitted(gap, validation, settings, mu, seed)
        parts = halves(gap, validation, settings, mu, seed)
        is_near = _accuracy(predictions) >= own - tolerance
        yield _figures(mu, predictions, parts, acceptable=is_near), predictions, parts


def _figures(
    mu: float, predictions: Predictions, parts: Sequence[Half], *, acceptable: bool
) -> CrossFitted:
    gaps = {}
    for name in LABELS_OF_RATES:
        known = np.array([half.moves.gap(name, _hard(half.moved)) for half in parts])
        known = known[~np.isnan(known)]
        gaps[name] = float(known.mean()) if len(known) else float("nan")
    return CrossFitted(
        mu=mu,
        acc=_accuracy(predictions),
        **gaps,
        selection_rate=predictions.selection_rate,
        acceptable=acceptable,
    )


def _hard(rows: Predictions) -> Array:
    return np.asarray(rows.predicted == 1, dtype=np.float64)


def _accuracy(rows: Predictions) -> float:
    """The share of right predictions among the answered rows' weight."""
    used = counting(rows)
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    return float(np.average(rows.predicted[used] == rows.labels[used], weights=weights[used]))


def soft_gap_change(
    gap: str, rows: Predictions, parts: Sequence[Half], seed: int
) -> tuple[float, float]:
    """The change of the soft gap of left-out halves, and its upper limit, `SURE` of the time.

    max − min of soft rates p = σ(z/τ) over groups, the larger of the gap's rates, in the mean of
    all halves; rows, or clusters, are drawn again with Poisson weights. Soft rates vary less than
    hard ones: a small set of rows can tell whether the directions do anything.

    Args:
        gap: `dpd` or `eod`.
        rows: all of them, with the target's scores.
        parts: from `halves`.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    units = np.arange(len(rows))
    if rows.clusters is not None:
        units = np.unique(rows.clusters, return_inverse=True)[1].reshape(-1)
    scale = float(rows.scores[counting(rows)].std()) or 1.0
    chances = [_chances(half, scale) for half in parts]
    change = np.mean(
        [_of_half(gap, half, each)[0] for half, each in zip(parts, chances, strict=True)]
    )
    step, drawn = max(1, _CHUNK // len(rows)), []
    for begin in range(0, _DRAWS, step):
        times = rng.poisson(1.0, (min(step, _DRAWS - begin), int(units.max()) + 1))[:, units]
        of_halves = [
            _of_half(gap, half, each, times[:, half.left_out])
            for half, each in zip(parts, chances, strict=True)
        ]
        drawn.append(np.mean(of_halves, axis=0))
    return float(change), float(np.quantile(np.concatenate(drawn), SURE[gap]))


def _chances(half: Half, scale: float) -> Array:
    """Soft decisions (n, 2) of the target and of the moved scores; 0 without an answer."""
    target = half.moves.rows
    used = counting(target)
    chances = np.zeros((len(target), 2))
    for column, rows in enumerate((target, half.moved)):
        chances[used, column] = expit(rows.scores[used] / scale / SOFTNESS)
    return chances


def _of_half(gap: str, half: Half, chances: Array, times: NDArray[np.int64] | None = None) -> Array:
    """The moved gap minus the target's (B,) of rows drawn `times` (B, n), or once: (1,)."""
    times = np.ones((1, len(chances)), dtype=np.int64) if times is None else times
    gaps = []
    for each in half.moves.inside[gap]:
        whole = (times @ each.T)[..., np.newaxis]  # (B, H, 1)
        sums = np.stack([times @ (each * chance).T for chance in chances.T], axis=-1)
        present = np.broadcast_to(whole > 0, sums.shape)  # a group without rows has no rate
        rates = sums / np.where(present, whole, 1.0)
        highest = rates.max(axis=1, initial=-np.inf, where=present)
        apart = highest - rates.min(axis=1, initial=np.inf, where=present)
        gaps.append(np.where(present.sum(axis=1) > 1, apart, 0.0))
    larger = np.max(gaps, axis=0)
    return np.asarray(larger[:, 1] - larger[:, 0])
