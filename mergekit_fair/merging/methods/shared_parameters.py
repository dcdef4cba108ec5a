"""The parameters that several methods share, as mergekit declares them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.formula import Election, Sparsifier
from mergekit_fair.merging.methods.head_policy import HeadPolicy

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
GroupName = Annotated[str, Field(min_length=1)]


class Rescale(StrEnum):
    """`l1` scales a sparse vector to the L1 norm that it had; `auto` does so for `random` only."""

    AUTO = "auto"
    L1 = "l1"
    NONE = "none"


GROUP = ParameterSpec(
    "group",
    GroupName,
    ParameterScope.NON_BASE,
    description="the subgroup that the model was fine-tuned on; unique",
)
WEIGHT = ParameterSpec(
    "weight",
    FiniteFloat,
    ParameterScope.NON_BASE,
    default=1.0,
    description="w_g, multiplied with λ; may be negative",
)
LAMBDA = ParameterSpec(
    "lambda",
    FiniteFloat,
    ParameterScope.SHARED,
    default=1.0,
    description="λ, how far to move along the task vectors",
)
HEAD = ParameterSpec(
    "head",
    HeadPolicy,
    ParameterScope.SHARED,
    default=HeadPolicy.MERGE,
    description="classification head: merge, or copy of the base or first model",
)
DENSITY = ParameterSpec(
    "density",
    Share,
    ParameterScope.NON_BASE,
    default=1.0,
    description="share of the vector's elements that is kept, tensor by tensor",
)
SPARSIFIER = ParameterSpec(
    "sparsify",
    Sparsifier,
    ParameterScope.SHARED,
    default=Sparsifier.MAGNITUDE,
    description="which elements a density below 1 keeps: the largest (TIES) or random ones (DARE)",
)
RESCALE = ParameterSpec(
    "rescale",
    Rescale,
    ParameterScope.SHARED,
    default=Rescale.AUTO,
    description="scaling of sparse vectors: l1 (to their former norm), none, auto (l1 if random)",
)
SEED = ParameterSpec(
    "seed",
    int,
    ParameterScope.SHARED,
    default=0,
    description="of random sparsification",
)
ELECTION = ParameterSpec(
    "sign_election",
    Election,
    ParameterScope.SHARED,
    default=Election.NONE,
    description="TIES: keep elements of the elected sign, by sum or by count",
)
SPARSE = (DENSITY, SPARSIFIER, RESCALE, SEED)


def federated_spec(name: str, title: str, *more: ParameterSpec) -> MethodSpec:
    """Of a rule of one-shot federated learning, with subgroups in the place of clients."""
    return MethodSpec(
        name=name,
        pretty_name=title,
        reference_url="https://arxiv.org/abs/2411.18607",
        parameters=(GROUP, WEIGHT, LAMBDA, HEAD, *more),
    )
