"""AWD: what all task vectors share is taken out of them before they are added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.formula import Formula, Term
from mergekit_fair.merging.methods.shared_parameters import GROUP, HEAD, LAMBDA, WEIGHT, Positive
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    require_distinct,
    whole_vectors,
)
from mergekit_fair.merging.methods.whole_vectors import Measured


class AWD(TaskVectorMethod):
    """θ(λ) = θ₀ + λ Σ_g w_g (Δ_g − δ), Δ_g = θ_g − θ₀, δ the redundant vector that they share.

    δ = Σ_g d_g Δ_g minimises mean_{g<h} cos²(Δ_g − δ, Δ_h − δ) + α ‖δ‖₂ / mean_g ‖Δ_g‖₂: what is
    left of the vectors is as orthogonal as a short δ makes it. Cosines and norms are over all
    merged tensors, weights do not enter δ, and α does not depend on the vectors' scale.
    Concept: orthogonal task vectors interfere less; what they have in common is added once too
    often. It is a sum of task vectors again, λ_g = λ (w_g − d_g Σ_h w_h).
    Inputs: the base θ₀ and one model per subgroup. From some α on δ = 0, as with one model or with
    vectors that are orthogonal, and this is subgroup task addition; of two equal vectors nothing is
    left below α = 1. A model that equals the base takes no part.
    Only combinations of the Δ_g are looked at: at such a δ the gradient is one again, so that
    gradient descent over all weights stays there, and a part of δ orthogonal to all Δ_g would enter
    every inner product by its length only: its direction would be arbitrary.
    Numerics: one pass for all inner products, which are cached; δ by L-BFGS from fixed starts; then
    float64, rounded once. Groups are ordered by name. λ = 0 returns the base bit for bit.
    Source: arXiv 2411.18729, with squared cosines and ‖δ‖ in units of the mean norm.
    """

    spec = MethodSpec(
        name="awd",
        pretty_name="Adaptive Weight Disentanglement",
        reference_url="https://arxiv.org/abs/2411.18729",
        parameters=(
            GROUP,
            WEIGHT,
            LAMBDA,
            ParameterSpec(
                "alpha",
                Positive,
                ParameterScope.SHARED,
                default=0.01,
                description="α, what a δ as long as the mean task vector costs, in mean cos²",
            ),
            HEAD,
        ),
    )

    def measures(self, parameters: Mapping[str, Any]) -> Measured:
        del parameters
        return Measured.PRODUCTS

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        from mergekit_fair.merging.methods.redundant_vector import redundant_vector  # numpy

        names, weights = parameters["group"], parameters["weight"]
        require_distinct(sorted(names[model] for model in inputs.models))
        whole = whole_vectors(inputs)
        models = sorted(inputs.models, key=lambda model: names[model])
        moved = [model for model in models if whole.norms[model] > 0]
        shares = redundant_vector(whole.gram(moved), parameters["alpha"])
        total = sum(weights[model] for model in moved)
        left = {
            model: weights[model] - share * total
            for model, share in zip(moved, shares, strict=True)
        }
        return Formula(
            start=inputs.base,
            base=inputs.base,
            terms=tuple(Term(left[m], m, label=names[m]) for m in moved if left[m] != 0),
            scale=parameters["lambda"],
        )
