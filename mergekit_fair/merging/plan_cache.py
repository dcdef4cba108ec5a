"""Plans that recipes share: those of one family differ in numbers alone."""

from __future__ import annotations

from typing import Any

from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.program import MergeProgram
from mergekit_fair.merging.recipe import Recipe, family


class PlanCache:
    """Plans by family: the points of a sweep that differ in numbers alone share one.

    Args:
        options: mergekit's `MergeOptions`.
        allow_pickle: as for `MergePlan.open`.
    """

    def __init__(self, options: Any, *, allow_pickle: bool = False) -> None:
        self.options, self._allow_pickle = options, allow_pickle
        self._plans: dict[str, MergePlan] = {}

    def plan(self, recipe: Recipe) -> MergePlan:
        """The plan of a recipe's family, opened and checked at the first call; its files are shut.

        Raises:
            CheckpointError, RecipeError: as `MergePlan.open`.
        """
        recipe = recipe.resolved()
        key = family(recipe.raw)
        if key not in self._plans:
            with MergePlan.open(recipe, self.options, allow_pickle=self._allow_pickle) as plan:
                self._plans[key] = plan
        return self._plans[key]

    def program(self, recipe: Recipe) -> MergeProgram:
        """`plan(recipe).of(recipe)`."""
        recipe = recipe.resolved()
        return self.plan(recipe).of(recipe)
