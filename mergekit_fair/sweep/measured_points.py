"""The points of a finished sweep over a recipe: their λ_g, and what they say of every row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.checkpoints.fingerprint import model_fingerprint
from mergekit_fair.errors import RecipeError, SweepError
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.merging.measured_inputs import point_id
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_coefficients import recipe_coefficients
from mergekit_fair.merging.references import own_folder, with_models
from mergekit_fair.sweep.figures_again import answered
from mergekit_fair.sweep.points import listed_models
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.store import read_rows, read_scores
from mergekit_fair.vectors.recipe_vectors import RecipeVectors

Vector = NDArray[np.float64]

_SUMS = ("merge", "search")  # kinds of points that are the recipe with other numbers


@dataclass(frozen=True, eq=False)
class AnsweredPoint:
    """A point of a sweep.

    Attributes:
        point: as it was recorded.
        lambdas: λ_g in the order of the geometry, (T,).
        rows: what it says of every row that was chosen on.
    """

    point: PointResult
    lambdas: Vector
    rows: Predictions

    @property
    def chance(self) -> Vector:
        """s = P(1), (n,)."""
        gaps = self.rows.logit_gaps
        assert gaps is not None
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(gaps, -700, 700))))


def measured_points(
    folder: Path,
    results: SweepResults,
    recipe: Recipe,
    vectors: RecipeVectors,
    notes: list[str],
) -> list[AnsweredPoint]:
    """The points that are the recipe with other numbers, in the sweep's order.

    Args:
        folder: of the sweep.
        results: of it, checked.
        recipe: resolved, that it was over.
        vectors: the recipe's.
        notes: gets a sentence on each point that is left out.

    Raises:
        SweepError: over another recipe or other models; of classes or labels.
        RecipeError: the merge is no sum of λ_g Δ_g.
    """
    known = _names(results, recipe)
    found = []
    for point in results.points:
        if point.kind not in _SUMS or point.evaluation is None:
            continue
        at = _at(recipe, point)
        raw = with_models(at.raw, lambda model, _: known.get(model, model))
        inputs = {name: results.inputs.get(name, "") for name in known.values()}
        if point.id != point_id(point.kind, raw, inputs, str(results.measuring)):
            raise SweepError(
                "was measured with another recipe, or with models that have changed since",
                where=f"{folder}: {point.label}",
                got=recipe.where,
                fix="give the recipe that the sweep file names",
            )
        lambdas = _lambdas(at, vectors)
        rows = read_rows(folder, point)
        task = point.evaluation.task
        of_task = answered(rows, read_scores(folder, point), list(point.evaluations))[task]
        if not isinstance(of_task, Predictions) or of_task.logit_gaps is None:
            raise SweepError(
                "this is of tasks that are answered by no or yes", where=folder, got=task
            )
        if (of_task.predicted == UNANSWERED).any():
            notes.append(f"{point.label} is left out: it has not answered every row")
            continue
        found.append(AnsweredPoint(point, lambdas, of_task))
    return found


def _names(results: SweepResults, recipe: Recipe) -> dict[str, str]:
    """Model of the recipe → what the sweep called it, by its content: folders may have moved."""
    recorded, found = {digest: name for name, digest in results.inputs.items()}, {}
    for model in listed_models(recipe):
        digest = model_fingerprint(own_folder(model)).digest
        is_same = results.inputs.get(model) == digest
        found[model] = model if is_same else recorded.get(digest, model)
    return found


def _at(recipe: Recipe, point: PointResult) -> Recipe:
    try:
        return recipe.with_settings(point.settings)
    except RecipeError as error:
        raise SweepError(
            f"was measured with another recipe: this one has no such numbers ({error.problem})",
            where=point.label,
            got=point.settings,
            fix="give the recipe that the sweep file names",
        ) from error


def _lambdas(recipe: Recipe, vectors: RecipeVectors) -> Vector:
    """λ_g in the order of the geometry."""
    coefficients = recipe_coefficients(recipe)
    if coefficients.lambdas is None:
        raise RecipeError(
            "is no sum of whole task vectors with one number each",
            where=recipe.where,
            got=recipe.method,
        )
    by_model = dict(coefficients.lambdas)
    if coefficients.start in vectors.models:
        by_model[coefficients.start] = 1.0 + by_model.get(coefficients.start, 0.0)
    return np.array([by_model.get(model, 0.0) for model in vectors.models])


def row_weights(rows: Predictions) -> Vector:
    """Of every row, (n,); 1 where none are given."""
    return np.ones(len(rows)) if rows.weights is None else rows.weights


def share_of(which: NDArray[np.bool_], among: NDArray[np.bool_], weights: Vector) -> float:
    """Of the weight of some rows; NaN of none."""
    whole = float(weights[among].sum())
    return float(weights[which & among].sum()) / whole if whole else math.nan
