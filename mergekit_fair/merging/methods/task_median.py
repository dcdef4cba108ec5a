"""Task median: the element-wise median of the task vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_fair.merging.methods.formula import Formula, Reduction
from mergekit_fair.merging.methods.shared_parameters import federated_spec
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    subgroup_terms,
)


class TaskMedian(TaskVectorMethod):
    """θ(λ) = θ₀ + λ median_g w_g (θ_g − θ₀), element by element.

    Of an even number of groups, the mean of the middle two. Groups of weight 0 do not take part.
    Concept: one subgroup whose vector is far from the others' cannot carry the merge away.
    Inputs: the base θ₀ and one model per subgroup.
    Numerics: float64, rounded once.
    Source: arXiv 2411.18607 (coordinate-wise median).
    """

    spec = federated_spec("task_median", "Task Median")

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        return Formula(
            start=inputs.base,
            base=inputs.base,
            terms=subgroup_terms(inputs, parameters),
            scale=parameters["lambda"],
            reduction=Reduction.MEDIAN,
        )
