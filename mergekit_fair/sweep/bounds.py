"""What bounds say of the points of a finished sweep, beside what was measured there.

With s = P(1) of a row, a reference θ_ref of known λ_ref, d = λ − λ_ref, K = VᵀV, on the rows that
the sweep has chosen on:

    L̂       = max over points and rows of |s_θ − s_ref| / √(dᵀKd)
    exact    = DPD(θ_ref) + 2 L̂ √(dᵀKd)
    triangle = DPD(θ_ref) + 2 L̂ Σ_g |d_g| ‖Δ_g‖         (the paper's U(λ), DPD(θ_ref) measured)
    EOD      ≤ EOD(θ_ref) + 4 √((B̂₀ + B̂₁) 2 L̂ √(dᵀKd))   (the paper's, by the exact distance)
    flips    = DPD(θ_ref) + max_{a≠b} (flip_a + flip_b),  flip_g = P(ŷ_θ ≠ ŷ_ref | g)

`flips` needs no labels and assumes nothing: on the same rows it always holds, and for EOD the same
with flips among the rows of each label. The others assume scores that are calibrated in every group
and L-Lipschitz in θ, with an L that is measured on the same rows.

Source: "On Fairness of Task Arithmetic", arXiv 2505.24262; METHODS §1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.checkpoints.geometry import Geometry, displacement, triangle_bound
from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.evaluate import Evaluation
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.sweep.checked_folder import checked_results
from mergekit_fair.sweep.disentanglement import DisentanglementError, disentanglement
from mergekit_fair.sweep.figures_again import settings_of
from mergekit_fair.sweep.measured_points import (
    AnsweredPoint,
    measured_points,
    row_weights,
    share_of,
)
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.vectors.recipe_vectors import RecipeVectors

Vector = NDArray[np.float64]

_NEAR = 0.05  # of P(1) to ½: where densities are measured
_SAME = 1e-9


@dataclass(frozen=True)
class BoundedPoint:
    """One point: how far it lies from the reference, what bounds say, what was measured.

    Attributes:
        label: of the sweep.
        lambdas: vector → λ_g.
        displacement, triangle: √(dᵀKd) and Σ_g |d_g| ‖Δ_g‖, in the weights' units.
        lipschitz: max over rows of |s_θ − s_ref| / displacement; None at the reference.
        flips: group → share of its rows whose prediction is another one than the reference's.
        dpd, eod: measured, between groups; None where undefined.
        dpd_exact, dpd_triangle, dpd_flips: upper bounds of `dpd`.
        eod_exact, eod_flips: of `eod`.
    """

    label: str
    lambdas: dict[str, float]
    displacement: float
    triangle: float
    lipschitz: float | None
    flips: dict[str, float]
    dpd: float | None
    dpd_exact: float | None
    dpd_triangle: float | None
    dpd_flips: float | None
    eod: float | None
    eod_exact: float | None
    eod_flips: float | None


@dataclass(frozen=True)
class Sensitivity:
    """Whether groups with longer task vectors answer more to λ.

    Attributes:
        norms: group → ‖Δ_g‖.
        flips_per_step: group → Σ flip_g · |d| / Σ |d|², d the displacement: flips per unit of way.
        correlation: Pearson's, over the groups; None of fewer than three, or of equal ones.
        low, high: 95 % by Fisher's z, where the groups are a sample of groups; None below four.
    """

    norms: dict[str, float]
    flips_per_step: dict[str, float]
    correlation: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SweepBounds:
    """All of it.

    Attributes:
        sweep: the folder.
        reference: label of the point θ_ref.
        is_balanced: whether every λ_g is 1 there, as the paper has it.
        lipschitz: L̂.
        densities: B̂₀, B̂₁: class-conditional densities of s around ½ at the reference.
        points: in the sweep's order.
        sensitivity: of the groups whose vectors these are.
        disentanglement: ξ of the points whose vectors were measured alone, too.
        notes: one sentence each.
    """

    sweep: str
    reference: str
    is_balanced: bool
    lipschitz: float
    densities: tuple[float, float]
    points: tuple[BoundedPoint, ...]
    sensitivity: Sensitivity
    disentanglement: tuple[DisentanglementError, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return asdict(self)


def sweep_bounds(folder: Path, recipe: Recipe, vectors: RecipeVectors) -> SweepBounds:
    """Read a finished sweep over a recipe, and put bounds beside its figures.

    Args:
        folder: of the sweep.
        recipe: resolved, that it was over.
        vectors: the recipe's.

    Raises:
        SweepError: no finished sweep, damaged or edited; over another recipe or other models;
            without the balanced point and without the base; of classes or labels.
        RecipeError: the merge is no sum of λ_g Δ_g.
    """
    results, _ = checked_results(folder)
    notes: list[str] = []
    points = measured_points(folder, results, recipe, vectors, notes)
    names, geometry = vectors.geometry.names, vectors.geometry
    reference = _reference(folder, points)
    ways = {each.point.id: each.lambdas - reference.lambdas for each in points}
    moved = [each for each in points if displacement(geometry.gram, ways[each.point.id]) > 0]
    if not moved:
        raise SweepError(
            "has one point of this recipe, and bounds are of others beside it",
            where=folder,
            fix="sweep over a grid of λ",
        )
    slopes = {
        each.point.id: float(np.abs(each.chance - reference.chance).max())
        / displacement(geometry.gram, ways[each.point.id])
        for each in moved
    }
    lipschitz = max(slopes.values())
    densities = _densities(reference)
    deciding = _deciding(reference)
    if len(deciding) < 2:
        notes.append("fewer than two groups decide: gaps and their bounds are undefined")
    found = tuple(
        _bounded(
            each,
            reference,
            geometry,
            dict(zip(names, each.lambdas.tolist(), strict=True)),
            slopes.get(each.point.id),
            lipschitz,
            sum(densities),
            deciding,
        )
        for each in points
    )
    return SweepBounds(
        str(folder),
        reference.point.label,
        bool(np.allclose(reference.lambdas, 1.0, rtol=0, atol=_SAME)),
        lipschitz,
        densities,
        found,
        _sensitivity(found, geometry),
        disentanglement(points, names),
        tuple(notes),
    )


def _reference(folder: Path, points: Sequence[AnsweredPoint]) -> AnsweredPoint:
    for value in (1.0, 0.0):  # the balanced point, or else the base
        for each in points:
            if np.allclose(each.lambdas, value, rtol=0, atol=_SAME):
                return each
    raise SweepError(
        "has measured neither the balanced point nor the base, which bounds start from",
        where=folder,
        allowed="a point whose every λ_g is 1, or 0",
        fix="put λ = 1 (of a plain sum) or λ = 0 into the grid; finished points are kept",
    )


def _deciding(reference: AnsweredPoint) -> dict[str, NDArray[np.bool_]]:
    """Groups that decide gaps → their rows."""
    rows, settings = reference.rows, settings_of(reference.point)
    return {
        name: inside
        for name, inside in rows.groups.items()
        if name not in rows.excluded and int(inside.sum()) >= settings.min_group_size
    }


def _densities(reference: AnsweredPoint) -> tuple[float, float]:
    """Of rows of label 0 and of label 1: the share within ±0.05 of ½, by the width."""
    near, labels = np.abs(reference.chance - 0.5) <= _NEAR, reference.rows.labels
    weights = row_weights(reference.rows)
    zero, one = (share_of(near, labels == label, weights) / (2 * _NEAR) for label in (0, 1))
    return (zero, one)


def _bounded(
    each: AnsweredPoint,
    reference: AnsweredPoint,
    geometry: Geometry,
    lambdas: dict[str, float],
    slope: float | None,
    lipschitz: float,
    density: float,
    deciding: Mapping[str, NDArray[np.bool_]],
) -> BoundedPoint:
    step = each.lambdas - reference.lambdas
    way, longest = displacement(geometry.gram, step), triangle_bound(geometry.gram, step)
    is_other = each.rows.predicted != reference.rows.predicted
    weights, labels = row_weights(each.rows), each.rows.labels
    flips = {name: share_of(is_other, inside, weights) for name, inside in deciding.items()}
    dpd, eod = (_gap(reference.point, name) for name in ("dpd", "eod"))
    of_label = [
        _largest_pair(
            [share_of(is_other, rows & (labels == y), weights) for rows in deciding.values()]
        )
        for y in (0, 1)
    ]
    steepest = 4 * math.sqrt(density * 2 * lipschitz * way)
    return BoundedPoint(
        label=each.point.label,
        lambdas=lambdas,
        displacement=way,
        triangle=longest,
        lipschitz=slope,
        flips=flips,
        dpd=_gap(each.point, "dpd"),
        dpd_exact=_added(dpd, 2 * lipschitz * way),
        dpd_triangle=_added(dpd, 2 * lipschitz * longest),
        dpd_flips=_added(dpd, _largest_pair(list(flips.values()))),
        eod=_gap(each.point, "eod"),
        eod_exact=_added(eod, steepest),
        eod_flips=_added(eod, max(of_label)),
    )


def _gap(point: PointResult, name: str) -> float | None:
    assert isinstance(point.evaluation, Evaluation)
    gaps = point.evaluation.between_groups
    return gaps.dpd if name == "dpd" else gaps.eod


def _largest_pair(shares: Sequence[float]) -> float:
    """max_{a≠b} (s_a + s_b), of those that are known; 0 of fewer than two."""
    known = [share for share in shares if share == share]
    return max((a + b for a, b in combinations(known, 2)), default=0.0)


def _added(gap: float | None, most: float) -> float | None:
    return None if gap is None else gap + most


def _sensitivity(points: Sequence[BoundedPoint], geometry: Geometry) -> Sensitivity:
    squares = sum(point.displacement**2 for point in points)
    groups = [name for name in geometry.names if all(name in point.flips for point in points)]
    per_step = {
        name: sum(point.flips[name] * point.displacement for point in points) / squares
        for name in groups
    }
    norms = {name: float(geometry.norms[geometry.row_of(name)]) for name in groups}
    correlation = low = high = None
    if len(groups) >= 3 and len(set(norms.values())) > 1 and len(set(per_step.values())) > 1:
        pair = np.corrcoef(list(norms.values()), list(per_step.values()))
        correlation = float(pair[0, 1])
    if correlation is not None and len(groups) >= 4 and abs(correlation) < 1:
        middle, half = math.atanh(correlation), 1.959963984540054 / math.sqrt(len(groups) - 3)
        low, high = math.tanh(middle - half), math.tanh(middle + half)
    return Sensitivity(norms, per_step, correlation, low, high)
