"""Subgroup task addition: one task vector per demographic subgroup, added with one λ."""

from __future__ import annotations

import itertools
from enum import StrEnum
from typing import Annotated, Any

import torch
from mergekit.merge_methods import (
    BasePolicy,
    GroupMergeMethod,
    InputContract,
    MergeMethodSpec,
    ParameterScope,
    TensorGroup,
)
from mergekit.merge_methods.base import ParameterSpec
from pydantic import Field

from mergekit_fair.methods.arithmetic import add_scaled, weighted_task_vectors
from mergekit_fair.methods.heads import HeadPolicy, is_head

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
GroupName = Annotated[str, Field(min_length=1)]


class Normalize(StrEnum):
    """`sum`: Σ_g w_g Δ_g, the paper's; `mean`: the same divided by the number of groups G."""

    SUM = "sum"
    MEAN = "mean"


class SubgroupTaskAddition(GroupMergeMethod):
    """θ(λ) = θ₀ + λ Σ_g w_g (θ_g − θ₀); with `normalize: mean`, λ is divided by G.

    Concept: each subgroup model θ_g was fine-tuned from the base θ₀ on the rows of one
    demographic group; λ moves the base along the sum of the subgroup vectors.
    Inputs: the base model and one model per subgroup, tensors of any one shape.
    Numerics: float32 (float64 for float64 inputs) whatever the input dtype, rounded once. Groups
    are summed in the order of their names, so the order in the recipe changes nothing. λ = 0
    returns the base bit for bit.
    Source: "On Fairness of Task Arithmetic", arXiv 2505.24262.
    """

    spec = MergeMethodSpec(
        name="subgroup_task_addition",
        pretty_name="Subgroup Task Addition",
        reference_url="https://arxiv.org/abs/2505.24262",
        contract=InputContract(base=BasePolicy.REQUIRED, min_non_base=1),
        parameters=(
            ParameterSpec(
                "group",
                GroupName,
                ParameterScope.NON_BASE,
                description="the subgroup that the model was fine-tuned on; unique",
            ),
            ParameterSpec(
                "weight",
                FiniteFloat,
                ParameterScope.NON_BASE,
                default=1.0,
                description="w_g, multiplied with λ; may be negative",
            ),
            ParameterSpec(
                "lambda",
                FiniteFloat,
                ParameterScope.SHARED,
                default=1.0,
                description="λ, the paper's one knob",
            ),
            ParameterSpec(
                "normalize",
                Normalize,
                ParameterScope.SHARED,
                default=Normalize.SUM,
                description="sum (the paper) or mean (λ divided by the number of groups)",
            ),
            ParameterSpec(
                "head",
                HeadPolicy,
                ParameterScope.SHARED,
                default=HeadPolicy.MERGE,
                description="classification head: merge, or copy of the base or first model",
            ),
        ),
    )

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Merge one tensor; `group` is mergekit's record of the inputs to one output tensor.

        Raises:
            ValueError: two models carry the same group name.
        """
        base = _base(group)
        names = parameters["group"]
        entries = sorted(group.non_base, key=lambda entry: names[entry.id])
        require_distinct([names[entry.id] for entry in entries])
        if parameters["head"] != HeadPolicy.MERGE and is_head(group.metadata.name):
            return base if parameters["head"] == HeadPolicy.BASE else group.non_base[0].tensor
        scale = parameters["lambda"]
        if parameters["normalize"] == Normalize.MEAN:
            scale /= len(entries)
        weights = parameters["weight"]
        vector = weighted_task_vectors(base, [(weights[e.id], e.tensor) for e in entries])
        return add_scaled(base, vector, scale)


def _base(group: TensorGroup) -> torch.Tensor:
    base = group.base
    if base is None:  # the contract has refused this before any kernel runs
        raise ValueError(f"no base input for {group.metadata.name}")
    return base.tensor


def require_distinct(names: list[str]) -> None:
    """Raise ValueError if a group name occurs twice; `names` is sorted."""
    for name, following in itertools.pairwise(names):
        if name == following:
            raise ValueError(f"group {name!r} is given by two models; every group needs one")
