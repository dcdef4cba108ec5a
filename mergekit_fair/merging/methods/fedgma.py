"""FedGMA: elements that subgroups disagree on move less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_fair.merging.methods.declaration import ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.formula import Formula, Reduction
from mergekit_fair.merging.methods.shared_parameters import Share, federated_spec
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    subgroup_terms,
)


class FedGMA(TaskVectorMethod):
    """θ(λ) = θ₀ + λ m ⊙ Σ_g v_g, v_g = w_g (θ_g − θ₀), m masks elements that groups disagree on.

    With n groups and the agreement a = abs(Σ_g sign v_g) / n of each element, m = 1 where a ≥ ρ
    and m = a elsewhere; ρ = 0 is task addition.
    Concept: where subgroups pull a weight in different directions, it moves less.
    Inputs: the base θ₀ and one model per subgroup.
    Numerics: float64, rounded once; groups are summed in the order of their names.
    Source: "Task Arithmetic Through the Lens of One-Shot Federated Learning", arXiv 2411.18607
    (gradient masked averaging).
    """

    spec = federated_spec(
        "fedgma",
        "FedGMA",
        ParameterSpec(
            "rho",
            Share,
            ParameterScope.SHARED,
            description="ρ, agreement from which an element is added in full; 0 to 1",
        ),
    )

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        return Formula(
            start=inputs.base,
            base=inputs.base,
            terms=subgroup_terms(inputs, parameters),
            scale=parameters["lambda"],
            reduction=Reduction.AGREEMENT,
            threshold=parameters["rho"],
        )
