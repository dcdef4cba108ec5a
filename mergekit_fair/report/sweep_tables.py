"""The tables of a sweep, for the terminal, its page and its card; and its CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mergekit_fair.evaluation.evaluate import Evaluation, FairEvaluation, MultiEvaluation
from mergekit_fair.fairness import HEADLINE, Measurement
from mergekit_fair.fairness.claims import LEVEL
from mergekit_fair.fairness.metric_kinds import Metric
from mergekit_fair.fairness.metrics import GROUP_RATES, HEADLINE_GAPS, METRICS
from mergekit_fair.fairness.one_vs_rest import EVERY_METRIC, MULTI_METRICS, MultiMetric
from mergekit_fair.report.deciding_text import worst_of
from mergekit_fair.report.multi_tables import (
    VIEW_GROUP_COLUMNS,
    overall_differences_table,
    view_group_rows,
)
from mergekit_fair.report.tables import Cell, Row, Table, interval_cell, short, value_text
from mergekit_fair.report.verdict_text import difference_cell
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import DifferenceRecord, SweepResults, TransferRecord, WorstRecord

_WORST_OF = {name: f"worst {metric.title} of" for name, metric in HEADLINE_GAPS.items()}
_NARROW = 3  # figures over classes or labels that a narrow terminal shows, and what the rule names
# Changes of a transfer matrix, and which way they are worse for the group.
WORSE = {"harm": 1, "acc": -1}
EFFECTIVE = "λ_eff"
CHANGES = {"harm": "change of the mean of one-vs-rest DPD and EOD", "acc": "change of accuracy"}


def ordered_metrics(rule: str = "") -> list[Metric]:
    """The headline first, then those that a rule's words name, then the rest."""
    shown = [metric for metric in METRICS.values() if not metric.is_point]
    words = _words(rule)
    return sorted(shown, key=lambda metric: (not metric.headline, metric.name not in words))


def _words(rule: str) -> set[str]:
    return set(rule.replace("/", " ").replace(".", " ").replace(",", " ").split())


def is_of_views(points: Iterable[PointResult], task: str) -> bool:
    """Whether a task has classes or labels, in place of an answer by no or yes."""
    return any(isinstance(point.evaluations.get(task), MultiEvaluation) for point in points)


def metrics_of(
    points: Iterable[PointResult], task: str, rule: str = ""
) -> Sequence[Metric | MultiMetric]:
    """Those of a task that have a column; see `ordered_metrics`. Of classes or labels accuracy,
    what the rule names, and the rest."""
    if not is_of_views(points, task):
        return ordered_metrics(rule)
    words = _words(rule)
    return sorted(MULTI_METRICS.values(), key=lambda m: (m.gap is not None, m.name not in words))


def _gaps_of(points: Iterable[PointResult], task: str) -> tuple[str, ...]:
    """The gaps of a task, which have columns level matched, too."""
    gaps = tuple(name for name, metric in MULTI_METRICS.items() if metric.gap is not None)
    return gaps if is_of_views(points, task) else tuple(HEADLINE_GAPS)


def points_table(
    results: SweepResults, points: Sequence[PointResult], task: str | None = None
) -> Table:
    """One row a point: every metric with its interval, level-matched gaps, marks."""
    task = task or results.task
    metrics = metrics_of(points, task, results.selected.rule)
    titles = [metric.title for metric in metrics]
    titles += _WORST_OF.values() if is_of_views(points, task) else ()
    gaps = _gaps_of(points, task)
    matched = [f"{EVERY_METRIC[name].title}, level matched" for name in gaps]
    has_sums, rows = _has_sums(points), []
    for point in points:
        evaluation = point.evaluations.get(task)
        if evaluation is None:
            rows.append(_error_row(point))
            continue
        cells = [interval_cell(point.interval(f"{task}/{metric.name}")) for metric in metrics]
        cells += _worst_cells(evaluation)
        is_matched = evaluation.level_matched is not None
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
    task, rule = results.task, results.selected.rule
    metrics = metrics_of(points, task, rule)
    headline = [each for each in metrics if isinstance(each, MultiMetric) or each.headline]
    others = [metric for metric in metrics if metric not in headline]
    is_multi, gaps = is_of_views(points, task), _gaps_of(points, task)
    named, read = len(headline), gaps
    last: tuple[str, ...] = ()
    if is_multi:  # what the rule reads first
        named = 1 + sum(m.name in _words(rule) for m in headline if m.name != "acc")
        read = tuple(name for name in gaps if f"{LEVEL}{name}" in rule)
        last = tuple(name for name in gaps if name not in read)
    has_sums, rows = _has_sums(points), []
    for point in points:
        evaluation = point.evaluations.get(task)
        if evaluation is None:
            rows.append(_error_row(point))
            continue
        own = [interval_cell(point.interval(metric.name)) for metric in headline]
        matched = {name: _matched_cell(point, evaluation, name) for name in gaps}
        cells = [*own[:named], *(matched[name] for name in read), *own[named:]]
        cells += [*_worst_cells(evaluation), *(matched[name] for name in last)]
        cells += [Cell(value_text(point.value(metric.name))) for metric in others]
        effective = [Cell(_effective(point))] if has_sums else []
        rows.append(_point_row(results, point, task, [*effective, *cells]))
    names = [
        *(m.name for m in headline[:named]),
        *(f"{n}=" for n in read),
        *(m.name for m in headline[named:]),
        *(_WORST_OF.values() if is_multi else ()),
        *(f"{n}=" for n in last),
        *(m.name for m in others),
    ]
    return Table(
        caption="",
        corner="model",
        columns=[*([EFFECTIVE] if has_sums else []), *names],
        sections=[("", rows)],
        foot=_foot(points, task),
        needed=has_sums + max(_NARROW, named + len(read)),
    )


def _matched_cell(point: PointResult, evaluation: FairEvaluation, name: str) -> Cell:
    is_matched = evaluation.level_matched is not None
    return Cell(value_text(point.value(f"{LEVEL}{name}")) if is_matched else "")


def _worst_cells(evaluation: FairEvaluation) -> list[Cell]:
    """Of classes or labels: which has the worst gaps, and the groups that make them."""
    if isinstance(evaluation, Evaluation):
        return []
    deciding, views = evaluation.deciding, evaluation.worst_view
    return [Cell(worst_of(views[gap], deciding.get(f"worst_{gap}"))) for gap in _WORST_OF]


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
    level = evaluation.level
    at = "" if level is None else f" Level matched: at the selection rates of {level.to}."
    return (
        f"n = {evaluation.n} rows: {', '.join(groups)}; share of each of the {evaluation.kind}: "
        f"{', '.join(shares)}.{at} Group labels are needed to predict by none of these models."
    )


def comparison_table(comparison: Mapping[str, Mapping[str, DifferenceRecord]]) -> Table:
    """Chosen minus each baseline on the same rows; p corrected where several were looked at."""
    caption = "Chosen minus baseline, paired on the report rows"
    is_matched = any(key.startswith(LEVEL) for gaps in comparison.values() for key in gaps)
    if any("macro_dpd" in gaps for gaps in comparison.values()):
        pairs = {f"minus {name}": gaps for name, gaps in comparison.items()}
        table = overall_differences_table(pairs, "level matched", titled=True, with_p=True)
        foot = "Level matched: both at the baseline's selection rates, on these rows." * is_matched
        return replace(table, caption=caption, corner="chosen", foot=foot)
    titles = difference_titles(comparison.values())
    rows = [
        Row(f"minus {name}", [difference_cell(gaps.get(key)) for key in titles])
        for name, gaps in comparison.items()
    ]
    return Table(
        caption=caption,
        corner="chosen",
        columns=list(titles.values()),
        sections=[("", rows)],
        foot="Level matched: both at the baseline's selection rate, on these rows." * is_matched,
        needed=sum(key.removeprefix(LEVEL) in HEADLINE for key in titles),
    )


def difference_titles(gaps: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Key → title of a column of differences: the headline, the same at equal selection rates
    where any pair has them, and the rest.
    """
    known = {key for each in gaps for key in each}
    compared = [metric for metric in ordered_metrics() if metric.compared]
    matched = {f"{LEVEL}{name}": f"{METRICS[name].title}, level matched" for name in HEADLINE}
    return {
        **{metric.name: metric.title for metric in compared if metric.headline},
        **{key: title for key, title in matched.items() if key in known},
        **{metric.name: metric.title for metric in compared if not metric.headline},
    }


def groups_table(points: Sequence[PointResult], task: str) -> Table:
    """Size, positives and rates of every group, for each model."""
    caption = f"{task}, report rows, by group"
    found = {p.label: p.evaluations[task] for p in points if task in p.evaluations}
    evaluations = {label: each for label, each in found.items() if isinstance(each, Evaluation)}
    of_views = [
        (f"{label}, {short(name)}", view_group_rows(view))
        for label, each in found.items()
        if isinstance(each, MultiEvaluation)
        for name, view in each.views.items()
    ]
    if of_views:
        return Table(caption, "group", VIEW_GROUP_COLUMNS, of_views)
    columns = group_columns(evaluations.values())
    sections = [
        (label, [Row(row.head, row.cells[: len(columns)]) for row in group_rows(evaluation)])
        for label, evaluation in evaluations.items()
    ]
    return Table(caption, "group", columns, sections)


def views_table_of_points(
    results: SweepResults, points: Sequence[PointResult], task: str | None = None
) -> Table:
    """Every class or label by itself: how often each model predicts it, and its gaps."""
    task = task or results.task
    measured = [
        (point, evaluation)
        for point in points
        if isinstance(evaluation := point.evaluations.get(task), MultiEvaluation)
    ]
    first = measured[0][1].views if measured else {}
    sections = []
    for name in first:
        rows = [
            Row(
                point.label,
                [
                    Cell(value_text(evaluation.views[name].metrics["selection_rate"].value)),
                    *(interval_cell(evaluation.views[name].metrics[gap]) for gap in HEADLINE_GAPS),
                ],
                chosen=point.id == results.selected.id,
            )
            for point, evaluation in measured
        ]
        sections.append((short(name), rows))
    split = next((point.split for point in points), "")
    titles = ["selected", *(metric.title for metric in HEADLINE_GAPS.values())]
    caption = f"{task}, {split} rows, each class or label by itself"
    shares = (f"{short(name)} {value_text(of.labels.base_rate)}" for name, of in first.items())
    return Table(caption, "model", titles, sections, foot=f"Base rates: {', '.join(shares)}.")


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
    """May a group's vector be injected, and why; beside it what the sign test says."""
    relations = transfer.relations
    judged = [(relations.get(one.group), one) for one in transfer.verdicts]
    judged += [(None, one) for one in transfer.tried]
    rows = [
        Row(one.group, [Cell(one.status), Cell(relation or "–"), Cell(one.reason)])
        for relation, one in judged
    ]
    columns = ["verdict", "sign test", "reason"]
    return Table("Verdicts", "injected group", columns, [("", rows)], numeric=False)


def sign_test_text(transfer: TransferRecord) -> str | None:
    """How often the sign test, which reads weights alone, says what was measured.

    It allows aligned and unrelated vectors. None where an older sweep has no screening, or nothing
    was proved.
    """
    known = [
        (transfer.relations[one.group] != "contradictory", one.status == "safe")
        for one in transfer.verdicts
        if one.status != "unproven" and transfer.relations.get(one.group) is not None
    ]
    if not known:
        return None
    allowed, right = sum(allows for allows, _ in known), sum(one == two for one, two in known)
    return (
        f"the sign test (cosines with the target, arXiv 2504.10957) allows {allowed} of the "
        f"{len(known)} vectors with a proved verdict, and is right about {right} of them"
    )


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
