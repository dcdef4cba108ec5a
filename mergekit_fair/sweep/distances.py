"""How far merges lie from the reference baseline: exactly, from the Gram matrix of task vectors.

Of θ = θ₀ + Σ_g λ_g Δ_g and θ_ref = θ₀ + Δ_ref the distance is √(dᵀKd) with d = λ − e_ref, K = VᵀV
over the vectors of the groups and of the baseline: one pass over the files for any number of points
(METHODS §8: ties go to the point nearest FFT). A fair head adds h in a few tensors:
√(dᵀKd + 2⟨Vd, h⟩ + ‖h‖²), with Vd read of these tensors alone. Points that are no such sum are
composed once more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mergekit_fair.checkpoints.geometry import displacement
from mergekit_fair.checkpoints.reader import read_whole
from mergekit_fair.checkpoints.vector_folder import is_vector_folder, read_vector
from mergekit_fair.errors import FairError
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.methods.head_policy import HeadPolicy
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.subgroup_task_addition import addition_recipe
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.references import own_folder
from mergekit_fair.progress import Progress, bar
from mergekit_fair.sweep.input_models import opened
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
        steps: dict[str, Mapping[str, float]] = {}
        heads_of: dict[str, dict[str, float]] = {}
        for point in tied:
            recipe = recipes[point.id]
            step = None if recipe is None else self._weights(recipe)
            if step is not None and point.kind == "head":
                vectors = {model: value for model, value in step.items() if is_vector_folder(model)}
                heads_of[point.id] = vectors
                step = {model: value for model, value in step.items() if model not in vectors}
            if step is None:
                return self._composed(tied, reference)
            steps[point.id] = step
        others = [recipes[point.id] for point in tied if point.id not in heads_of]
        heads = {_head_policy(recipe) for recipe in others} or {HeadPolicy.MERGE.value}
        if len(heads) > 1:
            return self._composed(tied, reference)
        base, own = _place(self.planner.models()[0]), _place(reference.model)
        models = sorted({own, *(model for step in steps.values() for model in step)} - {base})
        away = np.array([float(model == own) for model in models])
        moved = {
            point: np.array([step.get(m, 0.0) for m in models]) - away
            for point, step in steps.items()
        }
        try:
            gram = self._gram(base, models, next(iter(heads)))
            distances = {point: displacement(gram, step) for point, step in moved.items()}
            for name, added in heads_of.items():
                away_by = dict(zip(models, moved[name].tolist(), strict=True))
                distances[name] = _with_head(distances[name], base, away_by, added)
        except FairError as error:
            return Nearness.by_size(tied, f"the task vectors cannot be measured: {error.problem}")
        return Nearness(distances, f"is the nearest to {reference.label} in weights")

    def _composed(self, tied: Sequence[PointResult], reference: Point) -> Nearness:
        """Of merges that are no sums: each is composed once more, and compared tensor by tensor."""
        composer, points = self.planner.composer(), {point.id: point for point in self.points}
        distances = {}
        try:
            start = dict(_weights_of(composer, reference))
            with bar(self.progress, "distances of the tied points", len(tied)) as advance:
                for one in tied:
                    squared = 0.0
                    for name, tensor in _weights_of(composer, points[one.id]):
                        if tensor.is_floating_point() and name in start:
                            moved = tensor.double() - start[name].to(tensor.device).double()
                            squared += float((moved**2).sum())
                    distances[one.id] = math.sqrt(squared)
                    advance(1)
        except FairError as error:
            return Nearness.by_size(tied, f"they cannot be measured: {error.problem}")
        return Nearness(distances, f"is the nearest to {reference.label} in weights")

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


def _weights_of(composer: Composer, point: Point) -> Iterable[tuple[str, torch.Tensor]]:
    if point.whole is not None or point.recipe is None:
        return composer.tensors(str(point.whole)).items()
    return composer.compose(point.recipe)


def _with_head(
    distance: float, base: str, step: Mapping[str, float], vectors: Mapping[str, float]
) -> float:
    """‖Vd + h‖ of ‖Vd‖, with h = Σ_c a_c v_c in the tensors that the vectors hold.

    Args:
        distance: ‖Vd‖.
        base: θ₀'s folder.
        step: model → its d.
        vectors: vector folder → its a.

    Raises:
        CheckpointError: a model that cannot be read.
    """
    head: dict[str, torch.Tensor] = {}
    for folder, weight in vectors.items():
        for name, vector in read_vector(folder).items():
            added = weight * vector.double()
            head[name] = head[name] + added if name in head else added
    squared = distance**2 + sum(float((part**2).sum()) for part in head.values())
    start = _tensors(base, base, head) if any(step.values()) else {}
    for model, value in step.items():
        if value:
            ends = _tensors(model, base, head)
            squared += (
                2
                * value
                * sum(
                    float(((ends[name] - start[name]) * part).sum()) for name, part in head.items()
                )
            )
    return math.sqrt(max(0.0, squared))


def _tensors(model: str, base: str, names: Collection[str]) -> dict[str, torch.Tensor]:
    with opened(model, base) as reader:
        return {name: read_whole(reader, name).double() for name in names}


def _place(model: str) -> str:
    """The same text for a model however it is written: mergekit puts `./` before some folders, and
    its base before an adapter."""
    return str(folder) if (folder := own_folder(model)).exists() else model


def _head_policy(recipe: Recipe | None) -> str:
    raw = {} if recipe is None else recipe.raw
    return str(parameters_of(raw).get("head", HeadPolicy.MERGE.value))
