"""Fair head: task vectors that live in the classification head, added to a fine-tuned model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.formula import Formula
from mergekit_fair.merging.methods.shared_parameters import FiniteFloat, GroupName
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    subgroup_terms,
)

# A target's dtype → what its recipe says, so that vectors in float32 are added as they are.
_WRITTEN = {
    "F64": {"dtype": "float64"},
    "F32": {"dtype": "float32"},
    "F16": {"dtype": "float32", "out_dtype": "float16"},
    "BF16": {"dtype": "float32", "out_dtype": "bfloat16"},
}


class FairHeadMethod(TaskVectorMethod):
    """θ = θ_target + λ Σ_c a_c v_c, with v_c zero outside the head.

    Concept: the fairest rule that needs no group at prediction time is linear in the score and in
    the predicted group membership. Where both are linear in the head's input features, that rule is
    the head itself plus a few directions v_c (cells of group and label), each a task vector in the
    head; the backbone stays as it is.
    Inputs: the target as `base_model`, and one vector folder for each direction, as
    `mergekit-fair heads` writes them: differences v_c fitted on this target's features, in a file
    of the tensors that they change. A vector of another target is refused.
    Key parameters: `weight`, the coefficient a_c; `lambda`, 1 as fitted, 0 the target.
    Numerics: float64, rounded once. Vectors are summed in the order of their names. λ = 0, or all
    weights 0, returns the target bit for bit; a tensor that no vector holds is the target's to the
    bit at every λ. A target in bfloat16 or float16 needs `dtype: float32` with `out_dtype`, so that
    no vector is rounded before it is added.
    Source: linear rules of the score and the group, arXiv 2310.05725 and 2405.04025; a head that is
    a sum of heads, arXiv 2407.13710.
    """

    adds_differences = True

    spec = MethodSpec(
        name="fair_head",
        pretty_name="Fair Head",
        reference_url="https://arxiv.org/abs/2407.13710",
        parameters=(
            ParameterSpec(
                "group",
                GroupName,
                ParameterScope.NON_BASE,
                description="the group, or cell of group and label, that the vector stands for; "
                "unique",
            ),
            ParameterSpec(
                "weight",
                FiniteFloat,
                ParameterScope.NON_BASE,
                default=1.0,
                description="a_c, multiplied with λ; may be negative",
            ),
            ParameterSpec(
                "lambda",
                FiniteFloat,
                ParameterScope.SHARED,
                default=1.0,
                description="λ, how far to go from the target (0) to the fitted head (1)",
            ),
        ),
    )

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        terms = subgroup_terms(inputs, parameters)
        return Formula(
            start=inputs.base,
            base=inputs.base,
            terms=tuple(replace(term, is_difference=True) for term in terms),
            scale=parameters["lambda"],
        )


def fair_head_recipe(
    target: str,
    vectors: Mapping[str, tuple[str, float]],
    dtypes: Iterable[str],
    *,
    lambda_: float = 1.0,
) -> dict[str, Any]:
    """The recipe of θ_target + λ Σ_c a_c v_c, whose result has the target's dtypes.

    >>> recipe = fair_head_recipe("runs/fft", {"v/Female-1": ("Female, 1", 0.5)}, ["BF16"])
    >>> recipe["dtype"], recipe["out_dtype"]
    ('float32', 'bfloat16')

    Args:
        target: its folder.
        vectors: vector folder → (name of the direction, a_c).
        dtypes: of the target's floating tensors, as safetensors names them. With several of them
            the recipe names none: each tensor is added up in the widest of its own inputs'.
        lambda_: λ.
    """
    recipe: dict[str, Any] = {
        "merge_method": FairHeadMethod.spec.name,
        "base_model": target,
        "models": [
            {"model": model, "parameters": {"group": group, "weight": weight}}
            for model, (group, weight) in vectors.items()
        ],
        "parameters": {"lambda": lambda_},
    }
    distinct = set(dtypes)
    return recipe | (_WRITTEN[distinct.pop()] if len(distinct) == 1 else {})
