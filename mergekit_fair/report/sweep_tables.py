"""The tables of a sweep, for the terminal, its page and its card; and its CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mergekit_fair.escaping import in_spreadsheet
from mergekit_fair.evaluation.evaluate import Evaluation, FairEvaluation, MultiEvaluation
from mergekit_fair.fairness import HEADLINE, Measurement
from mergekit_fair.fairness.claims import LEVEL
from mergekit_fair.fairness.metric_kinds import Metric
from mergekit_fair.fairness.metrics import GROUP_RATES, HEADLINE_GAPS, MATCHED, METRICS
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS, MultiMetric
from mergekit_fair.report.tables import Cell, Row, Table, interval_cell, value_text
from mergekit_fair.report.verdict_text import difference_cell
from mergekit_fair.sweep.differences import compared_as
from mergekit_fair.sweep.record import INJECTED, PointResult
from mergekit_fair.sweep.results import DifferenceRecord, SweepResults, TransferRecord, WorstRecord

# Changes of a transfer matrix, and which way they are worse for the group.
WORSE = {"harm": 1, "acc": -1}
EFFECTIVE = "λ_eff"
CHANGES = {"harm": "change of the mean of one-vs-rest DPD and EOD", "acc": "change of accuracy"}


def ordered_metrics(rule: str = "") -> list[Metric]:
    """The headline first, then those that a rule's words name, then the rest."""
    shown = [metric for metric in METRICS.values() if not metric.is_point]
    words = set(rule.replace("/", " ").replace(".", " ").replace(",", " ").split())
    return sorted(shown, key=lambda metric: (not metric.headline, metric.name not in words))


def is_of_views(points: Iterable[PointResult], task: str) -> bool:
    """Whether a task has classes or labels, in place of an answer by no or yes."""
    return any(isinstance(point.evaluations.get(task), MultiEvaluation) for point in points)


def metrics_of(
    points: Iterable[PointResult], task: str, rule: str = ""
) -> Sequence[Metric | MultiMetric]:
    """Those of a task that have a column; see `ordered_metrics`."""
    of_views = is_of_views(points, task)
    return list(MULTI_METRICS.values()) if of_views else ordered_metrics(rule)


def points_table(
    results: SweepResults, points: Sequence[PointResult], task: str | None = None
) -> Table:
    """One row a point: every metric with its interval, level-matched gaps, marks."""
    task = task or results.task
    metrics = metrics_of(points, task, results.selected.rule)
    titles = [metric.title for metric in metrics]
    gaps = () if is_of_views(points, task) else tuple(HEADLINE_GAPS)
    matched = [f"{METRICS[name].title}, level matched" for name in gaps]
    has_sums, rows = _has_sums(points), []
    for point in points:
        evaluation = point.evaluations.get(task)
        if evaluation is None:
            rows.append(_error_row(point))
            continue
        cells = [interval_cell(point.interval(f"{task}/{metric.name}")) for metric in metrics]
        is_matched = isinstance(evaluation, Evaluation) and evaluation.level_matched is not None
        cells += [
            interval_cell(point.interval(f"{task}/level_matched.{n}")) if is_matched else Cell("")
            for n in gaps
        ]
        about = [Cell(point.kind), *([Cell(_effective(point))] if has_sums else [])]
        rows.append(_point_row(results, point, task, [*about, *cells]))
    split = next((point.split for point in points), "")
    return Table(
        caption=f"{task}, {split} rows",
        corner="model",
        columns=["kind", *([EFFECTIVE] if has_sums else []), *titles, *matched],
        sections=[("", rows)],
        foot=_foot(points, task),
    )


def brief_points_table(results: SweepResults, points: Sequence[PointResult]) -> Table:
    """The same for a terminal: by the metrics' names, intervals of the headline alone."""
    task = results.task
    metrics = metrics_of(points, task, results.selected.rule)
    headline = [each for each in metrics if isinstance(each, MultiMetric) or each.headline]
    others = [metric for metric in metrics if metric not in headline]
    gaps = () if is_of_views(points, task) else tuple(HEADLINE_GAPS)
    has_sums, rows = _has_sums(points), []
    for point in points:
        evaluation = point.evaluations.get(task)
        if evaluation is None:
            rows.append(_error_row(point))
            continue
        cells = [interval_cell(point.interval(metric.name)) for metric in headline]
        is_matched = isinstance(evaluation, Evaluation) and evaluation.level_matched is not None
        cells += [
            Cell(value_text(point.value(f"level_matched.{name}")) if is_matched else "")
            for name in gaps
        ]
        cells += [Cell(value_text(point.value(metric.name))) for metric in others]
        effective = [Cell(_effective(point))] if has_sums else []
        rows.append(_point_row(results, point, task, [*effective, *cells]))
    names = [
        *(m.name for m in headline),
        *(f"{n}=" for n in gaps),
        *(m.name for m in others),
    ]
    return Table(
        caption="",
        corner="model",
        columns=[*([EFFECTIVE] if has_sums else []), *names],
        sections=[("", rows)],
        foot=_foot(points, task),
        needed=has_sums + len(headline) + len(gaps),
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


def _has_sums(points: Sequence[PointResult]) -> bool:
    """Whether any point is a sum of task vectors, of which λ_eff says how much is added."""
    return any(point.lambda_eff is not None for point in points)


def _effective(point: PointResult) -> str:
    return "" if point.lambda_eff is None else f"{point.lambda_eff:g}"


def _foot(points: Sequence[PointResult], task: str) -> str:
    """Rows, groups, the labels' own rates, the level of the level-matched figures, and who needs
    group labels to predict."""
    known = (point.evaluations.get(task) for point in points)
    evaluation = next((each for each in known if each is not None), None)
    if evaluation is None:
        return ""
    if isinstance(evaluation, MultiEvaluation):
        return _foot_of_views(evaluation)
    groups = [f"{name} {g.n} ({g.n_pos} positive)" for name, g in evaluation.groups.items()]
    text = (
        f"n = {evaluation.n} rows: {', '.join(groups)}; positive in all "
        f"{value_text(evaluation.labels.base_rate)}; DPD of the labels themselves: "
        f"{value_text(evaluation.labels.dpd)}."
    )
    level = evaluation.level_matched
    if level is not None:
        text += f" Level matched: at the selection rate of {level.to}, {level.rate:.3f}."
    needing = [point.label for point in points if point.needs_groups]
    who = f"by {', '.join(needing)} alone" if needing else "by none of these models"
    return f"{text} Group labels are needed to predict {who}."


def _foot_of_views(evaluation: MultiEvaluation) -> str:
    """Rows, groups, and how often each class or label occurs."""
    views = evaluation.views
    shares = [f"{name} {value_text(view.labels.base_rate)}" for name, view in views.items()]
    first = next(iter(views.values()))
    groups = [f"{name} {group.n}" for name, group in first.groups.items()]
    return (
        f"n = {evaluation.n} rows: {', '.join(groups)}; share of each of the {evaluation.kind}: "
        f"{', '.join(shares)}. Group labels are needed to predict by none of these models."
    )


def comparison_table(comparison: Mapping[str, Mapping[str, DifferenceRecord]]) -> Table:
    """Chosen minus each baseline on the same rows; p corrected where several were looked at."""
    titles = difference_titles(comparison.values())
    rows = [
        Row(f"minus {name}", [difference_cell(gaps.get(key)) for key in titles])
        for name, gaps in comparison.items()
    ]
    is_matched = any(key.startswith(LEVEL) for key in titles)
    return Table(
        caption="Chosen minus baseline, paired on the report rows",
        corner="chosen",
        columns=list(titles.values()),
        sections=[("", rows)],
        foot="Level matched: both at the baseline's selection rate, on these rows." * is_matched,
        needed=sum(key.removeprefix(LEVEL) in (*HEADLINE, *MULTI_METRICS) for key in titles),
    )


def difference_titles(gaps: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Key → title of a column of differences: the headline, the same at equal selection rates
    where any pair has them, and the rest.
    """
    known = {key for each in gaps for key in each}
    if "macro_dpd" in known:  # of classes or labels
        titles = {name: metric.title for name, metric in MULTI_METRICS.items()}
        levels = {f"{LEVEL}{name}": f"{title}, level matched" for name, title in titles.items()}
        return titles | {key: title for key, title in levels.items() if key in known}
    compared = [metric for metric in ordered_metrics() if metric.compared]
    matched = {f"{LEVEL}{name}": f"{METRICS[name].title}, level matched" for name in HEADLINE}
    return {
        **{metric.name: metric.title for metric in compared if metric.headline},
        **{key: title for key, title in matched.items() if key in known},
        **{metric.name: metric.title for metric in compared if not metric.headline},
    }


def groups_table(points: Sequence[PointResult], task: str) -> Table:
    """Size, positives and rates of every group, for each model."""
    evaluations = {
        title: measured
        for point in points
        if task in point.evaluations
        for title, measured in _measurements(point.label, point.evaluations[task])
    }
    parts = {label: group_rows(evaluation) for label, evaluation in evaluations.items()}
    columns = group_columns(evaluations.values())
    sections = [
        (label, [Row(row.head, row.cells[: len(columns)]) for row in rows])
        for label, rows in parts.items()
    ]
    return Table(f"{task}, report rows, by group", "group", columns, sections)


def _measurements(label: str, evaluation: FairEvaluation) -> list[tuple[str, Measurement]]:
    """One; of classes or labels one each, named by it."""
    if isinstance(evaluation, Evaluation):
        return [(label, evaluation)]
    return [(f"{label}, {name}", view) for name, view in evaluation.views.items()]


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
    judged = [*transfer.verdicts, *transfer.tried]
    rows = [Row(one.group, [Cell(one.status), Cell(one.reason)]) for one in judged]
    columns = ["verdict", "reason"]
    return Table("Verdicts", "injected group", columns, [("", rows)], numeric=False)


def transfer_tables(transfer: TransferRecord) -> list[Table]:
    """Injected vectors (rows) against groups of rows (columns); brackets: decides no verdict."""
    tables = []
    for key, title in CHANGES.items():
        rows = [
            Row(
                f"+ {name}",
                [transfer_cell(transfer, key, g, h) for h in range(len(transfer.groups))],
            )
            for g, name in enumerate(transfer.injected)
        ]
        caption = title[0].upper() + title[1:] + (" (soft rates)" * (transfer.rates == "soft"))
        tables.append(Table(caption, "injected vector", group_labels(transfer), [("", rows)]))
    return tables


def transfer_cell(transfer: TransferRecord, key: str, g: int, h: int) -> Cell:
    """What injecting the g-th vector does to the h-th group; strong where the verdict is that it
    is unsafe, and this is a harm beyond the tolerance.
    """
    entry = transfer.change[key].at(g, h)
    worst = entry.low if WORSE[key] > 0 else entry.high
    is_harm = worst is not None and WORSE[key] * worst > transfer.tolerance
    decides = list(transfer.groups.values())[h].decides
    is_unsafe = transfer.verdicts[g].status == "unsafe"
    return interval_cell(entry, "+", strong=is_unsafe and decides and is_harm)


def added_text(transfer: TransferRecord) -> str:
    """`0.2 Female, 0.1 Male`: the λ of what the greedy search has added."""
    return ", ".join(f"{value:g} {name}" for name, value in transfer.added.items()) or "nothing"


def group_labels(transfer: TransferRecord) -> list[str]:
    """`Female n=700`; in brackets a group that decides no verdict."""
    texts = {f"{name} n={group.n}": group.decides for name, group in transfer.groups.items()}
    return [text if decides else f"({text})" for text, decides in texts.items()]


def results_csv(results: SweepResults) -> str:
    """Every point as one CSV row, by the deciding task; undefined values are empty. The last
    columns are what the grid sets beside λ.

    Rows of the report split end with what the chosen point differs from them by.
    """
    of_views = is_of_views([*results.points, *results.report], results.task)
    names = [metric.name for metric in metrics_of(results.points, results.task)]
    matched = [] if of_views else [f"level_matched_{name}" for name in MATCHED]
    headline = tuple(MULTI_METRICS) if of_views else HEADLINE
    columns = ["id", "kind", "label", "split", "lambda", "lambda_eff", "selected"]
    columns += [f"{name}{suffix}" for name in names for suffix in _PARTS]
    columns += [*matched, "degenerate", "saturated", "error", *_difference_columns({}, headline)]
    settings = settings_of_grid(results.points)
    columns += settings
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for points, comparison in ((results.points, {}), (results.report, results.comparison)):
        for point in points:
            row: dict[str, Any] = {name: getattr(point, name) for name in ("id", "kind", "label")}
            row |= {"split": point.split, "lambda": point.lambda_, "lambda_eff": point.lambda_eff}
            row |= {name: point.settings.get(name) for name in settings}
            row |= {"selected": point.id == results.selected.id, "error": point.error}
            evaluation = point.evaluation
            if evaluation is not None:
                row |= {"degenerate": evaluation.degenerate, "saturated": evaluation.saturated}
                for name in names:
                    row |= _columns(name, point.interval(name))
                row |= {name: point.value(name.replace("matched_", "matched.")) for name in matched}
            gaps = comparison.get(compared_as(point.kind, point.label), {})
            row |= _difference_columns(gaps, headline)
            writer.writerow({name: in_spreadsheet(value) for name, value in row.items()})
    return out.getvalue()


def settings_of_grid(points: Sequence[PointResult]) -> list[str]:
    """The numbers that a grid or search sets beside λ, by their names in the sweep file."""
    names = (name for p in points if p.kind in ("merge", "search") for name in p.settings)
    return [name for name in dict.fromkeys(names) if name != "lambda" and INJECTED not in name]


_PARTS = {"": "value", "_low": "low", "_high": "high"}


def _columns(name: str, entry: object) -> dict[str, Any]:
    return {f"{name}{suffix}": getattr(entry, part, None) for suffix, part in _PARTS.items()}


def _difference_columns(
    gaps: Mapping[str, DifferenceRecord], headline: Sequence[str]
) -> dict[str, Any]:
    """`chosen_minus_dpd`, its limits and whether it is claimed; `chosen_minus_level_matched_dpd`;
    the same of every other metric of the headline.
    """
    found: dict[str, Any] = {}
    for name in headline:
        found |= _columns(f"chosen_minus_{name}", gaps.get(name))
        found[f"chosen_minus_{name}_claimed"] = getattr(gaps.get(name), "claimed", None)
        found |= _columns(f"chosen_minus_level_matched_{name}", gaps.get(f"{LEVEL}{name}"))
    return found
