"""What `learn` writes down of itself: `learned.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mergekit_fair.errors import MeasurementError
from mergekit_fair.learn.coefficients import Per
from mergekit_fair.learn.objectives import Goal
from mergekit_fair.schema import Record, read_sealed

RESULTS, RECIPE = "learned.json", "recipe.yml"


class LearnOptions(Record):
    """How λ were learned.

    Attributes:
        objective: that was made small; `mu` is what a gap counts in it.
        per: what shared a number; `rounds` of the difference vector followed.
        epochs: at most, of each round.
        folds: of cross-fitting.
        posterior: whether the numbers are expectations of spike-and-slab posteriors.
    """

    objective: Goal
    mu: float
    per: Per
    rounds: int
    epochs: int
    folds: int
    learning_rate: float
    batch_size: int
    bf16: bool
    posterior: Literal["none", "spike-and-slab"]
    seed: int
    min_group_size: int


class RowFigures(Record):
    """What a model gives on some rows; None where undefined.

    Attributes:
        objective: its value.
        acc, dpd, eod, selection_rate: of predictions; gaps are max − min over the groups that
            decide.
    """

    objective: float
    acc: float
    dpd: float | None
    eod: float | None
    selection_rate: float


class Epoch(Record):
    """A number of epochs, in the mean of folds.

    Attributes:
        epoch: 0 is the recipe as it was given.
        fitted: on the rows that λ were learned on.
        left_out: on the other rows.
    """

    epoch: int
    fitted: RowFigures
    left_out: RowFigures


class Learned(Record):
    """All that a run of `learn` has found.

    Attributes:
        recipe: its file; `data` is the data set.
        options: how.
        rows: validation rows that λ were learned on; `left_out_rows` repeat training rows.
        numbers: how many were learned at once.
        epochs: what each number of epochs gives in cross-fitting.
        chosen: the number whose objective on left-out rows is least, learned anew on all rows;
            0: the recipe stays as it is.
        validation: of the learned merge on all these rows, which it was learned on.
        lambdas: vector → tensor → λ.
        shares: vector → tensor → π, how likely λ is not 0; of a posterior.
        notes: one sentence each.
        versions: packages.
    """

    schema_version: Literal[1] = 1
    recipe: str
    data: str
    options: LearnOptions
    rows: int
    left_out_rows: int
    numbers: int
    epochs: list[Epoch]
    chosen: int
    validation: RowFigures | None
    lambdas: dict[str, dict[str, float]]
    shares: dict[str, dict[str, float]] | None
    notes: list[str]
    versions: dict[str, str]

    def recipe_note(self) -> dict[str, Any]:
        """What the recipe's `fairness` block says of where its numbers come from."""
        options = self.options
        return {
            "tool": "mergekit-fair",
            "task": self.data,
            "rule": f"learn: {options.objective} by gradient, one number for each {options.per} "
            f"and vector, {self.chosen} epochs",
            "selected_on": "validation",
        }


def read_learned(folder: Path) -> Learned:
    """The record in a folder that `learn` has written.

    Raises:
        MeasurementError: there is none, or it is damaged or was edited.
    """
    fix = "run `mergekit-fair learn` again"
    content = read_sealed(folder / RESULTS, "record of learned λ", MeasurementError, fix=fix)
    return Learned.from_dict(content, where=folder / RESULTS)
