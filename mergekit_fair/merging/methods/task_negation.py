"""Task negation: move away from what a model has learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.declaration import MethodSpec
from mergekit_fair.merging.methods.formula import Formula, Term
from mergekit_fair.merging.methods.members import members_of
from mergekit_fair.merging.methods.shared_parameters import HEAD, LAMBDA, SPARSE
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    sparse_settings,
)


class TaskNegation(TaskVectorMethod):
    """θ(λ) = θ₀ − λ (θ_task − θ₀).

    Concept: a model fine-tuned on unwanted behaviour is subtracted from its base. λ is chosen for
    the lowest target metric that keeps the control metric near the base's.
    Inputs: the base θ₀ and exactly one fine-tuned model.
    Key parameters: `lambda`; `density` and `sparsify`.
    Numerics: float64, rounded once; λ = 0 returns the base bit for bit.
    Source: "Editing Models with Task Arithmetic", arXiv 2212.04089, §3.
    """

    spec = MethodSpec(
        name="task_negation",
        pretty_name="Task Negation",
        reference_url="https://arxiv.org/abs/2212.04089",
        most=1,
        parameters=(LAMBDA, HEAD, *SPARSE),
    )

    def check(self, raw: dict[str, Any], where: str) -> None:
        count = len(members_of(raw, "group", where))
        if count != 1:
            raise RecipeError(
                "needs exactly one model beside base_model, the one to move away from",
                where=where,
                got=count,
            )

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        (model,) = inputs.models
        return Formula(
            start=inputs.base,
            base=inputs.base,
            terms=(Term(1.0, model, parameters["density"][model], "task"),),
            scale=-parameters["lambda"],
            **sparse_settings(parameters),
        )
