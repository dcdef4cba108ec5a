"""Results that were written before: read, and checked for all that tables and pages show."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mergekit_fair.errors import MeasurementError, SweepError
from mergekit_fair.schema import parse_json
from mergekit_fair.sweep.results import to_json

_FIX = "run `mergekit-fair sweep SWEEP -o {}` again; points that this version knows are kept"


def load_results(folder: Path) -> dict[str, Any]:
    """The content of `folder/results.json`, as the sweep has written it.

    Raises:
        SweepError: there is none, it is damaged, or it lacks what this version writes.
    """
    path = folder / "results.json"
    fix = _FIX.format(folder)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SweepError(
            "there is no results.json",
            where=folder,
            fix=f"run `mergekit-fair sweep SWEEP -o {folder}` to its end first",
        ) from None
    except UnicodeDecodeError as error:
        raise SweepError(f"is damaged ({error.reason})", where=path, fix=fix) from None
    try:
        results = parse_json(text)
        _Results.model_validate(results)
        to_json(results).encode()  # NaN, or text that is no text
    except ValidationError as error:
        raise SweepError(_explained(error), where=path, fix=fix) from None
    except ValueError as error:
        raise SweepError(f"is damaged ({error})", where=path, fix=fix) from None
    return dict(results)


def load_evaluation(path: Path) -> dict[str, Any]:
    """One evaluation that `eval` has written.

    Raises:
        MeasurementError: there is none, it is damaged, or of a task without groups.
    """
    fix = "give a TASK.json that `mergekit-fair eval` has written"
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        _Saved.model_validate(found)
    except FileNotFoundError:
        raise MeasurementError("no such file", where=path, fix=fix) from None
    except ValidationError as error:
        raise MeasurementError(_explained(error), where=path, fix=fix) from None
    except ValueError as error:
        raise MeasurementError(f"is damaged ({error})", where=path, fix=fix) from None
    return dict(found)


def _explained(error: ValidationError) -> str:
    """The first thing that is wrong; what is missing speaks of another version."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"lacks {key}: another version of mergekit-fair has written it"
    return f"cannot be read: {key or 'the top level'}: {first['msg']}"


class _Checked(BaseModel):
    """Numbers are numbers; what is not named here may be there."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Entry(_Checked):
    value: float | None
    low: float | None
    high: float | None

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.value is None and self.low):
            raise ValueError("an interval needs a value and two ends")
        return self


class _Metrics(_Checked):
    acc: _Entry
    dpd: _Entry
    eod: _Entry
    bal_acc: _Entry
    worst_group_acc: _Entry
    selection_rate: _Entry


class _Matched(_Checked):
    to: str
    rate: float
    acc: _Entry
    dpd: _Entry
    eod: _Entry


class _Group(_Checked):
    n: int
    n_pos: int
    unanswered: int
    selection_rate: float | None
    tpr: float | None
    fpr: float | None
    acc: float | None


class _Labels(_Checked):
    base_rate: float | None
    dpd: float | None


class _Evaluation(_Checked):
    task: str
    n: int
    reference: str
    degenerate: bool
    metrics: _Metrics
    labels: _Labels
    groups: dict[str, _Group]
    warnings: list[str]
    level_matched: _Matched | None = None
    saturated: bool = False


class _Saved(_Evaluation):
    model: str
    split: str
    confidence: float


class _Line(_Checked):
    id: str
    kind: str
    label: str
    settings: dict[str, Any]
    lambda_: float | None
    lambda_eff: float | None
    split: str
    evaluation: _Evaluation | None = None
    tasks: dict[str, _Evaluation] = {}
    error: str = ""
    refused: str = ""

    model_config = ConfigDict(alias_generator=lambda name: name.rstrip("_"))

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.evaluation is None and not self.error:
            raise ValueError("neither an evaluation nor an error")
        return self


class _Gap(_Entry):
    adjusted_p_value: float | None = None


class _Gaps(_Checked):
    acc: _Gap
    dpd: _Gap
    eod: _Gap
    bal_acc: _Gap
    worst_group_acc: _Gap
    selection_rate: _Gap


class _Level(_Checked):
    to: str
    rate: float


class _Selected(_Checked):
    id: str | None
    label: str | None
    feasible: bool
    rule: str
    reason: str
    candidates: list[int]
    ties: list[str]


class _Worst(_Checked):
    name: str
    mean_of_dpd_and_eod: dict[str, float | None]


class _Column(_Checked):
    n: int
    decides: bool


class _Matrix(_Checked):
    value: list[list[float | None]]
    low: list[list[float | None]]
    high: list[list[float | None]]


class _Change(_Checked):
    harm: _Matrix
    acc: _Matrix


class _Verdict(_Checked):
    group: str
    status: Literal["safe", "unsafe", "unproven"]
    reason: str


class _Transfer(_Checked):
    step: float
    tolerance: float
    interval_level: float
    injected: list[str]
    groups: dict[str, _Column]
    change: _Change
    verdicts: list[_Verdict]
    added: dict[str, float]
    warnings: list[str]

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        shape = [len(self.groups)] * len(self.injected)
        for change in (self.change.harm, self.change.acc):
            for matrix in (change.value, change.low, change.high):
                if [len(row) for row in matrix] != shape:
                    raise ValueError("a matrix has not a row per injected vector and group")
        return self


class _Results(_Checked):
    sweep: str
    task: str
    confidence: float
    level: _Level
    selected_on: Literal["validation", "report"]
    points: list[_Line]
    selected: _Selected
    worst_group: _Worst | None
    transfer: _Transfer | None
    report: list[_Line]
    report_opened_for_another_selection: bool
    comparison: dict[str, _Gaps]
    warnings: list[str]
    versions: dict[str, str]
