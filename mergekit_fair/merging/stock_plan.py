"""A recipe that mergekit's own methods carry out, planned once for any numbers in it.

mergekit's planner makes a task for every output tensor. Of a recipe it resolves the parameters and
nothing else: with others in their place the same tasks are those of another point, and nothing is
opened or planned again. A task that is executed is mergekit's own kernel with its own checks.

Random methods (`dare_ties`, `della`, …) draw from one stream of numbers, tensor after tensor. In
the executor's order and from the same seed they draw in memory what they draw in a merge to disk
(`mergekit-yaml --random-seed`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch

from mergekit_fair.compat.mergekit import DiskPlan, disk_plan
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.registry import is_own, spec_of
from mergekit_fair.merging.model_checks import StockModels, stock_models
from mergekit_fair.merging.parameters import dtype_of, explained, is_constant
from mergekit_fair.merging.recipe import Recipe

# mergekit's methods whose result is the recipe's alone. Those that are not among them, and methods
# of other packages, may draw numbers.
_CERTAIN = frozenset(
    {
        *("linear", "slerp", "nuslerp", "multislerp", "nearswap", "karcher", "passthrough"),
        *("task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "sce", "model_stock"),
        *("ram", "ramplus_tl"),
    }
)
_FEW = (4, 4)  # of a tensor that a kernel is tried on where the models' own shapes are not known


def is_random(method: str) -> bool:
    """Whether a method may draw numbers that the recipe does not decide.

    >>> is_random("dare_ties"), is_random("ties"), is_random("subgroup_task_addition")
    (True, False, False)
    """
    return method not in _CERTAIN and not is_own(method)


@dataclass(frozen=True)
class StockTensor:
    """One output tensor.

    Attributes:
        name: in the merged model.
        merge: mergekit's task, with the parameters of a point.
        dtype: of the file; None for that of the result.
    """

    name: str
    merge: Any
    dtype: torch.dtype | None

    @property
    def inputs(self) -> Mapping[Any, Any]:
        """mergekit's `ModelReference` → what it knows of the tensor of that model."""
        return dict(self.merge.gather_tensors.weight_info.items())

    def input_dtype(self, model: Any) -> torch.dtype | None:
        """What a model's tensor is converted to first; None for its own."""
        gather = self.merge.gather_tensors
        forced = gather.weight_info[model].force_dtype
        return dtype_of(forced or gather.dtype)


@dataclass(frozen=True, eq=False)
class StockPlan:
    """mergekit's plan of a recipe, and the models that it was made of.

        plan = StockPlan.open(recipe, options)
        for value in (0.25, 0.5):
            tensors = plan.at(recipe.with_settings({"t": value}))

    Attributes:
        method: of the recipes.
        models: that were found and looked at.
        disk: mergekit's plan.
    """

    method: str
    models: StockModels
    disk: DiskPlan

    @classmethod
    def open(cls, recipe: Recipe, options: Any) -> Self:
        """Find the models and let mergekit plan.

        Raises:
            CheckpointError, RecipeError: as `stock_models`; what mergekit's planner refuses.
        """
        models = stock_models(recipe, options)
        with explained(recipe.where):
            disk = disk_plan(recipe.for_mergekit(), models.architecture.info, options)
        return cls(recipe.method, models, disk)

    def at(self, recipe: Recipe) -> list[StockTensor]:
        """The output tensors with a recipe's parameters, in the order in which they are made.

        Args:
            recipe: differs from the one that was opened in parameters alone, see `skeleton`.

        Raises:
            RecipeError: what mergekit's resolver refuses.
        """
        tensors = self._tensors(recipe)
        return [tensors[index] for index in self._order]

    def try_kernel(self, recipe: Recipe) -> None:
        """Run the method once for every set of parameters, on a few random numbers.

        What the method refuses of its parameters it refuses here, before any model is measured.

        Raises:
            RecipeError: that, or a result that is not finite.
        """
        draw, known = torch.Generator().manual_seed(0), set()
        tensors = sorted(self._tensors(recipe), key=lambda tensor: self._shape(tensor.name)[1])
        for tensor in tensors:
            key = (id(tensor.merge.parameters), id(tensor.merge.input_parameters))
            shape, count = self._shape(tensor.name)
            if key in known or not count:
                continue
            known.add(key)
            inputs = {
                model: torch.randn(shape, generator=draw).to(tensor.input_dtype(model))
                for model in tensor.inputs
            }
            with explained(recipe.where), RandomStream(0):
                merged = tensor.merge.execute(tensors=inputs)
            if merged is not None and not bool(torch.isfinite(merged).all()):
                raise RecipeError(
                    f"{self.method} makes NaN or Inf of finite numbers with these parameters",
                    where=recipe.where,
                    got=dict(tensor.merge.parameters.items()),
                    fix="look at the weights: some methods divide by their sum",
                )

    def _tensors(self, recipe: Recipe) -> list[StockTensor]:
        """In the architecture's order."""
        with explained(recipe.where):
            bound = self._bound(recipe)
        tensors = []
        for save, (shared, by_model) in zip(self.disk.saved, bound, strict=True):
            update = {"parameters": shared, "input_parameters": by_model}
            merge = save.tensor_task.model_copy(update=update)
            tensors.append(StockTensor(save.tensor_name, merge, dtype_of(save.dtype)))
        return tensors

    @cached_property
    def _order(self) -> Sequence[int]:
        """Indices into `disk.saved`: the executor's order where numbers are drawn."""
        return self.disk.execution_order() if is_random(self.method) else range(len(self.disk.t))

    def _shape(self, name: str) -> tuple[tuple[int, ...], int]:
        """Of a floating tensor of the base; a few numbers where the base has none of that name."""
        info = self.models.infos.get(name)
        if info is None:
            return _FEW, 16
        return info.shape, info.count if info.is_float else 0

    def _bound(self, recipe: Recipe) -> list[tuple[Any, Any]]:
        """Parameters of every saved tensor: shared, and by model; equal ones are one object."""
        from mergekit.parameter_resolver import resolve_parameters

        config, spec = recipe.for_mergekit(), spec_of(self.method)
        own = {item.model: item.parameters for item in config.models or ()}

        def sources(model: Any = None) -> Iterator[Any]:
            yield own.get(model)
            yield config.parameters

        constant, bound = is_constant(recipe.configuration()), list[tuple[Any, Any]]()
        distinct: dict[str, tuple[Any, Any]] = {}
        for save, t in zip(self.disk.saved, self.disk.t, strict=True):
            if constant and bound:
                bound.append(bound[0])
                continue
            merge = save.tensor_task
            infos = merge.gather_tensors.weight_info.items()
            resolved = resolve_parameters(
                spec,
                tensor_name=merge.output_weight.name,
                inputs={model: weight.name for model, weight in infos},
                sources=sources,
                base_model=merge.base_model,
                t=t,
            )
            bound.append(distinct.setdefault(repr(resolved), _frozen(*resolved)))
        return bound


def skeleton(recipe: Recipe) -> str:
    """A text that recipes share if they differ in parameters alone."""
    items = recipe.raw.get("models") or ()
    models = [{k: v for k, v in item.items() if k != "parameters"} for item in items]
    left = {k: v for k, v in recipe.raw.items() if k not in ("parameters", "fairness")}
    return json.dumps({**left, "models": models}, sort_keys=True, default=str)


class RandomStream:
    """torch's random numbers from one seed; while it is not entered, others draw from their own.

        stream = RandomStream(0)
        for tensor in tensors:
            with stream: ...  # goes on where it was left

    Args:
        seed: None leaves all as it is.
    """

    def __init__(self, seed: int | None) -> None:
        self._own = None if seed is None else torch.Generator().manual_seed(seed).get_state()
        self._outer: torch.Tensor | None = None

    def __enter__(self) -> None:
        if self._own is not None:
            self._outer = torch.get_rng_state()
            torch.set_rng_state(self._own)

    def __exit__(self, *_: object) -> None:
        if self._outer is not None:
            self._own = torch.get_rng_state()
            torch.set_rng_state(self._outer)


def _frozen(
    shared: Mapping[str, Any], by_model: Mapping[Any, Mapping[str, Any]]
) -> tuple[Any, Any]:
    """As mergekit's tasks hold them."""
    from mergekit.common import ImmutableMap

    def held(values: Mapping[Any, Any]) -> Any:
        made: Any = ImmutableMap
        return made(data=values)

    return held(shared), held({model: held(values) for model, values in by_model.items()})
