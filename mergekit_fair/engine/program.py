"""A recipe becomes a program: for every output tensor, its formula, dtypes and inputs.

mergekit's planner resolves the parameters (layer gradients, filters, precedence), so that a
recipe means the same here and in `mergekit-yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import torch
from mergekit.common import ModelReference, dtype_from_name
from mergekit.io.tasks import LoaderCache, SaveTensor

from mergekit_fair.engine.plan import explained, tensor_tasks
from mergekit_fair.errors import CheckpointError
from mergekit_fair.methods.base import Inputs, TaskVectorMethod
from mergekit_fair.methods.formula import Formula, copy_of
from mergekit_fair.methods.registry import own_method
from mergekit_fair.recipe.recipe import Recipe
from mergekit_fair.weights.headers import TensorInfo
from mergekit_fair.weights.reading import DTYPES

# Models are known by their reference as text: comparing mergekit's objects takes as long as a
# tensor operation.
Infos = Mapping[str, Mapping[str, TensorInfo]]

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
    *,
    lambdas: Sequence[float] | None = None,
    norms: Mapping[str, float] | None = None,
) -> Program:
    """Plan the merge of checked models; `complete_architecture` must be open.

    Args:
        recipe: of one of this package's methods.
        infos: model → its tensors; all have the same names and shapes, the base comes first.
        lambdas: the points of a grid in place of the recipe's λ.
        norms: of the task vectors, if `needs_norms`.

    Raises:
        RecipeError: what the method or mergekit's planner refuses.
        CheckpointError: tensors that the plan leaves out.
    """
    method = own_method(recipe.method)
    base = next(iter(infos))
    with _indexed(infos):
        tasks = tensor_tasks(recipe)
    found = []
    for task in tasks:
        if task.tensor_name in infos[base]:
            with explained(recipe.where):
                found.append(_output(task, method, infos, lambdas, norms))
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
    task: SaveTensor,
    method: TaskVectorMethod,
    infos: Infos,
    lambdas: Sequence[float] | None,
    norms: Mapping[str, float] | None,
) -> OutputTensor:
    merge: Any = task.tensor_task
    name, base = task.tensor_name, str(merge.base_model)
    given = {str(model): values for model, values in merge.input_parameters.items()}
    others = tuple(model for model in map(str, merge.model_order) if model != base)
    parameters: dict[str, Any] = dict(merge.parameters.items())
    for spec in method.spec.input_parameters:
        parameters[spec.name] = {model: given[model][spec.name] for model in others}
    inputs = Inputs(name, base, others, norms)
    formula = method.formula(inputs, parameters)
    stored = [infos[model][name].dtype for model in (base, *others)]
    shape = infos[base][name].shape
    if not infos[base][name].is_float:
        kept = DTYPES[stored[0]]
        equal = () if name.endswith(COUNTER) else (base, *others)
        return OutputTensor(name, shape, kept, kept, copy_of(formula.start, base), (1.0,), equal)
    gather: Any = merge.gather_tensors
    forced = next(iter(gather.weight_info.values())).force_dtype or gather.dtype
    inner = dtype_from_name(forced) or reduce(torch.promote_types, (DTYPES[d] for d in stored))
    scales: tuple[float, ...] = (formula.scale,)
    if lambdas is not None:
        scales = tuple(
            method.formula(inputs, parameters | {"lambda": value}).scale for value in lambdas
        )
    narrowed = frozenset(
        model
        for model, dtype in zip((base, *others), stored, strict=True)
        if torch.promote_types(DTYPES[dtype], inner) != inner
    )
    return OutputTensor(
        name,
        shape,
        inner,
        dtype_from_name(task.dtype) or inner,
        formula,
        scales,
        narrowed=narrowed,
    )


@contextmanager
def _indexed(infos: Infos) -> Iterator[None]:
    """mergekit's planner asks its loaders which optional tensors there are; answer from headers.

    Adapters need not be merged to disk for that, nor files opened twice.
    """
    loaders: Any = LoaderCache().loaders
    loaders.clear()
    for model, tensors in infos.items():
        loaders[ModelReference.parse(model)] = _Loader(_Index(dict.fromkeys(tensors, "")))
    try:
        yield
    finally:
        loaders.clear()


@dataclass(frozen=True)
class _Index:
    tensor_paths: dict[str, str]


@dataclass(frozen=True)
class _Loader:
    index: _Index
