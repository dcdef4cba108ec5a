"""Aggregation rules of one-shot federated learning, with subgroups in the place of clients."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from mergekit.merge_methods import BasePolicy, InputContract, MergeMethodSpec, ParameterScope
from mergekit.merge_methods.base import ParameterSpec

from mergekit_fair.merging.methods.formula import Formula, Reduction
from mergekit_fair.merging.methods.shared_parameters import (
    ELECTION,
    GROUP,
    HEAD,
    LAMBDA,
    SPARSE,
    WEIGHT,
    NonNegative,
    Positive,
    Share,
)
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    norms_in,
    sparse_settings,
    subgroup_terms,
)

SOURCE = "https://arxiv.org/abs/2411.18607"


def _spec(name: str, title: str, *own: ParameterSpec) -> MergeMethodSpec:
    return MergeMethodSpec(
        name=name,
        pretty_name=title,
        reference_url=SOURCE,
        contract=InputContract(base=BasePolicy.REQUIRED, min_non_base=1),
        parameters=(GROUP, WEIGHT, LAMBDA, HEAD, *own),
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

    spec = _spec(
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


class TaskMedian(TaskVectorMethod):
    """θ(λ) = θ₀ + λ median_g w_g (θ_g − θ₀), element by element.

    Of an even number of groups, the mean of the middle two. Groups of weight 0 do not take part.
    Concept: one subgroup whose vector is far from the others' cannot carry the merge away.
    Inputs: the base θ₀ and one model per subgroup.
    Numerics: float64, rounded once.
    Source: arXiv 2411.18607 (coordinate-wise median).
    """

    spec = _spec("task_median", "Task Median")

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        return Formula(
            start=inputs.base,
            base=inputs.base,
            terms=subgroup_terms(inputs, parameters),
            scale=parameters["lambda"],
            reduction=Reduction.MEDIAN,
        )


class CClip(TaskVectorMethod):
    """θ(λ) = θ₀ + λ Σ_g w_g (θ_g − θ₀) · min(1, ρ / ‖θ_g − θ₀‖₂).

    The norm is taken over all merged tensors; ρ at or above the largest norm is task addition.
    Concept: centred clipping; no subgroup moves the base further than ρ.
    Inputs: the base θ₀ and one model per subgroup.
    Numerics: float64, rounded once; groups are summed in the order of their names.
    Source: arXiv 2411.18607 (centered clipping).
    """

    spec = _spec(
        "cclip",
        "CClip",
        ParameterSpec(
            "rho",
            NonNegative,
            ParameterScope.SHARED,
            description="ρ, the largest norm that a task vector keeps",
        ),
    )

    def needs_norms(self, parameters: Mapping[str, Any]) -> bool:
        del parameters
        return True

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        norms, radius = norms_in(inputs), parameters["rho"]
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


class FedNova(TaskVectorMethod):
    """θ(λ) = θ₀ + λ Σ_g w_g s̄ / (s_g n) (θ_g − θ₀), s_g optimiser steps, s̄ their mean.

    With n groups of equal steps this is the mean of the task vectors.
    Concept: a subgroup that was trained for longer has a longer vector for that reason alone.
    Inputs: the base θ₀ and one model per subgroup; in a recipe, steps that are not given are read
    from the `train.json` of the models' family.
    Key parameters: `lambda`, `steps`; `density`, `sparsify` and `sign_election` as in subgroup
    task addition.
    Numerics: float64, rounded once; groups are summed in the order of their names.
    Source: arXiv 2411.18607 (normalised averaging).
    """

    spec = _spec(
        "fednova",
        "FedNova",
        ParameterSpec(
            "steps",
            Positive,
            ParameterScope.NON_BASE,
            description="s_g, optimiser steps of the model; from train.json if left out",
        ),
        *SPARSE,
        ELECTION,
    )

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        steps = parameters["steps"]
        mean = statistics.fmean(steps[model] for model in inputs.models)
        count = len(inputs.models)
        factors = {model: mean / (steps[model] * count) for model in inputs.models}
        return Formula(
            start=inputs.base,
            base=inputs.base,
            terms=subgroup_terms(inputs, parameters, factors),
            scale=parameters["lambda"],
            election=parameters["sign_election"],
            **sparse_settings(parameters),
        )
