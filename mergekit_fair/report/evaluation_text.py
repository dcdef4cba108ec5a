"""One evaluation, and a file of predictions, as text."""

from __future__ import annotations

from typing import Any

from mergekit_fair.escaping import one_line
from mergekit_fair.evaluation.evaluate import (
    AnyEvaluation,
    BenchmarkEvaluation,
    Evaluation,
    MatchedMetrics,
    MultiEvaluation,
)
from mergekit_fair.evaluation.measure_file import FileMeasurement
from mergekit_fair.evaluation.multi_table import MultiFileMeasurement
from mergekit_fair.fairness import METRICS, Measurement, ScoreQuality
from mergekit_fair.fairness.deciding import Deciding
from mergekit_fair.fairness.intervals import Interval
from mergekit_fair.fairness.measurement import Against
from mergekit_fair.fairness.metrics import GROUP_RATES
from mergekit_fair.fairness.one_vs_rest import MultiMeasurement
from mergekit_fair.report.deciding_text import deciding_text, made_by
from mergekit_fair.report.multi_tables import (
    overall_table,
    view_groups_table,
    views_table,
    worst_sentences,
)
from mergekit_fair.report.sweep_tables import (
    group_columns,
    group_rows,
    ordered_metrics,
)
from mergekit_fair.report.tables import Row, Table, as_text, interval_text, value_text

_MANY = 24  # rows by group of classes or labels, at most


def evaluation_text(evaluation: AnyEvaluation) -> str:
    """Metrics with intervals, groups, gaps under the other references, warnings."""
    if isinstance(evaluation, BenchmarkEvaluation):
        return benchmark_text(evaluation)
    if isinstance(evaluation, MultiEvaluation):
        return "\n".join([*_views(_title(evaluation), evaluation), *_view_warnings(evaluation)])
    parts = _body(_title(evaluation), evaluation, evaluation.level_matched)
    return "\n".join([*parts, *_warnings(evaluation)])


def file_text(measured: FileMeasurement | MultiFileMeasurement, *, quiet: bool = False) -> str:
    """The same of a file of predictions.

    Args:
        measured: from `measure_file` or `measure_multi_table`.
        quiet: without warnings.
    """
    title = one_line(
        f"{measured.file}: n = {measured.n}, {measured.reference}, "
        f"{measured.confidence * 100:g} % intervals{_marks(measured)}"
    )
    if isinstance(measured, MultiFileMeasurement):
        parts, said = _views(title, measured), _view_warnings(measured)
    else:
        parts, said = _body(title, measured), _warnings(measured)
    return "\n".join([*parts, *([] if quiet else said)])


def _views(title: str, measured: MultiMeasurement) -> list[str]:
    """Figures over all classes or labels, whose the worst are, then of each, and by group."""
    return [
        title,
        as_text(overall_table(measured)),
        *map(one_line, worst_sentences(measured)),
        "",
        as_text(views_table(measured)),
        "",
        as_text(view_groups_table(measured, _MANY)),
        "",
    ]


def _view_warnings(measured: MultiMeasurement) -> list[str]:
    return [f"warning: {one_line(text)}" for text in measured.all_warnings]


def _body(
    title: str, measured: Evaluation | FileMeasurement, matched: MatchedMetrics | None = None
) -> list[str]:
    scores, threshold = measured.scores, measured.threshold
    parts = [title]
    if threshold is not None:
        of = "probability" if isinstance(measured, Evaluation) else "score"
        parts.append(f"1 is predicted from a {of} of {threshold:.6g} on")
    parts += [_metrics(measured, matched), "", _groups(measured), ""]
    parts += [_against(measured.against), ""] if measured.against is not None else []
    parts += [*_scores(scores), ""] if scores is not None else []
    parts += [one_line(text) for name in measured.uncertainty for text in _sentence(name, measured)]
    return [*parts, _rest(measured)]


def _warnings(measured: Evaluation | FileMeasurement) -> list[str]:
    scores = measured.scores
    every = [*measured.warnings, *(scores.warnings if scores is not None else ())]
    return [f"warning: {one_line(text)}" for text in dict.fromkeys(every)]


def _marks(measured: Measurement | MultiMeasurement, *, saturated: bool = False) -> str:
    marks = [] if measured.clusters is None else [f"{measured.clusters} clusters"]
    marks += ["weighted"] * measured.weighted + ["degenerate"] * measured.degenerate
    marks += ["saturated"] * saturated
    return f" [{', '.join(marks)}]" if marks else ""


def _against(against: Against) -> str:
    """Every group's rates minus those of the chosen one."""
    rates = list(dict.fromkeys(rate for one in against.groups.values() for rate in one))
    rows = [
        [name, *(interval_text(one[rate], "+") for rate in rates)]
        for name, one in against.groups.items()
    ]
    titles = [GROUP_RATES[rate].title for rate in rates]
    return as_text(Table.plain([f"minus {against.group}", *titles], rows))


def _scores(scores: ScoreQuality) -> list[str]:
    """AUC and calibration: all rows and gaps first, then the groups."""
    known = scores.calibration.value is not None
    titles = ["AUC", "BPSN AUC", "BNSP AUC", *(["mean p − mean y"] if known else [])]
    means, blank = scores.power_means, ""
    rows = [
        ["all rows", interval_text(scores.auc), blank, blank, _signed(scores.calibration)],
        *(
            [
                name,
                *(interval_text(auc) for auc in (one.auc, one.bpsn_auc, one.bnsp_auc)),
                _signed(one.calibration),
            ]
            for name, one in scores.groups.items()
        ),
        [
            "max − min",
            *map(interval_text, (scores.auc_gap, scores.bpsn_auc_gap, scores.bnsp_auc_gap)),
            interval_text(scores.calibration_gap),
        ],
        ["power mean", *map(value_text, (means.auc, means.bpsn_auc, means.bnsp_auc)), blank],
    ]
    table = Table.plain(["", *titles], [row[: 1 + len(titles)] for row in rows])
    return [as_text(table), f"AUC and power means combined: {value_text(means.combined)}"]


def _signed(interval: Interval) -> str:
    return interval_text(interval, "+")


def other_text(task: str, results: dict[str, Any]) -> str:
    """lm-eval's own figures of a task that measures no fairness."""
    figures = ", ".join(
        f"{key.split(',')[0]} {value:.4f}"
        for key, value in results.items()
        if "," in key and "_stderr" not in key and isinstance(value, float)
    )
    return one_line(f"{task} (measures no fairness): {figures}")


def benchmark_text(evaluation: BenchmarkEvaluation) -> str:
    """The scores of a benchmark, then those of every group."""
    of_rows = evaluation.if_rows_were_independent
    rows = [
        [
            name,
            interval_text(score),
            *([interval_text(of_rows.get(name, Interval()))] if of_rows else []),
            made_by(evaluation.deciding.get(name, Deciding())),
        ]
        for name, score in evaluation.metrics.items()
    ]
    titles = ["", "value", *(["if rows were independent"] if of_rows else []), ""]
    parts = [_benchmark_title(evaluation), as_text(Table.plain(titles, rows))]
    if evaluation.groups:
        parts += ["", _benchmark_groups(evaluation)]
    return "\n".join([*parts, *(f"warning: {one_line(text)}" for text in evaluation.warnings)])


def _benchmark_title(evaluation: BenchmarkEvaluation) -> str:
    limit = f", a random {evaluation.n}" if evaluation.limit else ""
    clusters = "" if evaluation.clusters is None else f" in {evaluation.clusters} clusters"
    return one_line(
        f"{evaluation.task}, {evaluation.split} split{limit}: {evaluation.model}, "
        f"n = {evaluation.n}{clusters}, {evaluation.confidence * 100:g} % intervals"
    )


def _benchmark_groups(evaluation: BenchmarkEvaluation) -> str:
    groups = evaluation.groups
    names = list(dict.fromkeys(name for one in groups.values() for name in one.metrics))
    is_clustered = evaluation.clusters is not None
    rows = [
        [
            group,
            str(one.n),
            *([str(one.clusters)] if is_clustered else []),
            *(interval_text(one.metrics[name]) for name in names),
        ]
        for group, one in groups.items()
    ]
    return as_text(Table.plain(["group", "n", *(["clusters"] * is_clustered), *names], rows))


def _title(evaluation: Evaluation | MultiEvaluation) -> str:
    limit = f", a random {evaluation.limit}" if evaluation.limit else ""
    shown = _marks(evaluation, saturated=bool(evaluation.saturated))
    return one_line(
        f"{evaluation.task}, {evaluation.split} split{limit}: {evaluation.model}, "
        f"n = {evaluation.n}, {evaluation.reference}, {evaluation.confidence * 100:g} % intervals"
        f"{shown}"
    )


def _metrics(measured: Measurement, matched: MatchedMetrics | None) -> str:
    to = f"at selection rate {matched.rate:.3f} ({matched.to})" if matched is not None else ""
    levels = matched.__pydantic_extra__ if matched is not None else {}
    rows = []
    for metric in ordered_metrics():
        sure = measured.uncertainty.get(metric.name)
        null = sure.null if sure is not None else None
        rows.append(
            [
                metric.name,
                interval_text(measured.metrics.get(metric.name, Interval())),
                "" if null is None else f"{null.high:.3f}",
                interval_text(levels[metric.name]) if metric.name in levels else "",
            ]
        )
    return as_text(Table.plain(["", "value", "by chance <", to], rows))


def _groups(measured: Measurement) -> str:
    columns = group_columns([measured])
    rows = [Row(row.head, row.cells[: len(columns)]) for row in group_rows(measured)]
    return as_text(Table("", "group", columns, [("", rows)]))


def _sentence(name: str, measured: Measurement) -> list[str]:
    """Whose gap it is, and whether it is one; nothing of an undefined gap."""
    title, parts = METRICS[name].title, []
    if name in measured.deciding and not measured.deciding[name].all_alike:
        parts.append(f"is {deciding_text(measured.deciding[name], measured)}")
    differs = measured.uncertainty[name].distinguishable_from_0
    if differs is not None:
        parts.append("differs from 0" if differs else "is not distinguishable from 0")
    return [f"{title} {', and '.join(parts)}."] if parts else []


def _rest(measured: Measurement) -> str:
    others = [
        f"{reference}: dpd {value_text(gaps.dpd)}, eod {value_text(gaps.eod)}"
        for reference, gaps in (
            ("between_groups", measured.between_groups),
            ("to_overall", measured.to_overall),
        )
        if reference != measured.reference
    ]
    rest = measured.one_vs_rest
    for name, gap in (("dpd", rest.dpd), ("eod", rest.eod)):
        worst = f" ({gap.worst_group})" if gap.worst_group else ""
        others.append(
            f"one_vs_rest {name}: macro {value_text(gap.macro)}, "
            f"worst {value_text(gap.worst)}{worst}"
        )
    labels = measured.labels
    others.append(f"labels: positive {value_text(labels.base_rate)}, dpd {value_text(labels.dpd)}")
    return one_line("; ".join(others))
