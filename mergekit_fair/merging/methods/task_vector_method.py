"""What the methods have in common: parameters become a formula."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterScope
from mergekit_fair.merging.methods.formula import Formula, Term, copy_of
from mergekit_fair.merging.methods.head_policy import HeadPolicy
from mergekit_fair.merging.methods.members import (
    distinct_groups,
    members_of,
    merged_blocks,
    parameters_of,
)
from mergekit_fair.merging.methods.shared_parameters import Rescale
from mergekit_fair.merging.methods.whole_vectors import Measured, WholeVectors


@dataclass(frozen=True)
class TensorInputs:
    """The models that one output tensor is made of.

    Attributes:
        name: of the tensor.
        base: θ₀.
        models: the others, in recipe order.
        whole: what was measured of the vectors over all merged tensors; None unless the method
            asks for it.
        is_head: whether it belongs to a classification head.
    """

    name: str
    base: Hashable
    models: tuple[Hashable, ...]
    whole: WholeVectors | None = None
    is_head: bool = False


class TaskVectorMethod(ABC):
    """θ = θ_start + λ · direction of task vectors.

    A method says what is special to it and nothing else: its `spec` (name and parameters), its
    formula (`vectors`), which models a recipe must list (`check`),
    what it finds out before a merge (`resolve`, `resolves`) and what it reads of whole task vectors
    (`measures`). All else follows from the formula: the arithmetic, λ_g, λ_eff.
    """

    spec: ClassVar[MethodSpec]
    # Required parameters of the recipe that `resolve` can fill in.
    resolves: ClassVar[frozenset[str]] = frozenset()
    # Whether the models beside the base are task vectors themselves, stored in vector folders.
    adds_differences: ClassVar[bool] = False

    @abstractmethod
    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        """The formula of a tensor that no head policy decides; the same for every tensor.

        Raises:
            ValueError: parameters that do not fit together.
        """

    def first(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Hashable:
        """The model that `head: first` copies."""
        del parameters
        return inputs.models[0]

    def measures(self, parameters: Mapping[str, Any]) -> Measured:
        """What `vectors` reads of `inputs.whole`; to measure it costs one pass over the files."""
        del parameters
        return Measured.NOTHING

    def check(self, raw: dict[str, Any], where: str) -> None:
        """Check the models of a recipe: one or more beside the base, each with a group of its own.

        Args:
            raw: the recipe, with a base_model and known keys.
            where: the recipe's file, for errors.

        Raises:
            RecipeError: names the model, what was given and what is allowed.
        """
        members = members_of(raw, "group", where)
        if not members:
            raise RecipeError("needs at least one subgroup model beside base_model", where=where)
        distinct_groups(members, where)

    def resolve(self, raw: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]] | None:
        """Find out what a checked recipe leaves open.

        Returns:
            The recipe with that filled in, and one sentence each about what was found; None if
            nothing is open.

        Raises:
            RecipeError, MeasurementError, ConfigError: it cannot be found out.
        """
        del raw, where
        return None

    def check_recipe(self, raw: dict[str, Any], where: str) -> None:
        """Check base, models and required parameters of a recipe with known keys.

        Raises:
            RecipeError: as `check`; no base_model; a parameter that is missing.
        """
        if not raw.get("base_model"):
            raise RecipeError("needs base_model, the θ₀ of the task vectors", where=where)
        for block in merged_blocks(raw, where):
            self.check({**raw, "models": block.models}, block.where)
            self._require_parameters([parameters_of(raw), *block.parameters], block.where)

    def _require_parameters(self, blocks: Sequence[Mapping[str, Any]], where: str) -> None:
        for parameter in self.spec.parameters:
            is_open = parameter.required and parameter.name not in self.resolves
            is_shared = parameter.scope == ParameterScope.SHARED
            if is_open and is_shared and not any(parameter.name in block for block in blocks):
                raise RecipeError(
                    f"needs parameters.{parameter.name}: {parameter.description}", where=where
                )

    def formula(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        """What one output tensor is made of.

        Args:
            inputs: the models and the tensor's name.
            parameters: bound and validated: shared ones by value, the others by model.

        Raises:
            ValueError: parameters that do not fit together.
        """
        copied = self.copied_head(inputs, parameters)
        return self.vectors(inputs, parameters) if copied is None else copied

    def copied_head(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula | None:
        """The formula of a head's tensor that is copied; None for all other tensors."""
        policy = parameters.get("head", HeadPolicy.MERGE)
        if policy == HeadPolicy.MERGE or not inputs.is_head:
            return None
        is_base = policy == HeadPolicy.BASE
        return copy_of(inputs.base if is_base else self.first(inputs, parameters), inputs.base)


def sparse_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The formula's fields for a method with the parameters `SPARSE`."""
    sparsifier, rescale = parameters["sparsify"], parameters["rescale"]
    is_auto = rescale == Rescale.AUTO
    return {
        "sparsifier": sparsifier,
        "rescale": sparsifier == "random" if is_auto else rescale == Rescale.L1,
        "seed": parameters["seed"],
    }


def subgroup_terms(
    inputs: TensorInputs,
    parameters: Mapping[str, Any],
    factors: Mapping[Hashable, float] | None = None,
) -> tuple[Term, ...]:
    """The task vectors in the order of their groups' names; those of weight 0 are left out.

    Left out, not multiplied: −0.0, NaN and Inf of an unused model cannot reach the result.

    Args:
        inputs: the models.
        parameters: with `group` and `weight`, maybe `density`.
        factors: model → what its weight is multiplied with; None for 1.

    Raises:
        ValueError: two models carry the same group name.
    """
    names = parameters["group"]
    models = sorted(inputs.models, key=lambda model: names[model])
    require_distinct([names[model] for model in models])
    densities = parameters.get("density")
    terms = []
    for model in models:
        weight = parameters["weight"][model] * (1.0 if factors is None else factors[model])
        if weight != 0:
            density = 1.0 if densities is None else densities[model]
            terms.append(Term(weight, model, density, names[model]))
    return tuple(terms)


def whole_vectors(inputs: TensorInputs) -> WholeVectors:
    """What was measured, which the engine and mergekit's graph provide as `measures` says."""
    if inputs.whole is None:
        raise ValueError(f"the norms of the task vectors are not known for {inputs.name}")
    return inputs.whole


def require_distinct(names: list[str]) -> None:
    """Raise ValueError if a group name occurs twice; `names` is sorted."""
    for name, following in itertools.pairwise(names):
        if name == following:
            raise ValueError(f"group {name!r} is given by two models; every group needs one")
