"""The tables of `report.html` as data; the template turns them into HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mergekit_fair.report.text_tables import interval_text, value_text
from mergekit_fair.sweep.lines import evaluations_of
from mergekit_fair.sweep.results import marks

Line = dict[str, Any]
Results = dict[str, Any]
Entry = dict[str, Any]

_METRICS = {
    "acc": "accuracy",
    "dpd": "DPD",
    "eod": "EOD",
    "bal_acc": "balanced accuracy",
    "worst_group_acc": "worst-group accuracy",
    "selection_rate": "selection rate",
}
_MATCHED = {"dpd": "DPD, level matched", "eod": "EOD, level matched"}
_RATES = {"selection_rate": "selection rate", "tpr": "TPR", "fpr": "FPR", "acc": "accuracy"}
_CHANGES = {"harm": "change of the mean of one-vs-rest DPD and EOD", "acc": "change of accuracy"}


@dataclass(frozen=True)
class Cell:
    """A number as text, with its interval or p-value behind it.

    Attributes:
        text: the number, or words.
        note: shown small.
        strong: the interval leaves out 0.
    """

    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        head: its name.
        cells: one a column, or a single one that spans all.
        tags: what forbids or qualifies a reading of its numbers.
        chosen: it is the selected point.
        minor: it could not be chosen, whatever its numbers.
    """

    head: str
    cells: Sequence[Cell]
    tags: Sequence[str] = ()
    chosen: bool = False
    minor: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under titles.

    Attributes:
        caption: what it shows; a table of a page needs a name.
        corner: title of the column of row names.
        columns: titles of the others.
        sections: title, or nothing, and rows.
        foot: a sentence below.
        numeric: columns hold numbers and are set to the right.
    """

    caption: str
    corner: str
    columns: Sequence[str]
    sections: Sequence[tuple[str, Sequence[Row]]] = field(default=())
    foot: str = ""
    numeric: bool = True


def tasks_of(lines: Iterable[Line]) -> list[str]:
    """Names of the tasks that the lines were measured on, the deciding one first."""
    found: dict[str, None] = {}
    for line in lines:
        if "evaluation" in line:
            found |= dict.fromkeys(evaluations_of(line))
    return list(found)


def lines_table(results: Results, lines: Sequence[Line], task: str) -> Table:
    """One row a point: metrics with intervals, level-matched gaps, marks."""
    chosen = results["selected"]["id"]
    rows = [_line_row(line, task, is_chosen=line["id"] == chosen) for line in lines]
    split = next((str(line["split"]) for line in lines), "")
    return Table(
        caption=f"{task}, {split} rows",
        corner="model",
        columns=["kind", "λ_eff", *_METRICS.values(), *_MATCHED.values()],
        sections=[("", rows)],
        foot=_sizes(lines, task),
    )


def _line_row(line: Line, task: str, *, is_chosen: bool) -> Row:
    effective = line["lambda_eff"]
    start = [Cell(str(line["kind"])), Cell("" if effective is None else f"{effective:g}")]
    evaluation = evaluations_of(line).get(task) if "evaluation" in line else None
    if evaluation is None:
        error = str(line.get("error", "not measured on this task"))
        return Row(str(line["label"]), [Cell(error)], minor=True)
    matched = evaluation.get("level_matched", {})
    cells = [_interval(evaluation["metrics"][key]) for key in _METRICS]
    cells += [_interval(matched[key]) if matched else Cell("") for key in _MATCHED]
    tags = marks({**line, "evaluation": evaluation})
    return Row(
        str(line["label"]),
        [*start, *cells],
        tags=[*(["chosen"] if is_chosen else []), *tags],
        chosen=is_chosen,
        minor=bool(evaluation["degenerate"]) or "refused" in line,
    )


def _sizes(lines: Sequence[Line], task: str) -> str:
    """Rows, the labels' own rates, and the level of the level-matched figures."""
    known = (evaluations_of(line).get(task) for line in lines if "evaluation" in line)
    evaluation = next((found for found in known if found), None)
    if evaluation is None:
        return ""
    labels = evaluation["labels"]
    text = (
        f"n = {evaluation['n']} rows, {value_text(labels['base_rate'])} of them positive; DPD of "
        f"the labels themselves: {value_text(labels['dpd'])}."
    )
    matched = evaluation.get("level_matched")
    if matched:
        text += f" Level matched: at the selection rate of {matched['to']}, {matched['rate']:.3f}."
    return text


def comparison_rows(comparison: dict[str, Any]) -> Table:
    """Chosen minus each baseline on the same rows; p corrected where several were looked at."""
    rows = [
        Row(f"minus {name}", [_gap(gaps[key]) for key in _METRICS])
        for name, gaps in comparison.items()
    ]
    return Table("Chosen minus baseline, paired on the report rows", "chosen", [*_METRICS.values()],
                 [("", rows)])  # fmt: skip


def _gap(entry: Entry) -> Cell:
    cell = _interval(entry, sign="+")
    p = entry.get("adjusted_p_value")
    if p is None:
        return cell
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return Cell(cell.text, f"{cell.note} {shown}".strip(), cell.strong)


def group_rows(lines: Sequence[Line], task: str) -> Table:
    """Size, positives and rates of every group, for each model."""
    found = {
        str(line["label"]): evaluations_of(line)[task]["groups"]
        for line in lines
        if "evaluation" in line and task in evaluations_of(line)
    }
    missing = any(group["unanswered"] for groups in found.values() for group in groups.values())
    sections = []
    for label, groups in found.items():
        rows = []
        for name, group in groups.items():
            cells = [Cell(str(group["n"])), Cell(str(group["n_pos"]))]
            cells += [Cell(value_text(group[key])) for key in _RATES]
            cells += [Cell(str(group["unanswered"]))] if missing else []
            rows.append(Row(str(name), cells))
        sections.append((label, rows))
    columns = ["n", "n positive", *_RATES.values(), *(["unanswered"] if missing else [])]
    return Table(f"{task}, report rows, by group", "group", columns, sections)


def worst_rows(worst: dict[str, Any] | None) -> Table | None:
    """How badly every group was served by the model that is injected into."""
    if not worst:
        return None
    harms = worst["mean_of_dpd_and_eod"].items()
    rows = [
        Row(str(name), [Cell(value_text(value))], ["worst served"] * (name == worst["name"]))
        for name, value in harms
    ]
    title = "mean of one-vs-rest DPD and EOD"
    return Table("Groups of the injection's target", "group", [title], [("", rows)])


def verdict_rows(found: dict[str, Any]) -> Table:
    """May a group's vector be injected, and why."""
    rows = [
        Row(str(one["group"]), [Cell(str(one["status"]), strong=True), Cell(str(one["reason"]))])
        for one in found["verdicts"]
    ]
    return Table("Verdicts", "injected group", ["verdict", "reason"], [("", rows)], numeric=False)


def transfer_rows(found: dict[str, Any]) -> list[Table]:
    """Injected vectors (rows) against groups of rows (columns); brackets: decides no verdict."""
    columns = []
    for name, group in found["groups"].items():
        text = f"{name} n={group['n']}"
        columns.append(text if group["decides"] else f"({text})")
    tables = []
    for key, title in _CHANGES.items():
        parts = found["change"][key]
        rows = []
        for g, name in enumerate(found["injected"]):
            triples = zip(*(parts[part][g] for part in ("value", "low", "high")), strict=True)
            cells = [
                _interval({"value": value, "low": low, "high": high}, sign="+")
                for value, low, high in triples
            ]
            rows.append(Row(f"+ {name}", cells))
        tables.append(Table(title[0].upper() + title[1:], "injected vector", columns, [("", rows)]))
    return tables


def _interval(entry: Entry, sign: str = "") -> Cell:
    """Signed numbers are strong where their interval leaves out 0."""
    text, space, interval = interval_text(entry, sign).partition(" ")
    strong = bool(sign and space) and (entry["low"] > 0 or entry["high"] < 0)
    return Cell(text, interval, strong)
