"""Worst-group injection: the worst-served group's task vector, added to a fine-tuned model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import StrEnum
from typing import Any

from mergekit.merge_methods import BasePolicy, InputContract, MergeMethodSpec, ParameterScope
from mergekit.merge_methods.base import ParameterSpec

from mergekit_fair.merging.methods.formula import Formula, Term
from mergekit_fair.merging.methods.shared_parameters import HEAD, LAMBDA, SPARSE, GroupName
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    require_distinct,
    sparse_settings,
)


class Role(StrEnum):
    """`target` is the fine-tuned model injected into; `candidate` a subgroup model."""

    TARGET = "target"
    CANDIDATE = "candidate"


class WorstGroupInjection(TaskVectorMethod):
    """θ_new = θ_target + λ (θ_worst − θ₀).

    Concept: the target was fine-tuned on all rows; one subgroup's vector is added to it. Only
    the candidate whose group equals `worst` enters the sum. In a recipe, `worst: auto` is the
    group that the evaluation under `fairness.report` serves worst.
    Inputs: the base θ₀, one model with `role: target`, one `role: candidate` per subgroup.
    Key parameters: `lambda`, `worst`; `density` and `sparsify` of the injected vector.
    Numerics: float64, rounded once; λ = 0 returns the target bit for bit.
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
            LAMBDA,
            ParameterSpec(
                "worst",
                GroupName,
                ParameterScope.SHARED,
                description="the group whose vector is injected",
            ),
            HEAD,
            *SPARSE,
        ),
    )

    def first(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Hashable:
        return _roles(inputs, parameters)[0]

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        target, candidates = _roles(inputs, parameters)
        worst = parameters["worst"]
        if worst not in candidates:
            hint = "; `mergekit-fair grid` writes recipes with auto filled in"
            raise ValueError(
                f"worst: {worst!r} is no candidate's group; allowed: {', '.join(candidates)}"
                f"{hint if worst == 'auto' else ''}"
            )
        model = candidates[worst]
        return Formula(
            start=target,
            base=inputs.base,
            terms=(Term(1.0, model, parameters["density"][model], worst),),
            scale=parameters["lambda"],
            **sparse_settings(parameters),
        )


def _roles(
    inputs: TensorInputs, parameters: Mapping[str, Any]
) -> tuple[Hashable, dict[str, Hashable]]:
    roles, names = parameters["role"], parameters["group"]
    targets = [model for model in inputs.models if roles[model] == Role.TARGET]
    if len(targets) != 1:
        raise ValueError(f"exactly one model needs role: target; got {len(targets)}")
    candidates = sorted(
        (model for model in inputs.models if roles[model] == Role.CANDIDATE),
        key=lambda model: names[model],
    )
    require_distinct([names[model] for model in candidates])
    return targets[0], {names[model]: model for model in candidates}
