"""Task analogy: A is to B as C is to what is looked for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import StrEnum
from typing import Any

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.formula import Formula, Term
from mergekit_fair.merging.methods.members import members_by_role
from mergekit_fair.merging.methods.shared_parameters import HEAD, LAMBDA, SPARSE
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    sparse_settings,
)


class Part(StrEnum):
    """The places of an analogy: `a` is to `b` as `c` is to the result."""

    A = "a"
    B = "b"
    C = "c"


class TaskAnalogy(TaskVectorMethod):
    """θ(λ) = θ₀ + λ (τ_C + τ_B − τ_A), τ = θ − θ₀.

    Concept: for a subgroup with few labelled rows. With A = majority (language modelling),
    B = minority (language modelling) and C = majority (task), the result stands for the minority's
    task model.
    Inputs: the base θ₀ and three models, `role: a`, `b` and `c`, one each.
    Key parameters: `lambda`; `density` and `sparsify` of each vector.
    Numerics: float64, rounded once; λ = 0 returns the base bit for bit.
    Source: "Editing Models with Task Arithmetic", arXiv 2212.04089, §5.
    """

    spec = MethodSpec(
        name="task_analogy",
        pretty_name="Task Analogy",
        reference_url="https://arxiv.org/abs/2212.04089",
        fewest=3,
        most=3,
        parameters=(
            ParameterSpec(
                "role",
                Part,
                ParameterScope.NON_BASE,
                description="a, b or c in θ0 + λ(τ_C + τ_B − τ_A), one model each",
            ),
            LAMBDA,
            HEAD,
            *SPARSE,
        ),
    )

    def check(self, raw: dict[str, Any], where: str) -> None:
        counts = {role: len(items) for role, items in members_by_role(raw, Part, where).items()}
        if any(count != 1 for count in counts.values()):
            raise RecipeError("needs one model each with role: a, b and c", where=where, got=counts)

    def first(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Hashable:
        return _parts(inputs, parameters)[Part.C]

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        parts, densities = _parts(inputs, parameters), parameters["density"]
        signs = {Part.C: 1.0, Part.B: 1.0, Part.A: -1.0}
        return Formula(
            start=inputs.base,
            base=inputs.base,
            terms=tuple(
                Term(sign, parts[part], densities[parts[part]], part)
                for part, sign in signs.items()
            ),
            scale=parameters["lambda"],
            **sparse_settings(parameters),
        )


def _parts(inputs: TensorInputs, parameters: Mapping[str, Any]) -> dict[str, Hashable]:
    roles = parameters["role"]
    parts: dict[str, Hashable] = {roles[model]: model for model in inputs.models}
    if len(parts) != len(Part) or len(inputs.models) != len(Part):
        listed = ", ".join(sorted(roles[model] for model in inputs.models))
        raise ValueError(f"one model each needs role: a, b and c; got {listed}")
    return parts
