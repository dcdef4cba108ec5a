"""What the methods have in common: parameters become a formula, a formula becomes a tensor."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mergekit.merge_methods import GroupMergeMethod, TensorGroup

from mergekit_fair.merging.methods.arithmetic import merge_tensor
from mergekit_fair.merging.methods.formula import Formula, Term, copy_of
from mergekit_fair.merging.methods.head_policy import HeadPolicy, is_head
from mergekit_fair.merging.methods.shared_parameters import Rescale


@dataclass(frozen=True)
class TensorInputs:
    """The models that one output tensor is made of.

    Attributes:
        name: of the tensor.
        base: θ₀.
        models: the others, in recipe order.
        norms: model → ‖Δ‖₂ over all merged tensors; None unless the method asked for them.
    """

    name: str
    base: Hashable
    models: tuple[Hashable, ...]
    norms: Mapping[Any, float] | None = None


class TaskVectorMethod(GroupMergeMethod):
    """θ = θ_start + λ · direction of task vectors. A method gives the formula, nothing else."""

    @abstractmethod
    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        """The formula of a tensor that no head policy decides.

        Raises:
            ValueError: parameters that do not fit together.
        """

    def first(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Hashable:
        """The model that `head: first` copies."""
        del parameters
        return inputs.models[0]

    def needs_norms(self, parameters: Mapping[str, Any]) -> bool:
        """Whether `vectors` reads `inputs.norms`."""
        del parameters
        return False

    def formula(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        """What one output tensor is made of.

        Args:
            inputs: the models and the tensor's name.
            parameters: bound and validated: shared ones by value, the others by model.

        Raises:
            ValueError: parameters that do not fit together.
        """
        formula = self.vectors(inputs, parameters)
        if parameters["head"] != HeadPolicy.MERGE and is_head(inputs.name):
            is_base = parameters["head"] == HeadPolicy.BASE
            model = inputs.base if is_base else self.first(inputs, parameters)
            return copy_of(model, inputs.base)
        return formula

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Merge one tensor; `group` is mergekit's record of the inputs to one output tensor.

        Raises:
            ValueError: as `formula`.
        """
        base = group.base
        if base is None:  # the contract has refused this before any kernel runs
            raise ValueError(f"no base input for {group.metadata.name}")
        name = group.metadata.name or ""
        models = tuple(entry.id for entry in group.non_base)
        norms = parameters.pop("norms", None)
        formula = self.formula(TensorInputs(name, base.id, models, norms), parameters)
        return merge_tensor(formula, {entry.id: entry.tensor for entry in group.entries}, name)

    def _execute(
        self,
        groups: Sequence[TensorGroup],
        parameters: list[dict[str, Any]],
        options: Any,
        *,
        input_dtypes: Sequence[torch.dtype | None],
        out_dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """mergekit's, with the norms of whole task vectors where the method needs them."""
        if any(map(self.needs_norms, parameters)):
            from mergekit_fair.merging.methods.graph_norms import norms_of

            merges_head = all(given["head"] == HeadPolicy.MERGE for given in parameters)
            norms = norms_of(groups, merges_head=merges_head)
            parameters = [given | {"norms": norms} for given in parameters]
        return super()._execute(
            groups, parameters, options, input_dtypes=input_dtypes, out_dtype=out_dtype
        )


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


def norms_in(inputs: TensorInputs) -> Mapping[Any, float]:
    """The norms, which the engine and mergekit's graph provide where `needs_norms` says so."""
    if inputs.norms is None:
        raise ValueError(f"the norms of the task vectors are not known for {inputs.name}")
    return inputs.norms


def require_distinct(names: list[str]) -> None:
    """Raise ValueError if a group name occurs twice; `names` is sorted."""
    for name, following in itertools.pairwise(names):
        if name == following:
            raise ValueError(f"group {name!r} is given by two models; every group needs one")
