"""Worst-group injection: the worst-served group's task vector, added to a fine-tuned model."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from mergekit.merge_methods import (
    BasePolicy,
    GroupMergeMethod,
    InputContract,
    MergeMethodSpec,
    ParameterScope,
    TensorEntry,
    TensorGroup,
)
from mergekit.merge_methods.base import ParameterSpec

from mergekit_fair.methods.arithmetic import add_scaled, weighted_task_vectors
from mergekit_fair.methods.heads import HeadPolicy, is_head
from mergekit_fair.methods.subgroup_task_addition import FiniteFloat, GroupName, require_distinct


class Role(StrEnum):
    """`target` is the fine-tuned model injected into; `candidate` a subgroup model."""

    TARGET = "target"
    CANDIDATE = "candidate"


class WorstGroupInjection(GroupMergeMethod):
    """θ_new = θ_target + λ (θ_worst − θ₀).

    Concept: the target was fine-tuned on all rows; one subgroup's vector is added to it. Only
    the candidate whose group equals `worst` enters the sum.
    Inputs: the base θ₀, one model with `role: target`, one `role: candidate` per subgroup.
    Numerics: float32 (float64 for float64 inputs), rounded once; λ = 0 returns the target bit
    for bit.
    Source: "On Fairness of Task Arithmetic", arXiv 2505.24262.
    """

    spec = MergeMethodSpec(
        name="worst_group_injection",
        pretty_name="Worst-Group Injection",
        reference_url="https://arxiv.org/abs/2505.24262",
        contract=InputContract(base=BasePolicy.REQUIRED, min_non_base=2),
        parameters=(
            ParameterSpec(
                "role",
                Role,
                ParameterScope.NON_BASE,
                description="target (exactly one model) or candidate",
            ),
            ParameterSpec(
                "group",
                str,
                ParameterScope.NON_BASE,
                default="",
                description="a candidate's subgroup; unique",
            ),
            ParameterSpec(
                "lambda",
                FiniteFloat,
                ParameterScope.SHARED,
                default=1.0,
                description="λ, how far to move along the worst group's vector",
            ),
            ParameterSpec(
                "worst",
                GroupName,
                ParameterScope.SHARED,
                description="the group whose vector is injected",
            ),
            ParameterSpec(
                "head",
                HeadPolicy,
                ParameterScope.SHARED,
                default=HeadPolicy.MERGE,
                description="classification head: merge, or copy of the base or target (first)",
            ),
        ),
    )

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Merge one tensor; `group` is mergekit's record of the inputs to one output tensor.

        Raises:
            ValueError: not exactly one target, a group twice, or `worst` is no candidate's group.
        """
        target, candidates = _roles(group, parameters["role"], parameters["group"])
        worst = parameters["worst"]
        if worst not in candidates:
            raise ValueError(
                f"worst: {worst!r} is no candidate's group; allowed: {', '.join(candidates)}"
            )
        base = group.base
        if base is None:  # the contract has refused this before any kernel runs
            raise ValueError(f"no base input for {group.metadata.name}")
        if parameters["head"] != HeadPolicy.MERGE and is_head(group.metadata.name):
            return base.tensor if parameters["head"] == HeadPolicy.BASE else target.tensor
        vector = weighted_task_vectors(base.tensor, [(1.0, candidates[worst].tensor)])
        return add_scaled(target.tensor, vector, parameters["lambda"])


def _roles(
    group: TensorGroup, roles: Any, names: Any
) -> tuple[TensorEntry, dict[str, TensorEntry]]:
    targets = [entry for entry in group.non_base if roles[entry.id] == Role.TARGET]
    if len(targets) != 1:
        raise ValueError(f"exactly one model needs role: target; got {len(targets)}")
    candidates = sorted(
        (entry for entry in group.non_base if roles[entry.id] == Role.CANDIDATE),
        key=lambda entry: names[entry.id],
    )
    require_distinct([names[entry.id] for entry in candidates])
    return targets[0], {names[entry.id]: entry for entry in candidates}
