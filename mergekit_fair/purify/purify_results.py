"""What `purify` writes down of itself: `purify.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mergekit_fair.errors import CheckpointError, MeasurementError
from mergekit_fair.schema import Record, read_sealed

RESULTS, RECIPE = "purify.json", "recipe.yml"
Allocation = Literal["uniform", "models", "layers"]
Matrix = Literal["weights", "vectors"]


class PurifiedLayer(Record):
    """One layer of a model.

    Attributes:
        tensor: its weights, as the file calls them.
        shape: (outputs, inputs).
        rank: r that was kept, of `full_rank`.
        energy: Σ_{i ≤ r} σ_i² / Σ σ_i²; None where all σ are 0.
        error: ‖X(Δ − Δ')ᵀ‖_F / ‖XΔᵀ‖_F on the rows, before weights are rounded to the file's dtype;
            None of a layer that fine-tuning has left as it was, Δ = 0.
        inputs: N, the input vectors that C is of.
    """

    tensor: str
    shape: list[int]
    rank: int
    full_rank: int
    energy: float | None
    error: float | None
    inputs: int


class PurifiedModel(Record):
    """One model of the recipe.

    Attributes:
        model: as the recipe named it.
        folder: below the output.
        rows: whose inputs were read.
        group: whose rows these are; None: of everybody.
        layers: what was purified.
        notes: what was left alone, one sentence each.
    """

    model: str
    folder: str
    rows: int
    group: str | None
    layers: list[PurifiedLayer]
    notes: list[str]


class Purification(Record):
    """All that a run of `purify` has done.

    Attributes:
        recipe: its file; `base` is θ₀ and `data` the data set.
        of: which matrix was cut, the fine-tuned `weights` (as published) or their `vectors` Δ.
        allocate: which layers share a budget of ranks.
        keep, rank: the share of full ranks, or the rank, that was asked for.
        ridge: ε as a share of the mean of C's diagonal.
        seed: of the choice of rows.
        models: name of the vector → what became of it.
        versions: packages.
    """

    schema_version: Literal[1] = 1
    recipe: str
    base: str
    data: str
    of: Matrix
    allocate: Allocation
    keep: float | None
    rank: int | None
    ridge: float
    seed: int
    models: dict[str, PurifiedModel]
    versions: dict[str, str]


def read_purification(folder: Path) -> Purification:
    """The record in a folder that `purify` has written.

    Raises:
        CheckpointError: there is none, or it is damaged or was edited.
    """
    path, fix = folder / RESULTS, "run `mergekit-fair purify` again"
    content = read_sealed(path, "record of a purification", CheckpointError, fix=fix)
    try:
        return Purification.from_dict(content, where=path)
    except MeasurementError as error:
        raise CheckpointError(
            f"is no record of a purification ({error.problem})", where=path, fix=fix
        ) from error
