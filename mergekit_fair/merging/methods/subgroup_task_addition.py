"""Subgroup task addition: one task vector per demographic subgroup, added with one λ."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping
from enum import StrEnum
from typing import Any

from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.formula import Formula
from mergekit_fair.merging.methods.shared_parameters import (
    ELECTION,
    GROUP,
    HEAD,
    LAMBDA,
    SPARSE,
    WEIGHT,
)
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    sparse_settings,
    subgroup_terms,
    whole_vectors,
)
from mergekit_fair.merging.methods.whole_vectors import Measured


class Normalize(StrEnum):
    """`sum`: Σ_g w_g Δ_g, the paper's; `mean`: divided by the number of groups G; `norm`: every
    Δ_g scaled to the median of the norms."""

    SUM = "sum"
    MEAN = "mean"
    NORM = "norm"


class SubgroupTaskAddition(TaskVectorMethod):
    """θ(λ) = θ₀ + λ Σ_g w_g (θ_g − θ₀).

    With `normalize: mean`, λ is divided by G; with `norm`, w_g is multiplied with
    median_h ‖Δ_h‖₂ / ‖Δ_g‖₂, norms over all merged tensors.
    Concept: each subgroup model θ_g was fine-tuned from the base θ₀ on the rows of one
    demographic group; λ moves the base along the sum of the subgroup vectors.
    Inputs: the base model and one model per subgroup, tensors of any one shape.
    Key parameters: `lambda`, `normalize`; `density`, `sparsify` and `sign_election` make it TIES
    or DARE (arXiv 2306.01708, 2311.03099), where `mean` divides by the weights that agree.
    Numerics: float64, rounded once. Groups are summed in the order of their names, so the order in
    the recipe changes nothing. λ = 0 returns the base bit for bit.
    Source: "On Fairness of Task Arithmetic", arXiv 2505.24262.
    """

    spec = MethodSpec(
        name="subgroup_task_addition",
        pretty_name="Subgroup Task Addition",
        reference_url="https://arxiv.org/abs/2505.24262",
        parameters=(
            GROUP,
            WEIGHT,
            LAMBDA,
            ParameterSpec(
                "normalize",
                Normalize,
                ParameterScope.SHARED,
                default=Normalize.SUM,
                description="sum (the paper), mean (λ / number of groups), norm (median norm)",
            ),
            HEAD,
            *SPARSE,
            ELECTION,
        ),
    )

    def measures(self, parameters: Mapping[str, Any]) -> Measured:
        is_read = parameters["normalize"] == Normalize.NORM
        return Measured.NORMS if is_read else Measured.NOTHING

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        scale, normalize = parameters["lambda"], parameters["normalize"]
        factors = None
        if normalize == Normalize.NORM:
            factors = to_median(whole_vectors(inputs).norms, inputs)
        terms = subgroup_terms(inputs, parameters, factors)
        election = parameters["sign_election"]
        is_mean = normalize == Normalize.MEAN
        if is_mean and election == "none":
            scale /= len(inputs.models)
        return Formula(
            start=inputs.base,
            base=inputs.base,
            terms=terms,
            scale=scale,
            election=election,
            is_mean=is_mean,
            **sparse_settings(parameters),
        )


def to_median(norms: Mapping[Hashable, float], inputs: TensorInputs) -> dict[Hashable, float]:
    """Model → median norm / its norm; 0 for a vector that is zero everywhere."""
    median = statistics.median(norms[model] for model in inputs.models)
    return {model: median / norms[model] if norms[model] else 0.0 for model in inputs.models}


def addition_recipe(
    base: str, vectors: Mapping[str, tuple[str, float]], dtype: str | None, *, lambda_: float
) -> dict[str, Any]:
    """The recipe of θ₀ + λ Σ_g w_g (θ_g − θ₀).

    Args:
        base: θ₀.
        vectors: model → (group, w_g).
        dtype: of the result; None for the models' own.
        lambda_: λ.
    """
    recipe: dict[str, Any] = {
        "merge_method": SubgroupTaskAddition.spec.name,
        "base_model": base,
        "models": [
            {"model": model, "parameters": {"group": group, "weight": weight}}
            for model, (group, weight) in vectors.items()
        ],
        "parameters": {"lambda": lambda_, "normalize": Normalize.SUM.value},
    }
    return recipe | ({"dtype": dtype} if dtype else {})


def adapter_alone(base: str, adapter: str) -> dict[str, Any]:
    """The recipe of one adapter merged into its base, in the base's dtype: θ₀ + 1 · (θ − θ₀)."""
    return addition_recipe(base, {adapter: ("adapter", 1.0)}, None, lambda_=1.0)
