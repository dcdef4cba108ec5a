"""What a sweep writes and reads again: lines of `points.jsonl`, and `results.json`.

The same types write and read: what is damaged, or comes from a version that says something else,
is refused by name and never half read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mergekit_fair.errors import FairError, SweepError
from mergekit_fair.evaluation.evaluate import Evaluation, Level
from mergekit_fair.fairness import HEADLINE
from mergekit_fair.fairness.intervals import Interval, Number
from mergekit_fair.files import write_atomic
from mergekit_fair.schema import Record, parse_json

# Of results.json and plan.json. Version 1 (0.1 of the package) named no version.
SCHEMA_VERSION = 2
SATURATED = "saturated"

PointKind = Literal["baseline", "merge", "control", "search", "injection", "thresholds", "model"]
Part = TypeVar("Part", bound="SweepRecord")
Names = Annotated[tuple[str, ...], Field(strict=False)]  # a list, in JSON

# Attributes that have another name in JSON.
_KEYS = {"lambda_": "lambda", "lambda_l1": "size", "is_identity": "adds_nothing"}
_RUN_AGAIN = "run `mergekit-fair sweep SWEEP -o {}` again; points that this version knows are kept"


class SweepRecord(Record):
    """A part of what a sweep writes. Keys that this version does not know are passed over, so that
    results of 0.1 can be read."""

    model_config = ConfigDict(
        extra="ignore",
        populate_by_name=True,
        alias_generator=lambda name: _KEYS.get(name, name),
    )

    # Keys that are left out of the JSON where there is nothing to say.
    optional: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        left_out = {key for key in self.optional if content.get(key) in (None, {})}
        return {key: value for key, value in content.items() if key not in left_out}


class PlannedPoint(SweepRecord):
    """One model to measure, as plan.json lists it.

    Attributes:
        id: 16 hex digits, a digest of everything that its numbers depend on.
        label: unique within the sweep.
        settings: λ and the like that this point sets.
        lambda_: its λ, where one number says it.
        lambda_eff: signed sum of the λ_g; None where a recipe has no such number.
        lambda_l1: Σ_g |λ_g| of what is added to the base or the target.
        is_identity: what it adds is nothing.
    """

    id: str
    kind: PointKind
    label: str
    settings: dict[str, float | str]
    lambda_: Number
    lambda_eff: Number
    lambda_l1: Number = None
    is_identity: bool = False


class PointResult(PlannedPoint):
    """One model measured on one split: a line of points.jsonl, an entry of results.json.

    Attributes:
        evaluation: of the deciding task; None with an error.
        tasks: further task → evaluation.
        error: why nothing could be measured.
        seconds: of weights and forward passes; not in results.json, which depends on no machine.
        refused: why it may not be chosen although it was measured.
    """

    optional = ("evaluation", "tasks", "error", "seconds", "refused")

    split: str
    evaluation: Evaluation | None = None
    tasks: dict[str, Evaluation] = {}
    error: str | None = None
    seconds: Number = None
    refused: str | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.evaluation is None and not self.error:
            raise ValueError("neither an evaluation nor an error")
        for evaluation in self.evaluations.values():
            for name in HEADLINE:
                if name not in evaluation.metrics:
                    raise ValueError(f"lacks evaluation.metrics.{name}")
        return self

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """Task → evaluation, the deciding one first; empty with an error."""
        if self.evaluation is None:
            return {}
        return {self.evaluation.task: self.evaluation, **self.tasks}

    def require_measured(self) -> Evaluation:
        """The deciding task's evaluation, of a model that a sweep cannot do without.

        Raises:
            SweepError: it could not be measured.
        """
        if self.evaluation is None:
            raise SweepError(
                f"cannot be measured: {self.error}",
                where=f"{self.label} on {self.split}",
                fix="leave this model out, or train it again",
            )
        return self.evaluation

    def interval(self, metric: str) -> Interval:
        """Of `acc`, `level_matched.eod` or `TASK/acc`; undefined where it was not measured."""
        task, _, name = metric.rpartition("/")
        evaluation = self.evaluations.get(task) if task else self.evaluation
        block, _, key = name.rpartition(".")
        if evaluation is None:
            return Interval()
        if not block:
            return evaluation.metrics.get(key, Interval())
        matched = evaluation.level_matched
        return Interval() if matched is None else matched.__pydantic_extra__.get(key, Interval())

    def value(self, metric: str) -> float | None:
        """As `interval`, and of `saturated` or `TASK/saturated` 1 or 0; None if undefined."""
        task, _, name = metric.rpartition("/")
        if name != SATURATED:
            return self.interval(metric).value
        evaluation = self.evaluations.get(task) if task else self.evaluation
        is_known = evaluation is not None and evaluation.saturated is not None
        return float(bool(evaluation.saturated)) if evaluation is not None and is_known else None

    def levels(self, saturation: float) -> dict[str, Level]:
        """Task → the selection rate that this model has."""
        return {
            task: Level(self.label, each.metrics["selection_rate"].value or 0.0, saturation)
            for task, each in self.evaluations.items()
        }

    @property
    def thresholds(self) -> dict[str, float]:
        """Task → the level-matched threshold that was set on these rows."""
        return {
            task: each.level_matched.threshold
            for task, each in self.evaluations.items()
            if each.level_matched is not None
        }

    def marks(self, task: str | None = None) -> list[str]:
        """`degenerate`, `saturated`, or why it was refused: what qualifies its numbers."""
        evaluation = self.evaluations.get(task) if task else self.evaluation
        marks = [] if evaluation is None else ["degenerate"] * evaluation.degenerate
        marks += [SATURATED] * bool(evaluation is not None and evaluation.saturated)
        return marks + ([self.refused] if self.refused else [])

    def public(self, refused: str | None = None) -> PointResult:
        """Without its seconds, and with why it may not be chosen, if so."""
        return self.model_copy(update={"seconds": None, "refused": refused})

    def one_line(self) -> str:
        """`λ=0.2 validation: acc 0.841, dpd 0.181, eod 0.128, selected 0.214` and its marks."""
        head = f"{self.label} {self.split}: "
        if self.evaluation is None:
            return head + str(self.error)
        names = {"acc": "acc", "dpd": "dpd", "eod": "eod", "selection_rate": "selected"}
        shown = [f"{short} {_number(self.value(name))}" for name, short in names.items()]
        return head + ", ".join([*shown, *self.marks()])


class LevelRecord(SweepRecord):
    """The selection rate that level-matched figures are measured at, and whose it is."""

    to: str
    rate: float


class Choice(SweepRecord):
    """The chosen point.

    Attributes:
        label, id: of the point; None if there is no candidate at all.
        feasible: it satisfies every constraint; if not, no candidate does and this one comes
            nearest.
        rule: the rule in words, with the limits' values.
        reason: one sentence: why this point, or why none.
        candidates: how many points took part, and how many of those satisfied the constraints.
        best: label of the point with the highest value, where a tie went to another one.
        ties: labels of the points that could not be told from the best, the best included.
    """

    label: str | None
    id: str | None
    feasible: bool
    rule: str
    reason: str
    candidates: Annotated[tuple[int, int], Field(strict=False)]
    best: str | None = None
    ties: Names


class WorstRecord(SweepRecord):
    """The worst-served group of the injection's target, and how badly every group is served."""

    name: str
    mean_of_dpd_and_eod: dict[str, Number]


class ColumnRecord(SweepRecord):
    """A group of rows in a transfer matrix."""

    n: int
    decides: bool


class MatrixRecord(SweepRecord):
    """G injected vectors by H groups of rows; None is undefined."""

    value: list[list[Number]]
    low: list[list[Number]]
    high: list[list[Number]]

    def at(self, g: int, h: int) -> Interval:
        """What injecting the g-th vector does to the h-th group."""
        value, low, high = (part[g][h] for part in (self.value, self.low, self.high))
        return Interval(value=value, low=low, high=high)


class Harm(SweepRecord):
    """What an injection does to one group, in metric units at the measured step; > 0 is worse.

    Attributes:
        group: h.
        kind: `harm`, the increase of (DPD_h + EOD_h) / 2, or `acc`, the decrease of accuracy.
        value, low, high: None where undefined.
    """

    group: str
    kind: Literal["harm", "acc"]
    value: Number
    low: Number
    high: Number

    @property
    def metric(self) -> str:
        """What has changed, in words."""
        name = "mean of one-vs-rest DPD and EOD" if self.kind == "harm" else "accuracy"
        return f"the {name} of {self.group}"

    def __str__(self) -> str:
        """The metric's own change: of accuracy, a loss has a minus."""
        parts = (self.value, self.low, self.high)
        if self.kind == "acc":
            parts = (self.value, self.high, self.low)
        sign = -1.0 if self.kind == "acc" else 1.0
        value, low, high = ("–" if x is None else f"{sign * x:+.3f}" for x in parts)
        return f"{self.metric} changes by {value} [{low}, {high}]"


class Verdict(SweepRecord):
    """Whether one group's vector may be injected at the measured step.

    Attributes:
        group: the injected g.
        status: `safe`: for every deciding group, the upper ends of both harms are within
            tolerance; `unsafe`: a lower end is above it, so harm is shown; `unproven`: neither, or
            a rate is undefined.
        reason: one sentence that names the worst group, its value and interval.
        worst: the effect that decides: of shown harms the one with the largest lower end, else
            the largest upper end, else what is undefined; None if no group decides.
    """

    group: str
    status: Literal["safe", "unsafe", "unproven"]
    reason: str
    worst: Harm | None = None


class TransferRecord(SweepRecord):
    """A judged transfer matrix; what is not named is kept.

    Attributes:
        change: metric → matrix, in metric units at `step`.
        added: group → λ, of the last point that the greedy search accepted.
    """

    model_config = ConfigDict(extra="allow")

    step: float
    tolerance: float
    interval_level: float
    injected: list[str]
    groups: dict[str, ColumnRecord]
    change: dict[str, MatrixRecord]
    verdicts: list[Verdict]
    added: dict[str, float] = {}
    warnings: list[str]

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        shape = [len(self.groups)] * len(self.injected)
        for key in ("harm", "acc"):
            if key not in self.change:
                raise ValueError(f"lacks change.{key}")
        for matrix in self.change.values():
            for part in (matrix.value, matrix.low, matrix.high):
                if [len(row) for row in part] != shape:
                    raise ValueError("a matrix has not a row per injected vector and group")
        return self


class DifferenceRecord(SweepRecord):
    """Chosen minus a baseline on the same rows; the corrected p-value where it was looked at."""

    optional = ("adjusted_p_value",)

    value: Number
    low: Number
    high: Number
    p_value: Number = None
    adjusted_p_value: Number = None

    def holds(self, confidence: float) -> bool:
        """Significant after correction, with an interval that leaves out 0."""
        if self.low is None or self.high is None or self.low * self.high <= 0:
            return False
        return self.adjusted_p_value is not None and self.adjusted_p_value <= 1 - confidence


class BudgetRecord(SweepRecord):
    """A time budget that was spent before everything was measured.

    Attributes:
        minutes: of this run, by the wall clock.
        left_out: labels of planned points that were not started.
        unfinished: stages whose further points depend on what was left out.
    """

    minutes: float
    left_out: list[str]
    unfinished: list[str]


class SweepResults(SweepRecord):
    """The content of results.json; INTERFACE "Sweep file" says what a sweep writes.

    Attributes:
        points: on the split that was selected on: baselines, merges, controls, search,
            injections, group thresholds.
        report: on the report rows: baselines, the choice, its control, group thresholds.
        report_opened_for_another_selection: the report rows are no longer untouched.
        comparison: baseline → metric → chosen minus it, on the report rows.
        budget: None unless something was left out.
    """

    schema_version: int = 1
    sweep: str
    task: str
    confidence: float
    level: LevelRecord
    selected_on: Literal["validation", "report"]
    points: list[PointResult]
    selected: Choice
    worst_group: WorstRecord | None
    transfer: TransferRecord | None
    report: list[PointResult]
    report_opened_for_another_selection: bool
    comparison: dict[str, dict[str, DifferenceRecord]]
    budget: BudgetRecord | None = None
    warnings: list[str]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.schema_version > SCHEMA_VERSION:
            raise ValueError(
                f"is of version {self.schema_version}, known are those up to {SCHEMA_VERSION}: "
                "a newer mergekit-fair has written it, and can read it"
            )
        return self

    @classmethod
    def load(cls, folder: Path) -> SweepResults:
        """Read `folder/results.json`, of this version or of 0.1.

        Raises:
            SweepError: there is none, it is damaged, or it lacks what this version writes.
        """
        path = folder / "results.json"
        if not path.is_file():
            raise SweepError(
                "there is no results.json",
                where=folder,
                fix=f"run `mergekit-fair sweep SWEEP -o {folder}` to its end first",
            )
        return read_record(cls, path, SweepError, fix=_RUN_AGAIN.format(folder))

    def write(self, folder: Path) -> None:
        write_atomic(folder / "results.json", to_json(self.to_dict()))

    @property
    def chosen(self) -> PointResult | None:
        """The chosen point on the report rows."""
        return next((p for p in self.report if p.id == self.selected.id), None)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that were measured, the deciding one first."""
        return tasks_of([*self.points, *self.report])


def tasks_of(points: Iterable[PointResult]) -> list[str]:
    """Names of the tasks that points were measured on, the deciding one first."""
    return list(dict.fromkeys(task for point in points for task in point.evaluations))


def to_json(value: Mapping[str, Any]) -> str:
    """Indented JSON; NaN is refused, for no number stands for "unknown"."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_record(kind: type[Part], path: Path, problem: type[FairError], *, fix: str) -> Part:
    """Read a JSON file.

    Raises:
        FairError: of type `problem`: damaged, or not what this version writes.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        record = kind.model_validate(content)
        to_json(record.to_dict()).encode()  # NaN, or text that UTF-8 cannot hold
    except ValidationError as error:
        raise problem(explained(error), where=path, fix=fix) from error
    except UnicodeDecodeError as error:
        raise problem(f"is damaged ({error.reason})", where=path, fix=fix) from error
    except ValueError as error:
        raise problem(f"is damaged ({error})", where=path, fix=fix) from error
    return record


def explained(error: ValueError) -> str:
    """The first thing that is wrong; what is missing speaks of another version."""
    if not isinstance(error, ValidationError):
        return "is not a JSON line"
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    _, _, part = first["msg"].partition("Value error, lacks ")  # by our own checks
    if first["type"] == "missing" or part:
        name = f"{key}.{part}".strip(".")
        return f"lacks {name}: another version of mergekit-fair has written it"
    text = first["msg"].removeprefix("Value error, ")
    return f"cannot be read: {key}: {text}" if key else text


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
