"""A merge, planned: opened and checked once, then cheap at every λ.

`MergePlan.open` finds, opens and checks the models of a recipe, names the architecture, measures
what the method needs of whole vectors and resolves parameters as mergekit resolves them (layer
gradients, filters, precedence), so that a recipe means the same here and in `mergekit-yaml`.
`MergePlan.at` turns that into a program: for every output tensor its formula, dtypes and inputs.
Every route runs programs: to disk, in memory, adapters, `check`, `vectors`.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import torch

from mergekit_fair.checkpoints.reader import DTYPES
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.merging.architecture import Architecture
from mergekit_fair.merging.methods.formula import (
    COUNTER,
    Coefficients,
    Formula,
    Formulas,
    coefficients_of,
    copy_of,
)
from mergekit_fair.merging.methods.head_policy import HeadPolicy
from mergekit_fair.merging.methods.measured_products import merged_names, products_of
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.registry import own_method
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
)
from mergekit_fair.merging.methods.whole_vectors import WholeVectors
from mergekit_fair.merging.model_checks import OpenModels, open_models, planned_architecture
from mergekit_fair.merging.parameter_names import name_of
from mergekit_fair.merging.parameters import (
    BoundTensor,
    Infos,
    Parameters,
    bound_tensors,
    dtype_of,
    explained,
    replaced,
)
from mergekit_fair.merging.program import MergeProgram, OutputTensor
from mergekit_fair.merging.recipe import Recipe, family
from mergekit_fair.merging.recipe_check import check_setting
from mergekit_fair.merging.result_checks import require_loadable, unloaded
from mergekit_fair.progress import Progress, Silent

Settings = Mapping[str, float | str]


@dataclass(frozen=True)
class _PlannedTensor:
    """An output tensor without its formula, which the parameters decide.

    Attributes:
        is_float: whether it is merged; integers are copied.
        is_head: whether a head policy may decide it.
    """

    name: str
    parameters: Parameters
    shape: tuple[int, ...]
    compute_dtype: torch.dtype
    dtype: torch.dtype
    must_match: tuple[str, ...] = ()
    cast: frozenset[str] = frozenset()
    is_float: bool = True
    is_head: bool = False


@dataclass(frozen=True, eq=False)
class MergePlan:
    """A recipe of this package's methods whose models are checked.

        with MergePlan.open(recipe, MergeOptions()) as plan:
            for value in (0.0, 0.5, 1.0):
                program = plan.at({"lambda": value})

    `at` needs no open files: a plan may be used after its block, to compose in memory.

    Attributes:
        recipe: resolved (`worst: auto`, FedNova's steps).
        method: its method.
        models: open inside the block.
        tensors: all output tensors, without formulas.
        whole: what the method reads of task vectors over all merged tensors, if anything.
        architecture: what mergekit plans by.
        is_loadable: False if transformers does not know the architecture.
        notes: on the models, one sentence each.
        streams: whether our engine can write the result; else mergekit runs the checked merge (a
            tokenizer to build, vocabularies that differ, pickled output).
    """

    recipe: Recipe
    method: TaskVectorMethod
    models: OpenModels
    tensors: tuple[_PlannedTensor, ...]
    whole: WholeVectors | None
    architecture: Architecture
    is_loadable: bool
    streams: bool
    names: Mapping[str, str]
    notes: tuple[str, ...]

    @classmethod
    @contextmanager
    def open(
        cls,
        recipe: Recipe,
        options: Any,
        *,
        allow_pickle: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[MergePlan]:
        """Find, open, check and plan; the models are open until the end of the block.

        What the method reads of whole vectors is measured in a pass over the weights, and cached.

        Args:
            recipe: of one of this package's methods.
            options: of the merge; none of them switches a check off.
            allow_pickle: read pickled weights where a model has no others.
            progress: told of the pass over the weights.

        Raises:
            CheckpointError: models that are not found, do not fit, or a result that would not load
                whole.
            RecipeError: whatever the method or mergekit's planner refuses.
        """
        recipe = recipe.resolved()
        if recipe.is_sliced:
            raise RecipeError(
                "has slices or modules, which are merged to a folder only",
                where=recipe.where,
                fix="list whole models under models, or run it with `merge`",
            )
        method = own_method(recipe.method)
        with open_models(recipe, options, allow_pickle=allow_pickle) as models:
            base, infos = models.base, models.infos
            config = recipe.configuration()
            architecture = planned_architecture(recipe, models, options)
            bound = bound_tensors(recipe, method.spec, infos, architecture.weights)
            if not architecture.is_mergekits:
                bound.sort(key=lambda tensor: tensor.name)
            _require_all(infos[base], bound, base)
            whole = [model for model in infos if model not in models.vectors]
            tensors = tuple(_planned(tensor, infos, whole, models.heads) for tensor in bound)
            whole_vectors = _whole_vectors(recipe, method, tensors, models, progress or Silent())
            raw_models = [str(item["model"]) for item in recipe.raw.get("models") or ()]
            listed = [str(item.model) for item in config.models or ()]
            left_out = require_loadable(models.folders[base], infos[base], models.layout)
            plan = cls(
                recipe,
                method,
                models,
                tensors,
                whole_vectors,
                architecture,
                left_out is not None,
                _streams(config, options, infos),
                dict(zip(raw_models, listed, strict=True)),
                (
                    *models.notes,
                    *unloaded(base, left_out or []),
                    *(f"warning: {text}" for text in recipe.on_tensors(infos[base]).warnings),
                ),
            )
            plan.at()  # what the method itself refuses, it refuses here
            yield plan

    def at(self, settings: Settings | None = None) -> MergeProgram:
        """The program with some of the recipe's numbers, or `worst`, replaced.

        No file is touched and nothing is resolved again.

            plan.at({"lambda": 0.5, "weight.Female": 2.0}).coefficients.lambda_eff

        Args:
            settings: as for `Recipe.with_settings`.

        Raises:
            RecipeError: as `Recipe.with_settings`: a number in place of a gradient or filter, a
                group that the recipe does not have, a value out of range.
        """
        return self._program([self._raw(settings or {})])

    def of(self, *recipes: Recipe) -> MergeProgram:
        """The program with one output for each recipe, all of this plan's family, see `family`.

        Raises:
            RecipeError: a recipe of another family.
        """
        return self._program([self._same_family(recipe.raw) for recipe in recipes])

    def coefficients(self, settings: Settings | None = None) -> Coefficients:
        """`at(settings).coefficients`, without the tensors."""
        return self._coefficients(self._formulas(self._raw(settings or {})))

    @property
    def norms(self) -> dict[str, float] | None:
        """Model → ‖Δ‖₂ over all merged tensors, if the method reads them."""
        return None if self.whole is None else self.whole.norms

    @property
    def infos(self) -> Infos:
        """Model → its tensors, the base first."""
        return self.models.infos

    def _raw(self, settings: Settings) -> dict[str, Any]:
        raw = self.recipe.raw_with(settings)
        if settings:
            for key, value in settings.items():
                where = f"{self.recipe.where}: {key}"
                check_setting(self.method.spec, name_of(key), value, where)
            self._same_family(raw)
            self.method.check_recipe(raw, self.recipe.where)
        return raw

    def _same_family(self, raw: dict[str, Any]) -> dict[str, Any]:
        if family(raw) != self._family:
            raise RecipeError(
                "differs in more than numbers and `worst` from the recipe that was opened",
                where=self.recipe.where,
                fix="open a plan of its own",
            )
        return raw

    @cached_property
    def _family(self) -> str:
        return family(self.recipe.raw)

    @cached_property
    def _inputs(self) -> TensorInputs:
        base, *others = self.infos
        return TensorInputs("", base, tuple(others), self.whole)

    def _formulas(self, raw: dict[str, Any]) -> dict[int, tuple[Parameters, Formula]]:
        """Id of distinct parameters → the same with this recipe's numbers, and their formula."""
        formulas: dict[int, tuple[Parameters, Formula]] = {}
        with explained(self.recipe.where):
            for tensor in self.tensors:
                key = id(tensor.parameters)
                if key not in formulas:
                    parameters = replaced(self.method.spec, tensor.parameters, raw, self.names)
                    formulas[key] = parameters, self.method.vectors(self._inputs, parameters)
        return formulas

    def _coefficients(self, formulas: Mapping[int, tuple[Parameters, Formula]]) -> Coefficients:
        merged = {
            id(tensor.parameters)
            for tensor in self.tensors
            if tensor.is_float
            and not (tensor.is_head and tensor.parameters.get("head", "merge") != HeadPolicy.MERGE)
        }
        shown = [formula for key, (_, formula) in formulas.items() if key in merged or not merged]
        return coefficients_of(shown, self.infos)

    def _program(self, raws: Sequence[dict[str, Any]]) -> MergeProgram:
        points = [self._formulas(raw) for raw in raws]
        made: dict[Hashable, Formulas] = {}  # most tensors of a model have the same
        tensors = []
        for tensor in self.tensors:
            held = tuple(tensor.name in names for names in self.models.vectors.values())
            still = tuple(tensor.name in names for names in self.models.unmoved.values())
            name = tensor.name if tensor.is_head else None
            key = id(tensor.parameters), tensor.is_float, name, held, still
            if key not in made:
                each = (self._formula(tensor, *formulas[key[0]]) for formulas in points)
                made[key] = Formulas(tuple(each))
            tensors.append(
                OutputTensor(
                    tensor.name,
                    tensor.shape,
                    tensor.compute_dtype,
                    tensor.dtype,
                    made[key],
                    tensor.must_match,
                    tensor.cast,
                )
            )
        return MergeProgram(tuple(tensors), self._coefficients(points[0]))

    def _formula(self, tensor: _PlannedTensor, parameters: Parameters, formula: Formula) -> Formula:
        vectors, unmoved = self.models.vectors, self.models.unmoved
        formula = formula.with_vectors({m: tensor.name in vectors[m] for m in vectors})
        copied = None
        if not tensor.is_float:
            copied = copy_of(formula.start, formula.base)
        elif tensor.is_head:
            inputs = replace(self._inputs, name=tensor.name, is_head=True)
            copied = self.method.copied_head(inputs, parameters)
        return (copied or formula).without(
            [m for m, names in unmoved.items() if tensor.name in names]
        )


def _planned(
    bound: BoundTensor, infos: Infos, whole: Sequence[str], heads: Collection[str]
) -> _PlannedTensor:
    """One tensor of models; `whole` are those that are not task vectors, which have no integers."""
    name, models = bound.name, tuple(infos)
    info = infos[models[0]][name]
    stored = [DTYPES[infos[model][name].dtype] for model in models]
    if not info.is_float:
        must_match = () if name.endswith(COUNTER) else tuple(whole)
        return _PlannedTensor(
            name,
            bound.parameters,
            info.shape,
            compute_dtype=stored[0],
            dtype=stored[0],
            must_match=must_match,
            is_float=False,
        )
    compute_dtype = dtype_of(bound.compute_dtype) or reduce(torch.promote_types, stored)
    cast = frozenset(
        model
        for model, dtype in zip(models, stored, strict=True)
        if torch.promote_types(dtype, compute_dtype) != compute_dtype
    )
    dtype = dtype_of(bound.dtype) or compute_dtype
    return _PlannedTensor(
        name,
        bound.parameters,
        info.shape,
        compute_dtype,
        dtype,
        cast=cast,
        is_head=name in heads,
    )


def _require_all(expected: Mapping[str, Any], bound: Sequence[BoundTensor], base: str) -> None:
    lost = sorted(set(expected) - {tensor.name for tensor in bound})
    if lost:
        raise CheckpointError(
            f"the merge would lose {len(lost)} tensors {lost[:3]}",
            where=base,
            fix="report this architecture; nothing was written",
        )


def _whole_vectors(
    recipe: Recipe,
    method: TaskVectorMethod,
    tensors: Sequence[_PlannedTensor],
    models: OpenModels,
    progress: Progress,
) -> WholeVectors | None:
    """What the method reads of θ − θ₀ over all merged tensors; None if that is nothing."""
    measured = max((method.measures(tensor.parameters) for tensor in tensors), default=None)
    if not measured:
        return None
    base, *others = models.readers
    policy = parameters_of(recipe.raw).get("head", HeadPolicy.MERGE)
    names = merged_names(models.infos[base], () if policy == HeadPolicy.MERGE else models.heads)
    readers = [models.readers[model] for model in others]
    pairs = measured.pairs(len(others))
    products = products_of(models.readers[base], readers, pairs, names, progress)
    return WholeVectors.of(others, pairs, products)


def _streams(config: Any, options: Any, infos: Infos) -> bool:
    """Whether every output tensor is made of the same elements of every model, in safetensors."""
    base, *others = infos
    is_alike = all(
        infos[model][name].shape == info.shape
        for name, info in infos[base].items()
        for model in others
    )
    builds_tokenizer = bool(config.tokenizer_source or config.tokenizer)
    return is_alike and not builds_tokenizer and bool(options.safe_serialization)
