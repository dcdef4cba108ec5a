"""What a whole sweep has found: results.json, and the records that it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.levels import AnyLevel, MultiLevel
from mergekit_fair.fairness.intervals import Interval, Number
from mergekit_fair.fairness.metrics import HEADLINE, LOWER_IS_BETTER
from mergekit_fair.fairness.power import Detectable
from mergekit_fair.files import write_atomic
from mergekit_fair.schema import read_sealed, sealed
from mergekit_fair.sweep.record import (
    SCHEMA_VERSION,
    Names,
    PointResult,
    SweepRecord,
    explained,
    to_json,
)

_LONGEST = 20  # labels of left-out points that a sentence names
_RUN_AGAIN = "run `mergekit-fair sweep SWEEP -o {}` again; points that this version knows are kept"


class LevelRecord(SweepRecord):
    """The selection rate that level-matched figures are measured at, and whose it is.

    Attributes:
        to: whose.
        rate: of a task that is answered by no or yes; else None.
        rates: class or label → its own, which models' are read beside; else empty.
    """

    optional = ("rate", "rates")

    to: str
    rate: Number = None
    rates: dict[str, float] = {}

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.rate is None) == (not self.rates):
            both = "neither a rate nor rates" if self.rate is None else "both a rate and rates"
            raise ValueError(both)
        return self

    @classmethod
    def of(cls, level: AnyLevel) -> Self:
        """As it was measured at."""
        if isinstance(level, MultiLevel):
            return cls(to=level.to, rates=dict(level.rates))
        return cls(to=level.to, rate=level.rate)

    def __str__(self) -> str:
        """`the selection rate of fft, 0.214`; of classes or labels `the selection rates of fft`."""
        rate = f"rate of {self.to}, {self.rate:.3f}" if self.rate is not None else None
        return f"the selection {rate or f'rates of {self.to}'}"


class Choice(SweepRecord):
    """The chosen point, or the baseline that is kept.

    Attributes:
        label, id: of the chosen point; None if none is.
        kept: the baseline that nothing better than was found; None if a point is chosen, if there
            is no baseline, or if a budget of time has left out what might be better.
        feasible: a point is chosen, and satisfies every constraint; older versions chose one that
            does not, too.
        rule: the rule in words, with the limits' values.
        reason: one sentence: why this point, or why none.
        candidates: how many points took part, and how many of those satisfied the constraints.
        best: label of the point with the best value, where a tie went to another one.
        ties: labels of the merges that could not be told from the best.
        nearest: what the tie went by, in words; None without one.
        distances: label → distance from the reference baseline, of the ties.
        best_merge: where none is chosen, id of the point that comes nearest to being so.
        select: the sweep file's block, by which the choice is made again; None of older versions.
    """

    optional = ("kept", "nearest", "distances", "best_merge", "select")

    label: str | None
    id: str | None
    kept: str | None = None
    feasible: bool
    rule: str
    reason: str
    candidates: Annotated[tuple[int, int], Field(strict=False)]
    best: str | None = None
    ties: Names
    nearest: str | None = None
    distances: dict[str, float] = {}
    best_merge: str | None = None
    select: dict[str, Any] | None = None

    @property
    def headline(self) -> str:
        """`chosen: λ=0.4`, `keep fft`, or that nothing is chosen."""
        if self.label is not None:
            return f"chosen: {self.label}"
        return "nothing is chosen" if self.kept is None else f"keep {self.kept}"

    @property
    def sentence(self) -> str:
        """The headline and the reason, without a full stop."""
        if self.label is not None:
            return f"chosen: {self.reason}"
        return f"{self.headline}: {self.reason}"


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
        rates: `soft`: of scores near the threshold; `hard`: of predictions.
        value, low, high: None where undefined.
    """

    group: str
    kind: Literal["harm", "acc"]
    rates: Literal["soft", "hard"] = "hard"
    value: Number
    low: Number
    high: Number

    @property
    def metric(self) -> str:
        """What has changed, in words."""
        soft = "soft " if self.rates == "soft" else ""
        name = f"{soft}accuracy"
        if self.kind == "harm":
            name = f"mean of {soft}one-vs-rest DPD and EOD"
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
    """Whether one group's vector may be injected at the measured step, or a point be chosen.

    Attributes:
        group: the injected g; the label of a point that injects several, or at another λ.
        status: `safe`: for every deciding group, the upper ends of both harms are within
            tolerance, and predictions show no harm; `unsafe`: a lower end is above it, so harm is
            shown; `unproven`: neither, or a rate is undefined. Only what is safe may be chosen.
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
        change: metric → matrix, in metric units at `step`; of soft rates or of predictions, as
            `rates` says.
        hard: the same of predictions, where `change` is of soft rates; at `hard_level`.
        added: group → λ, of the last point that the greedy search accepted.
        tried: verdicts of the points of the greedy search beside the steps, each at its own λ.
        screening: of every candidate, as `Screened` says it; empty in older sweeps.
    """

    model_config = ConfigDict(extra="allow")
    optional = ("hard", "hard_level", "temperatures", "tried", "screening")

    step: float
    tolerance: float
    interval_level: float
    injected: list[str]
    groups: dict[str, ColumnRecord]
    rates: Literal["soft", "hard"] = "hard"
    change: dict[str, MatrixRecord]
    hard: dict[str, MatrixRecord] | None = None
    hard_level: float | None = None
    temperatures: dict[str, float] | None = None
    verdicts: list[Verdict]
    added: dict[str, float] = {}
    tried: list[Verdict] = []
    screening: list[dict[str, Any]] = []
    warnings: list[str]

    @property
    def relations(self) -> dict[str, str | None]:
        """Candidate → the relation of its vector to the target's, where the sweep has said it."""
        return {str(one["group"]): one.get("relation") for one in self.screening}

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
    """Chosen minus a baseline on the same rows, and what may be said of it (`fairness.claims`).

    Attributes:
        adjusted_p_value: of the claim, after Holm's correction; None where none is looked for.
        claimed: it was won, or lost; None: by a version that had other rules.
        withheld: why it is not claimed although its interval leaves out 0.
        near_0: both models' own gaps may be 0.
    """

    optional = ("adjusted_p_value", "claimed", "withheld", "near_0")

    value: Number
    low: Number
    high: Number
    p_value: Number = None
    adjusted_p_value: Number = None
    claimed: bool | None = None
    withheld: str | None = None
    near_0: bool | None = None


class ThresholdsRecord(SweepRecord):
    """Thresholds by group on a baseline's scores.

    Attributes:
        source: whose scores.
        gap: `dpd` or `eod`, which they are fitted to make smaller.
        change: split → metric → thresholds minus source, paired.
    """

    source: str
    gap: Literal["dpd", "eod"]
    change: dict[str, dict[str, DifferenceRecord]]

    @property
    def worse(self) -> tuple[str, ...]:
        """Of accuracy, DPD and EOD those in which they are worse than their own source on some
        split, beyond noise: who beats the thresholds there has beaten less than the source."""
        changes = self.change.values()
        return tuple(name for name in HEADLINE if any(_is_worse(name, of) for of in changes))


def _is_worse(metric: str, changes: Mapping[str, DifferenceRecord]) -> bool:
    change = changes.get(metric)
    if change is None or change.low is None or change.high is None:
        return False
    return change.low > 0 if metric in LOWER_IS_BETTER else change.high < 0


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

    @property
    def left_out_text(self) -> str:
        """`2 points (λ=0.7, λ=0.8); search: 12 further points`."""
        count, labels = len(self.left_out), self.left_out[:_LONGEST]
        shown = ", ".join(labels) + (", …" if count > _LONGEST else "")
        points = f"{count} point{'s' * (count != 1)} ({shown})" if count else ""
        return "; ".join([*([points] if points else []), *self.unfinished])


class SweepResults(SweepRecord):
    """The content of results.json; INTERFACE "Sweep file" says what a sweep writes.

    Attributes:
        points: on the split that was selected on: baselines, merges, controls, search,
            injections, group thresholds.
        report: on the report rows: baselines, the choice, its control, group thresholds.
        report_opened_for_another_selection: the report rows are no longer untouched.
        comparison: baseline → metric → chosen minus it, on the report rows.
        comparison_views: of classes or labels: baseline → class or label → metric → chosen minus
            it, of which nothing is claimed; else empty.
        thresholds: label of thresholds by group → what they are and have changed; empty without.
        detectable: the smallest gaps and differences that the report rows can show.
        budget: None unless something was left out.
        inputs: model → its fingerprint's digest; empty before version 0.2.
        measuring: a digest of what models were asked and how they were run; None before version
            0.2. How the scores are read stands with every point (`measured_with`).
    """

    optional = ("inputs", "measuring", "thresholds", "detectable", "comparison_views")

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
    comparison_views: dict[str, dict[str, dict[str, DifferenceRecord]]] = {}
    thresholds: dict[str, ThresholdsRecord] = {}
    detectable: Detectable | None = None
    budget: BudgetRecord | None = None
    warnings: list[str]
    versions: dict[str, str]
    inputs: dict[str, str] = {}
    measuring: str | None = None

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
        fix = _RUN_AGAIN.format(folder)
        content = read_sealed(path, "results of a sweep", SweepError, fix=fix, needs_seal=_has_seal)
        try:
            results = cls.model_validate(content)
            to_json(results.to_dict()).encode()  # NaN, or text that UTF-8 cannot hold
        except ValidationError as error:
            raise SweepError(explained(error), where=path, fix=fix) from error
        except ValueError as error:
            raise SweepError(f"is damaged ({error})", where=path, fix=fix) from error
        return results

    def write(self, folder: Path) -> None:
        write_atomic(folder / "results.json", self.text())

    def text(self) -> str:
        """The content of results.json."""
        return to_json(self.sealed())

    def sealed(self) -> dict[str, Any]:
        """As `to_dict`, with the digest of it all."""
        return sealed(self.to_dict())

    @property
    def chosen(self) -> PointResult | None:
        """The chosen point on the report rows."""
        return next((p for p in self.report if p.id == self.selected.id), None)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that were measured, the deciding one first."""
        return tasks_of([*self.points, *self.report])


def _has_seal(content: Any) -> bool:
    """Whether the version that has written such results gave them a digest."""
    return isinstance(content, dict) and content.get("measuring") is not None


def tasks_of(points: Iterable[PointResult]) -> list[str]:
    """Names of the tasks that points were measured on, the deciding one first."""
    return list(dict.fromkeys(task for point in points for task in point.evaluations))
