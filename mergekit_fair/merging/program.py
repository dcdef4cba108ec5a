"""A recipe becomes a program: for every output tensor, its formula, dtypes and inputs.

The parameters are resolved as mergekit resolves them (layer gradients, filters, precedence), so
that a recipe means the same here and in `mergekit-yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import torch
from mergekit.common import dtype_from_name

from mergekit_fair.checkpoints.reader import DTYPES
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.mergekit_plan import explained
from mergekit_fair.merging.methods.formula import Formula, copy_of
from mergekit_fair.merging.methods.registry import own_method
from mergekit_fair.merging.methods.task_vector_method import TaskVectorMethod, TensorInputs
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.resolved_parameters import Infos, Planned, planned

# BatchNorm counts training batches in an integer that inference never reads.
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the merged model.

    Attributes:
        name, shape: the base's.
        inner: the dtype that inputs are converted to and the result is rounded to.
        dtype: the dtype in the file.
        formula: at the recipe's λ.
        scales: the formula's scale in each output of a grid; one without a grid.
        equal: models whose tensor has to be the start's (integers).
        narrowed: models whose dtype `inner` cannot hold: mergekit rounds such inputs first.
    """

    name: str
    shape: tuple[int, ...]
    inner: torch.dtype
    dtype: torch.dtype
    formula: Formula
    scales: tuple[float, ...]
    equal: tuple[str, ...] = ()
    narrowed: frozenset[str] = frozenset()

    @cached_property
    def moving(self) -> Formula:
        """The formula with a scale that moves it if any output moves."""
        return self.formula.scaled(next((s for s in self.scales if s != 0), 0.0))

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are read for it."""
        return tuple(dict.fromkeys((*map(str, self.moving.models), *self.equal)))


@dataclass(frozen=True)
class Program:
    """All tensors of a merge.

    Attributes:
        tensors: in mergekit's order.
        base: the base model.
        lambdas: of the outputs of a grid, else None.
        norms: model → norm of its task vector, where the method asked for it.
    """

    tensors: tuple[OutputTensor, ...]
    base: str
    lambdas: tuple[float, ...] | None
    norms: Mapping[str, float] | None


def build(
    recipe: Recipe,
    infos: Infos,
    options: Any,
    *,
    lambdas: Sequence[float] | None = None,
    norms: Mapping[str, float] | None = None,
) -> Program:
    """Plan the merge of checked models; `complete_architecture` must be open.

    Args:
        recipe: of one of this package's methods.
        infos: model → its tensors; all have the same names and shapes, the base comes first.
        options: mergekit's.
        lambdas: the points of a grid in place of the recipe's λ.
        norms: of the task vectors, if `needs_norms`.

    Raises:
        RecipeError: what the method or mergekit's planner refuses.
        CheckpointError: tensors that the plan leaves out.
    """
    method = own_method(recipe.method)
    base = next(iter(infos))
    plans = planned(recipe, method.spec, infos, options)
    with explained(recipe.where):
        found = [_output(plan, method, infos, lambdas, norms) for plan in plans]
    lost = sorted(set(infos[base]) - {tensor.name for tensor in found})
    if lost:
        raise CheckpointError(
            f"the merge would lose {len(lost)} tensors {lost[:3]}",
            where=base,
            fix="report this architecture; nothing was written",
        )
    points = None if lambdas is None else tuple(lambdas)
    return Program(tuple(found), base, points, norms)


def unequal(model: object, name: str) -> CheckpointError:
    """The error for integers that differ between models."""
    return CheckpointError(
        f"integer tensor {name} differs from the base's",
        where=model,
        fix="integers are copied, not merged: make them equal first",
    )


def needs_norms(recipe: Recipe) -> bool:
    """Whether the recipe's method needs the norms of whole task vectors."""
    method = own_method(recipe.method)
    given = recipe.raw.get("parameters") or {}
    shared = {
        spec.name: given.get(spec.name, None if spec.required else spec.default)
        for spec in method.spec.shared_parameters
    }
    return method.needs_norms(shared)


def _output(
    plan: Planned,
    method: TaskVectorMethod,
    infos: Infos,
    lambdas: Sequence[float] | None,
    norms: Mapping[str, float] | None,
) -> OutputTensor:
    name, base, models = plan.name, plan.base, (plan.base, *plan.others)
    inputs = TensorInputs(name, base, plan.others, norms)
    formula = method.formula(inputs, plan.parameters)
    stored = [DTYPES[infos[model][name].dtype] for model in models]
    shape = infos[base][name].shape
    if not infos[base][name].is_float:
        kept, equal = stored[0], () if name.endswith(COUNTER) else models
        return OutputTensor(name, shape, kept, kept, copy_of(formula.start, base), (1.0,), equal)
    inner = dtype_from_name(plan.inner) or reduce(torch.promote_types, stored)
    scales: tuple[float, ...] = (formula.scale,)
    if lambdas is not None:
        scales = tuple(
            method.formula(inputs, {**plan.parameters, "lambda": value}).scale for value in lambdas
        )
    narrowed = frozenset(
        model
        for model, dtype in zip(models, stored, strict=True)
        if torch.promote_types(dtype, inner) != inner
    )
    dtype = dtype_from_name(plan.dtype) or inner
    return OutputTensor(name, shape, inner, dtype, formula, scales, narrowed=narrowed)
