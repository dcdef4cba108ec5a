"""FedNova: task vectors divided by their optimiser steps."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.declaration import ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.formula import Formula
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.shared_parameters import (
    ELECTION,
    SPARSE,
    Positive,
    federated_spec,
)
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    sparse_settings,
    subgroup_terms,
)
from mergekit_fair.merging.references import base_and_adapter
from mergekit_fair.schema import parse_json, read_text

# What `mergekit-fair train` writes, with the steps of every model below the folder.
TRAINING = "train.json"


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

    spec = federated_spec(
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

    def resolve(self, raw: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]] | None:
        """Steps that are not given are read from the `train.json` above the models."""
        changed, notes = copy.deepcopy(raw), []
        if "steps" in parameters_of(raw):
            return None
        for item in changed["models"]:
            parameters = parameters_of(item)
            if "group" in parameters and "steps" not in parameters:
                file, steps = _steps(_folder(str(item["model"])), where)
                parameters["steps"] = steps
                notes.append(f"steps of {parameters['group']}: {steps:g} (from {file})")
        return (changed, notes) if notes else None

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


def _folder(model: str) -> Path:
    """A model's own; of an adapter the adapter's."""
    return Path(base_and_adapter(model, model)[1] or model)


def _steps(model: Path, where: str) -> tuple[Path, float]:
    """The optimiser steps that `mergekit-fair train` has written down for a model."""
    for family in list(model.absolute().parents)[:3]:
        file = family / TRAINING
        if not file.is_file():
            continue
        name = model.absolute().relative_to(family).as_posix()
        try:
            return file, float(parse_json(read_text(file))["runs"][name]["steps"])
        except (ValueError, LookupError, TypeError) as error:
            raise RecipeError(
                f"has no steps of {name}", where=file, fix="give parameters.steps in the recipe"
            ) from error
    raise RecipeError(
        f"needs parameters.steps: there is no {TRAINING} above the model",
        where=f"{where}: model {model}",
        fix="give the number of optimiser steps of every model",
    )
