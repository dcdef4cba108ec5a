"""What `heads` has found, as `heads.json`: the types that write it and read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.evaluate import Evaluation
from mergekit_fair.fairness.claims import JudgedDifference
from mergekit_fair.schema import Record, read_sealed

# What a run of `heads` writes, beside the vectors.
RECIPE, RESULTS, ROWS, PAGE = "recipe.yml", "heads.json", "report_rows.csv", "report.html"
TARGET, HEAD = "target", "fair head"
_SHOWN = ("acc", "dpd", "eod", "selection_rate")
RANDOM, WHOLE, BALANCED = "random directions", "whole layer", "balanced refit"
THRESHOLDS = "group thresholds"
# What stands beside a fair head to compare it with; none of them is a candidate.
CONTROLS = {
    RANDOM: "as many random directions, fitted in the same way",
    WHOLE: "every weight of the layer, by the same objective on training and validation rows",
    BALANCED: "deep feature reweighting: the last layer fitted anew, all groups and labels alike",
    THRESHOLDS: "thresholds by group on the target's scores, set on validation rows",
}
# Those that cannot predict without the group of every row, and so are no head.
NEEDS_GROUPS = frozenset({THRESHOLDS})
# What every output says.
NOTE = (
    "Group labels were needed to fit this head; none are needed to predict. It reads proxies of "
    "the group from the input, which some laws treat as a use of the attribute. What was measured "
    "on these rows says nothing of others."
)


class HeadOptions(Record):
    """How the head was asked for.

    Attributes:
        metric: the gap that was to become smaller, `eod` or `dpd`.
        mu: as given; None: chosen by cross-fitting.
        tolerance: accuracy that might be given up on cross-fitted rows.
        seed: of folds and draws.
        reference, confidence, min_group_size: as in `MetricSettings`.
    """

    metric: Literal["eod", "dpd"]
    mu: float | None
    tolerance: float
    seed: int
    reference: str
    confidence: float
    min_group_size: int


class TriedMu(Record):
    """What a μ gave on validation rows whose coefficients were fitted on the other folds."""

    mu: float
    acc: float | None
    dpd: float | None
    eod: float | None
    selection_rate: float | None
    acceptable: bool


class SoftChange(Record):
    """Change of the soft gap of cross-fitted rows, and its one-sided upper limit."""

    value: float
    high: float


class HeadVector(Record):
    """One vector of the head.

    Attributes:
        name: the cell that its probe tells from the others, or `constant`.
        folder: below the output.
        weight: its coefficient a.
        rows: training rows of the cell; None of the constant.
        norm: ‖v‖₂.
    """

    name: str
    folder: str
    weight: float
    rows: int | None
    norm: float


class Compared(Record):
    """A model beside the target on report rows.

    Attributes:
        evaluation: its own figures.
        differences: metric → model minus target, paired; empty of the target itself.
        needs_groups: it needs the group of every row at prediction time.
        is_control: it is there to compare with, and no candidate.
        said: what a reader should know of it.
    """

    evaluation: Evaluation
    differences: dict[str, JudgedDifference]
    needs_groups: bool = False
    is_control: bool = False
    said: str | None = None


class HeadResults(Record):
    """All that a run of `heads` has found.

    Attributes:
        model: the target's folder, as given.
        sketch: of its weights.
        data: name of the data set.
        layer: the module whose weights move.
        options: how the head was asked for.
        rows: split → rows that were used.
        left_out_rows: validation rows whose text or picture is a training row's, too.
        left_out_cells: cells without a direction.
        tried: every μ.
        mu: the one that was taken; None where the head stays.
        change: of the soft gap; None where no μ was acceptable.
        stays: why the head is the target's; None where it moves.
        vectors: of the recipe; empty where the head stays.
        report: name → model on report rows, opened once; empty where the head stays.
        warnings: of data, model and figures.
        versions: of the packages that a number depends on.
    """

    schema_version: Literal[1] = 1
    model: str
    sketch: str
    data: str
    layer: str
    options: HeadOptions
    rows: dict[str, int]
    left_out_rows: int
    left_out_cells: list[str]
    tried: list[TriedMu]
    mu: float | None
    change: SoftChange | None
    stays: str | None
    vectors: list[HeadVector]
    report: dict[str, Compared]
    warnings: list[str]
    versions: dict[str, str]

    @property
    def differences(self) -> dict[str, JudgedDifference]:
        """Fair head minus target, on report rows."""
        return self.report[HEAD].differences

    def recipe_note(self) -> dict[str, Any]:
        """What the recipe's `fairness` block says of where its numbers come from."""
        options = self.options
        kept = f"accuracy of left-out rows within {options.tolerance:g}"
        if options.mu is not None:
            kept = "as given"
        note: dict[str, Any] = {
            "tool": "mergekit-fair",
            "task": self.data,
            "rule": f"fair head: minimize {options.metric}, mu {self.mu:g}, {kept}; group labels "
            "to fit it, none to predict",
            "selected_on": "validation",
        }
        if HEAD in self.report:
            metrics = self.report[HEAD].evaluation.metrics
            note["report"] = {name: metrics[name].value for name in _SHOWN}
        return note


def read_heads(path: Path) -> HeadResults:
    """A `heads.json`.

    Raises:
        MeasurementError: no such file, damaged or edited, or of a version that is not known.
    """
    content = read_sealed(
        path,
        "result of `heads`",
        MeasurementError,
        fix="give a heads.json as `mergekit-fair heads` has written it, or fit the heads again",
        needs_seal=lambda _: True,
    )
    return HeadResults.from_dict(content, where=path)
