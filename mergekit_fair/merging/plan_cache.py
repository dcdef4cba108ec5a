"""Plans that recipes share: those of one family differ in numbers alone."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from mergekit_fair.merging.adapters_by_peft import register_adapters
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.program import MergeProgram
from mergekit_fair.merging.recipe import Recipe, family
from mergekit_fair.merging.stock_plan import StockPlan, skeleton

_MOST = 16  # plans that are kept: each knows every tensor of its models

T = TypeVar("T")


class PlanCache:
    """Plans by family: the points of a sweep that differ in numbers alone share one.

    Args:
        options: mergekit's `MergeOptions`.
        allow_pickle: as for `MergePlan.open`.
    """

    def __init__(self, options: Any, *, allow_pickle: bool = False) -> None:
        self.options, self._allow_pickle = options, allow_pickle
        self._plans: dict[str, MergePlan] = {}
        self._stock: dict[str, StockPlan] = {}

    def plan(self, recipe: Recipe) -> MergePlan:
        """The plan of a recipe's family, opened and checked at the first call; its files are shut.

        Raises:
            CheckpointError, RecipeError: as `MergePlan.open`.
        """
        recipe = recipe.resolved()

        def opened() -> MergePlan:
            with MergePlan.open(recipe, self.options, allow_pickle=self._allow_pickle) as plan:
                return plan

        return _kept(self._plans, family(recipe.raw), opened)

    def program(self, recipe: Recipe) -> MergeProgram:
        """`plan(recipe).of(recipe)`."""
        recipe = recipe.resolved()
        return self.plan(recipe).of(recipe)

    def stock(self, recipe: Recipe) -> StockPlan:
        """mergekit's plan of a recipe of its own methods, shared by all that differ in parameters.

        Raises:
            CheckpointError, RecipeError: as `StockPlan.open`.
        """
        return _kept(
            self._stock, skeleton(recipe), lambda: StockPlan.open(recipe, self.stock_options)
        )

    @cached_property
    def stock_options(self) -> Any:
        """By which mergekit finds adapters merged by peft: in a folder that goes with the cache."""
        register_adapters()
        if self.options.lora_merge_cache:
            return self.options
        folder = tempfile.TemporaryDirectory(prefix="mergekit-fair-adapters-")
        weakref.finalize(self, folder.cleanup)
        return self.options.model_copy(update={"lora_merge_cache": folder.name})


def _kept(plans: dict[str, T], key: str, make: Callable[[], T]) -> T:
    """The plan of that key, made if it is not there; what was used longest ago gives way."""
    plan = plans.pop(key, None)
    plans[key] = make() if plan is None else plan
    while len(plans) > _MOST:
        plans.pop(next(iter(plans)))
    return plans[key]
