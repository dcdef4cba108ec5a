"""CClip: no task vector is longer than ρ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_fair.merging.methods.declaration import ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.formula import Formula
from mergekit_fair.merging.methods.shared_parameters import NonNegative, federated_spec
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    subgroup_terms,
    whole_vectors,
)
from mergekit_fair.merging.methods.whole_vectors import Measured


class CClip(TaskVectorMethod):
    """θ(λ) = θ₀ + λ Σ_g w_g (θ_g − θ₀) · min(1, ρ / ‖θ_g − θ₀‖₂).

    The norm is taken over all merged tensors; ρ at or above the largest norm is task addition.
    Concept: centred clipping; no subgroup moves the base further than ρ.
    Inputs: the base θ₀ and one model per subgroup.
    Numerics: float64, rounded once; groups are summed in the order of their names.
    Source: arXiv 2411.18607 (centered clipping).
    """

    spec = federated_spec(
        "cclip",
        "CClip",
        ParameterSpec(
            "rho",
            NonNegative,
            ParameterScope.SHARED,
            description="ρ, the largest norm that a task vector keeps",
        ),
    )

    def measures(self, parameters: Mapping[str, Any]) -> Measured:
        del parameters
        return Measured.NORMS

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        norms, radius = whole_vectors(inputs).norms, parameters["rho"]
        factors = {
            model: radius / norms[model] if norms[model] > radius else 1.0
            for model in inputs.models
        }
        return Formula(
            start=inputs.base,
            base=inputs.base,
            terms=subgroup_terms(inputs, parameters, factors),
            scale=parameters["lambda"],
        )
