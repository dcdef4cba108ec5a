"""What a sweep writes and reads again: the base of its records, and the lines of `points.jsonl`.

The same types write and read: what is damaged, or comes from a version that says something else,
is refused by name and never half read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.evaluate import (
    Evaluation,
    FairEvaluation,
    MeasuredWith,
    MultiEvaluation,
)
from mergekit_fair.evaluation.levels import AnyLevel, Level, MultiLevel, Threshold
from mergekit_fair.fairness import HEADLINE, METRICS, MetricSettings
from mergekit_fair.fairness.intervals import Interval, Number
from mergekit_fair.fairness.metrics import HEADLINE_GAPS
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.schema import Record

# Of results.json and plan.json. Version 1 (0.1 of the package) named no version.
SCHEMA_VERSION = 2
SATURATED = "saturated"
INJECTED = "inject."  # a setting of an injection, before the group's name

PointKind = Literal[
    "baseline",
    "merge",
    "control",
    "search",
    "injection",
    "candidate",
    "head",
    "thresholds",
    "cutoff",
    "refit",
    "model",
]
Names = Annotated[tuple[str, ...], Field(strict=False)]  # a list, in JSON

# What a point says of the files that its figures come from.
_OF_FILES = ("measured_with", "scores", "rows")

# Which evaluation a JSON object is; no keys of the file.
_BINARY, _MULTI = "<binary>", "<multi>"

# Attributes that have another name in JSON.
_KEYS = {"lambda_": "lambda", "lambda_l1": "size", "is_identity": "adds_nothing"}


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
        id: 16 hex digits, a digest of everything that its scores depend on.
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


class MeasuredPoint(MeasuredWith):
    """All settings by which a point's scores were read; other ones read them again.

    Attributes:
        saturation: see `Level`.
    """

    reference: str
    confidence: float
    saturation: float

    @classmethod
    def by(cls, settings: MetricSettings, saturation: float) -> Self:
        """As these settings read."""
        return cls(
            reference=settings.reference,
            confidence=settings.confidence,
            min_group_size=settings.min_group_size,
            seed=settings.seed,
            against=settings.against,
            saturation=saturation,
        )

    @property
    def settings(self) -> MetricSettings:
        return MetricSettings(**self.model_dump(exclude={"saturation"}))


def _kind_of(evaluation: Any) -> str:
    is_read = isinstance(evaluation, Mapping)
    is_multi = "macro" in evaluation if is_read else isinstance(evaluation, MultiEvaluation)
    return _MULTI if is_multi else _BINARY


_AnEvaluation = Annotated[
    Annotated[Evaluation, Tag(_BINARY)] | Annotated[MultiEvaluation, Tag(_MULTI)],
    Discriminator(_kind_of),
]


class PointResult(PlannedPoint):
    """One model measured on one split: a line of points.jsonl, an entry of results.json.

    Attributes:
        evaluation: of the deciding task, of classes or labels a `MultiEvaluation`; None with an
            error.
        tasks: further task → evaluation.
        error: why nothing could be measured.
        seconds: of weights and forward passes; not in results.json, which depends on no machine.
        refused: why it may not be chosen although it was measured.
        measured_with: by which the figures were computed from scores and rows.
        scores, rows: SHA-256 of the files of both; None before version 0.2.
    """

    optional = ("evaluation", "tasks", "error", "seconds", "refused", *_OF_FILES)

    split: str
    evaluation: _AnEvaluation | None = None
    tasks: dict[str, _AnEvaluation] = {}
    error: str | None = None
    seconds: Number = None
    refused: str | None = None
    measured_with: MeasuredPoint | None = None
    scores: str | None = None
    rows: str | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.evaluation is None and not self.error:
            raise ValueError("neither an evaluation nor an error")
        for evaluation in self.evaluations.values():
            for name in _lacking(evaluation):
                raise ValueError(f"lacks evaluation.{name}")
        return self

    @property
    def needs_groups(self) -> bool:
        """Whether it can predict for those alone whose group is known."""
        return self.kind == "thresholds"

    @property
    def evaluations(self) -> dict[str, FairEvaluation]:
        """Task → evaluation, the deciding one first; empty with an error."""
        if self.evaluation is None:
            return {}
        return {self.evaluation.task: self.evaluation, **self.tasks}

    def require_measured(self) -> FairEvaluation:
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
        """Of `acc`, `level_matched.eod`, `macro_eod` or `TASK/acc`; undefined where it was not
        measured.
        """
        task, _, name = metric.rpartition("/")
        evaluation = self.evaluations.get(task) if task else self.evaluation
        block, _, key = name.rpartition(".")
        if evaluation is None:
            return Interval()
        matched = evaluation.level_matched
        if not block:
            found = evaluation.metrics.get(key)
            return found or _point_value(evaluation, key)
        return Interval() if matched is None else matched.__pydantic_extra__.get(key, Interval())

    def value(self, metric: str) -> float | None:
        """As `interval`, and of `saturated` or `TASK/saturated` 1 or 0; None if undefined."""
        task, _, name = metric.rpartition("/")
        if name != SATURATED:
            return self.interval(metric).value
        evaluation = self.evaluations.get(task) if task else self.evaluation
        is_known = evaluation is not None and evaluation.saturated is not None
        return float(bool(evaluation.saturated)) if evaluation is not None and is_known else None

    def levels(self, saturation: float) -> dict[str, AnyLevel]:
        """Task → the selection rate that this model has, or that of each class or label."""
        return {
            task: _level(self.label, each, saturation) for task, each in self.evaluations.items()
        }

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """Task → the level-matched threshold that was set on these rows; of classes or labels what
        is added to their scores.
        """
        return {
            task: matched.set_at
            for task, each in self.evaluations.items()
            if (matched := each.level_matched) is not None
        }

    def marks(self, task: str | None = None) -> list[str]:
        """`degenerate`, `saturated`, rows it was trained on, or why it was refused: what qualifies
        its numbers.
        """
        evaluation = self.evaluations.get(task) if task else self.evaluation
        refused = [self.refused] if self.refused else []
        if evaluation is None:
            return refused
        marks = ["degenerate"] * evaluation.degenerate + [SATURATED] * bool(evaluation.saturated)
        if evaluation.trained_rows:
            marks.append(f"trained on {evaluation.trained_rows:,} of the rows")
        return marks + refused

    def public(self, refused: str | None = None) -> PointResult:
        """Without its seconds, and with why it may not be chosen, if so."""
        return self.model_copy(update={"seconds": None, "refused": refused})

    def one_line(self) -> str:
        """`λ=0.2 validation: acc 0.841, dpd 0.181, eod 0.128, selected 0.214` and its marks; of
        classes or labels accuracy, mean and worst gaps.
        """
        head = f"{self.label} {self.split}: "
        if self.evaluation is None:
            return head + str(self.error)
        names = {"acc": "acc", "dpd": "dpd", "eod": "eod", "selection_rate": "selected"}
        if isinstance(self.evaluation, MultiEvaluation):
            names = {name: name for name in MULTI_METRICS}
        shown = [f"{short} {_number(self.value(name))}" for name, short in names.items()]
        return head + ", ".join([*shown, *self.marks()])


def _lacking(evaluation: FairEvaluation) -> list[str]:
    """The figures that every evaluation has, and this one has not."""
    if isinstance(evaluation, Evaluation):
        return [f"metrics.{name}" for name in HEADLINE if name not in evaluation.metrics]
    over = {"macro": evaluation.macro, "worst": evaluation.worst}
    return [f"{key}.{name}" for key in over for name in HEADLINE_GAPS if name not in over[key]]


def _level(label: str, evaluation: FairEvaluation, saturation: float) -> AnyLevel:
    if isinstance(evaluation, Evaluation):
        rate = evaluation.metrics["selection_rate"].value
        return Level(label, rate or 0.0, saturation)
    views = evaluation.views
    rates = {name: view.metrics["selection_rate"].value or 0.0 for name, view in views.items()}
    return MultiLevel(label, rates, saturation)


def _point_value(evaluation: FairEvaluation, name: str) -> Interval:
    """Of a metric that has no interval; its count stands beside the metrics."""
    metric = METRICS.get(name) if isinstance(evaluation, Evaluation) else None
    if metric is None or not metric.is_point or not evaluation.n:
        return Interval()
    count = evaluation.unanswered
    # Of rows that count for more or less than others the share is not known, unless it is 0.
    return Interval() if count and evaluation.weighted else Interval(value=count / evaluation.n)


def to_json(value: Mapping[str, Any]) -> str:
    """Indented JSON; NaN is refused, for no number stands for "unknown"."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def explained(error: ValueError) -> str:
    """The first thing that is wrong; what is missing speaks of another version."""
    if not isinstance(error, ValidationError):
        return "is not a JSON line"
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part not in (_BINARY, _MULTI))
    _, _, part = first["msg"].partition("Value error, lacks ")  # by our own checks
    if first["type"] == "missing" or part:
        name = f"{key}.{part}".strip(".")
        return f"lacks {name}: another version of mergekit-fair has written it"
    text = first["msg"].removeprefix("Value error, ")
    return f"cannot be read: {key}: {text}" if key else text


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
