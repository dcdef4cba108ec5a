"""How far merges lie from the reference baseline: exactly, from the Gram matrix of task vectors.

Of θ = θ₀ + Σ_g λ_g Δ_g and θ_ref = θ₀ + Δ_ref the distance is √(dᵀKd) with d = λ − e_ref, K = VᵀV
over the vectors of the groups and of the baseline: one pass over the files for any number of points
(METHODS §8: ties go to the point nearest FFT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mergekit_fair.checkpoints.geometry import displacement
from mergekit_fair.errors import FairError
from mergekit_fair.merging.methods.head_policy import HeadPolicy
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.subgroup_task_addition import addition_recipe
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.progress import Progress
from mergekit_fair.sweep.points import Planner, Point
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.selection import Nearness


@dataclass(frozen=True)
class Distances:
    """Measures points against the reference (`selection.Measure`).

    Where it cannot, Σ|λ| of what is added takes its place, and the words say why.

    Attributes:
        planner: of the sweep.
        points: all that may be asked for.
        reference: the baseline; None without one.
        progress: a bar over the bytes of the models.
    """

    planner: Planner
    points: Sequence[Point]
    reference: Point | None
    progress: Progress

    def __call__(self, tied: Sequence[PointResult]) -> Nearness:
        """One pass over the models that the tied points and the reference are made of."""
        recipes = {point.id: point.recipe for point in self.points}
        reference = self.reference
        if reference is None or reference.model is None:
            return Nearness.by_size(tied, "there is no baseline to be near to")
        steps = {}
        for point in tied:
            recipe = recipes[point.id]
            step = None if recipe is None else self._weights(recipe)
            if step is None:
                return Nearness.by_size(
                    tied, f"{point.label} is no sum of task vectors, each with one λ"
                )
            steps[point.id] = step
        heads = {_head_policy(recipes[point.id]) for point in tied}
        if len(heads) > 1:
            return Nearness.by_size(tied, "their heads are merged in different ways")
        base, own = _place(self.planner.models()[0]), _place(reference.model)
        models = sorted({own, *(model for step in steps.values() for model in step)} - {base})
        try:
            gram = self._gram(base, models, next(iter(heads)))
        except FairError as error:
            return Nearness.by_size(tied, f"the task vectors cannot be measured: {error.problem}")
        away = np.array([float(model == own) for model in models])
        return Nearness(
            {
                point: displacement(gram, np.array([step.get(m, 0.0) for m in models]) - away)
                for point, step in steps.items()
            },
            f"is the nearest to {reference.label} in weights",
        )

    def _weights(self, recipe: Recipe) -> Mapping[str, float] | None:
        """Model → what its task vector is multiplied with; None if the merge is no such sum."""
        coefficients = self.planner.coefficients(recipe)
        if coefficients.lambdas is None:
            return None
        weights = {
            _place(coefficients.start): 1.0
        }  # of the base's vector, which is 0, or a target's
        for model, value in coefficients.lambdas.items():
            weights[_place(model)] = weights.get(_place(model), 0.0) + value
        return weights

    def _gram(self, base: str, models: Sequence[str], heads: str) -> np.ndarray:
        from mergekit_fair.vectors.recipe_vectors import recipe_vectors

        vectors = {model: (f"vector {n}", 1.0) for n, model in enumerate(models)}
        raw = addition_recipe(base, vectors, None, lambda_=1.0)
        raw["parameters"]["head"] = heads
        recipe = Recipe.from_mapping(raw, "distances of the tied points")
        return recipe_vectors(recipe, self.planner.options, self.progress).geometry.gram


def _place(model: str) -> str:
    """The same text for a folder however it is written: mergekit puts `./` before some."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _head_policy(recipe: Recipe | None) -> str:
    raw = {} if recipe is None else recipe.raw
    return str(parameters_of(raw).get("head", HeadPolicy.MERGE.value))
