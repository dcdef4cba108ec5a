"""The tables of a sweep, for the terminal, its page and its card; and its CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mergekit_fair.escaping import in_spreadsheet, one_line
from mergekit_fair.fairness import Measurement
from mergekit_fair.fairness.metric_kinds import Metric
from mergekit_fair.fairness.metrics import GROUP_RATES, HEADLINE_GAPS, MATCHED, METRICS
from mergekit_fair.report.tables import Cell, Row, Table, interval_cell, interval_text, value_text
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import DifferenceRecord, SweepResults, TransferRecord, WorstRecord

CHANGES = {"harm": "change of the mean of one-vs-rest DPD and EOD", "acc": "change of accuracy"}


def ordered_metrics(rule: str = "") -> list[Metric]:
    """The headline first, then those that a rule's words name, then the rest."""
    shown = [metric for metric in METRICS.values() if not metric.is_point]
    words = set(rule.replace("/", " ").replace(".", " ").replace(",", " ").split())
    return sorted(shown, key=lambda metric: (not metric.headline, metric.name not in words))


def points_table(
    results: SweepResults, points: Sequence[PointResult], task: str | None = None
) -> Table:
    """One row a point: every metric with its interval, level-matched gaps, marks."""
    metrics, task = ordered_metrics(results.selected.rule), task or results.task
    titles = [metric.title for metric in metrics]
    matched = [f"{METRICS[name].title}, level matched" for name in HEADLINE_GAPS]
    rows = []
    for point in points:
        evaluation = point.evaluations.get(task)
        if evaluation is None:
            rows.append(_error_row(point))
            continue
        cells = [interval_cell(point.interval(f"{task}/{metric.name}")) for metric in metrics]
        is_matched = evaluation.level_matched is not None
        cells += [
            interval_cell(point.interval(f"{task}/level_matched.{n}")) if is_matched else Cell("")
            for n in HEADLINE_GAPS
        ]
        kind, effective = Cell(point.kind), Cell(_effective(point))
        rows.append(_point_row(results, point, task, [kind, effective, *cells]))
    split = next((point.split for point in points), "")
    return Table(
        caption=f"{task}, {split} rows",
        corner="model",
        columns=["kind", "λ_eff", *titles, *matched],
        sections=[("", rows)],
        foot=_foot(points, task),
    )


def brief_points_table(results: SweepResults, points: Sequence[PointResult]) -> Table:
    """The same for a terminal: by the metrics' names, intervals of the headline alone."""
    metrics, task = ordered_metrics(results.selected.rule), results.task
    headline = [metric for metric in metrics if metric.headline]
    others = [metric for metric in metrics if not metric.headline]
    rows = []
    for point in points:
        evaluation = point.evaluations.get(task)
        if evaluation is None:
            rows.append(_error_row(point))
            continue
        cells = [interval_cell(point.interval(metric.name)) for metric in headline]
        is_matched = evaluation.level_matched is not None
        cells += [
            Cell(value_text(point.value(f"level_matched.{name}")) if is_matched else "")
            for name in HEADLINE_GAPS
        ]
        cells += [Cell(value_text(point.value(metric.name))) for metric in others]
        rows.append(_point_row(results, point, task, [Cell(_effective(point)), *cells]))
    names = [
        *(m.name for m in headline),
        *(f"{n}=" for n in HEADLINE_GAPS),
        *(m.name for m in others),
    ]
    return Table(
        caption="",
        corner="model",
        columns=["λ_eff", *names],
        sections=[("", rows)],
        foot=_foot(points, task),
        needed=1 + len(headline) + len(HEADLINE_GAPS),
    )


def _point_row(results: SweepResults, point: PointResult, task: str, cells: Sequence[Cell]) -> Row:
    is_chosen = point.id == results.selected.id
    return Row(
        point.label,
        cells,
        tags=[*(["chosen"] if is_chosen else []), *point.marks(task)],
        chosen=is_chosen,
        minor=point.evaluations[task].degenerate or point.refused is not None,
    )


def _error_row(point: PointResult) -> Row:
    return Row(point.label, [Cell(point.error or "not measured on this task")], minor=True)


def _effective(point: PointResult) -> str:
    return "" if point.lambda_eff is None else f"{point.lambda_eff:g}"


def _foot(points: Iterable[PointResult], task: str) -> str:
    """Rows, groups, the labels' own rates, and the level of the level-matched figures."""
    known = (point.evaluations.get(task) for point in points)
    evaluation = next((each for each in known if each is not None), None)
    if evaluation is None:
        return ""
    groups = [f"{name} {g.n} ({g.n_pos} positive)" for name, g in evaluation.groups.items()]
    text = (
        f"n = {evaluation.n} rows: {', '.join(groups)}; positive in all "
        f"{value_text(evaluation.labels.base_rate)}; DPD of the labels themselves: "
        f"{value_text(evaluation.labels.dpd)}."
    )
    level = evaluation.level_matched
    if level is not None:
        text += f" Level matched: at the selection rate of {level.to}, {level.rate:.3f}."
    return text


def comparison_table(comparison: Mapping[str, Mapping[str, DifferenceRecord]]) -> Table:
    """Chosen minus each baseline on the same rows; p corrected where several were looked at."""
    metrics = [metric for metric in ordered_metrics() if metric.compared]
    rows = [
        Row(f"minus {name}", [_difference(gaps.get(metric.name)) for metric in metrics])
        for name, gaps in comparison.items()
    ]
    return Table(
        caption="Chosen minus baseline, paired on the report rows",
        corner="chosen",
        columns=[metric.title for metric in metrics],
        sections=[("", rows)],
        needed=sum(metric.headline for metric in metrics),
    )


def _difference(gap: DifferenceRecord | None) -> Cell:
    if gap is None:
        return Cell("–")
    cell, p = interval_cell(gap, sign="+"), gap.adjusted_p_value
    if p is None:
        return cell
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return Cell(cell.text, f"{cell.note} {shown}".strip(), cell.strong)


def groups_table(points: Sequence[PointResult], task: str) -> Table:
    """Size, positives and rates of every group, for each model."""
    evaluations = {p.label: p.evaluations[task] for p in points if task in p.evaluations}
    parts = {label: group_rows(evaluation) for label, evaluation in evaluations.items()}
    columns = group_columns(evaluations.values())
    sections = [
        (label, [Row(row.head, row.cells[: len(columns)]) for row in rows])
        for label, rows in parts.items()
    ]
    return Table(f"{task}, report rows, by group", "group", columns, sections)


def group_columns(evaluations: Iterable[Measurement]) -> list[str]:
    """Titles of `group_rows`; the last column is there where anything is unanswered."""
    is_missing = any(group.unanswered for each in evaluations for group in each.groups.values())
    rates = [rate.title for rate in GROUP_RATES.values()]
    return ["n", "n positive", *rates, *(["unanswered"] if is_missing else [])]


def group_rows(evaluation: Measurement) -> list[Row]:
    """One a group: size, positives, rates, and what is unanswered."""
    return [
        Row(
            name,
            [
                Cell(str(group.n)),
                Cell(str(group.n_pos)),
                *(Cell(value_text(getattr(group, rate, None))) for rate in GROUP_RATES),
                Cell(str(group.unanswered)),
            ],
        )
        for name, group in evaluation.groups.items()
    ]


def worst_table(worst: WorstRecord) -> Table:
    """How badly every group was served by the model that is injected into."""
    rows = [
        Row(name, [Cell(value_text(value))], ["worst served"] * (name == worst.name))
        for name, value in worst.mean_of_dpd_and_eod.items()
    ]
    title = "mean of one-vs-rest DPD and EOD"
    return Table("Groups of the injection's target", "group", [title], [("", rows)])


def verdicts_table(transfer: TransferRecord) -> Table:
    """May a group's vector be injected, and why."""
    rows = [Row(one.group, [Cell(one.status), Cell(one.reason)]) for one in transfer.verdicts]
    columns = ["verdict", "reason"]
    return Table("Verdicts", "injected group", columns, [("", rows)], numeric=False)


def transfer_tables(transfer: TransferRecord) -> list[Table]:
    """Injected vectors (rows) against groups of rows (columns); brackets: decides no verdict."""
    tables = []
    for key, title in CHANGES.items():
        matrix = transfer.change[key]
        rows = [
            Row(
                f"+ {name}",
                [interval_cell(matrix.at(g, h), sign="+") for h in range(len(transfer.groups))],
            )
            for g, name in enumerate(transfer.injected)
        ]
        caption = title[0].upper() + title[1:]
        tables.append(Table(caption, "injected vector", group_labels(transfer), [("", rows)]))
    return tables


def added_text(transfer: TransferRecord) -> str:
    """`0.2 Female, 0.1 Male`: the λ of what the greedy search has added."""
    return ", ".join(f"{value:g} {name}" for name, value in transfer.added.items()) or "nothing"


def group_labels(transfer: TransferRecord) -> list[str]:
    """`Female n=700`; in brackets a group that decides no verdict."""
    texts = {f"{name} n={group.n}": group.decides for name, group in transfer.groups.items()}
    return [text if decides else f"({text})" for text, decides in texts.items()]


def verdict(results: SweepResults) -> str:
    """One sentence a baseline: what was won and lost with what confidence, or that nothing was.

    A difference holds where its Holm-adjusted p-value is at most 1 − confidence and its interval
    leaves out 0. On a selection's own rows the sentence says so.
    """
    label = str(results.selected.label)
    sentences = [
        _sentence(label, baseline, gaps, results.confidence)
        for baseline, gaps in results.comparison.items()
    ]
    if results.selected_on == "report":
        sentences.append("These are the rows that it was selected on: the figures are optimistic.")
    return "\n".join(map(one_line, sentences))


def _sentence(
    label: str, baseline: str, gaps: Mapping[str, DifferenceRecord], confidence: float
) -> str:
    """`λ=0.4: EOD −0.031 [−0.049, −0.012] against fft at accuracy −0.002 [−0.008, +0.004].`"""
    better = {m.name: -1 if m.better == "lower" else 1 for m in ordered_metrics() if m.headline}
    held = [key for key in better if gaps[key].holds(confidence)]
    won = [key for key in held if (gaps[key].value or 0.0) * better[key] > 0]
    lost = [key for key in held if key not in won]
    rest = [key for key in better if key not in held]
    if won:
        rest_at = [key for key in rest if key == "acc" or "acc" in won]
        parts = [f"{_named(gaps, won)} against {baseline}"]
        if rest_at:
            parts.append(f"at {_named(gaps, rest_at)}")
        if lost:
            parts.append(f"but lost: {_named(gaps, lost)}")
        return f"{label}: {' '.join(parts)}."
    if lost:
        return f"{label}: nothing was won against {baseline}, and lost: {_named(gaps, lost)}."
    *titles, last = (METRICS[key].title for key in better)
    return (
        f"{label}: nothing was won against {baseline}; no difference in {', '.join(titles)} or "
        f"{last} can be told from noise ({_named(gaps, list(better))})."
    )


def _named(gaps: Mapping[str, DifferenceRecord], keys: Sequence[str]) -> str:
    return ", ".join(f"{METRICS[key].title} {interval_text(gaps[key], sign='+')}" for key in keys)


def results_csv(results: SweepResults) -> str:
    """Every point as one CSV row, by the deciding task; undefined values are empty."""
    parts = {"": "value", "_low": "low", "_high": "high"}
    names = [metric.name for metric in ordered_metrics()]
    matched = [f"level_matched_{name}" for name in MATCHED]
    columns = ["id", "kind", "label", "split", "lambda", "lambda_eff", "selected"]
    columns += [f"{name}{suffix}" for name in names for suffix in parts]
    columns += [*matched, "degenerate", "saturated", "error"]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for point in [*results.points, *results.report]:
        row: dict[str, Any] = {name: getattr(point, name) for name in ("id", "kind", "label")}
        row |= {"split": point.split, "lambda": point.lambda_, "lambda_eff": point.lambda_eff}
        row |= {"selected": point.id == results.selected.id, "error": point.error}
        evaluation = point.evaluation
        if evaluation is not None:
            row |= {"degenerate": evaluation.degenerate, "saturated": evaluation.saturated}
            row |= {
                f"{name}{suffix}": getattr(point.interval(name), part)
                for name in names
                for suffix, part in parts.items()
            }
            row |= {name: point.value(name.replace("matched_", "matched.")) for name in matched}
        writer.writerow({name: in_spreadsheet(value) for name, value in row.items()})
    return out.getvalue()
